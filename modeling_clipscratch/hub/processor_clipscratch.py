"""Load the tokenizer and the image processor of two towers."""

from transformers import AutoTokenizer, ImageProcessingMixin, PreTrainedTokenizerBase
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # `transformers` asks for torchvision

from .configuration_clipscratch import without_foreign_code
from .errors_clipscratch import ClipScratchError
from .towers_clipscratch import one_line


def load_tokenizer(source):
    """Load a tokenizer (`source` may be one), and make it pad and truncate on the right, and only when it is asked to.

    Towers number positions from the left, and training pads on the right. Token types are left out: some towers take
    none, and all of one text are the same.
    """
    tokenizer = source
    if not isinstance(source, PreTrainedTokenizerBase):
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ClipScratchError(
                f"tokenizer {str(source)!r} could not be loaded; give a folder that has one, correct the id, or "
                "connect."
            ) from error
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ClipScratchError(
                f"tokenizer {tokenizer.name_or_path!r} has no token to pad with; give it a pad_token and save it."
            )
        tokenizer.pad_token = tokenizer.eos_token
    settings = {"padding_side": "right", "truncation_side": "right"}
    for name, value in {**settings, "model_input_names": ["input_ids", "attention_mask"]}.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value  # these are saved
    # Set by a tokenizer.json with padding or truncation; a processor would pass them to the tokenizer.
    for name in ("max_length", "stride", "truncation_strategy", "pad_to_multiple_of"):
        tokenizer.init_kwargs.pop(name, None)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def load_image_processor(source):
    """Load an image processor with the PIL back-end (`source` may be one), and make it convert images to RGB."""
    processor = source
    if not isinstance(source, ImageProcessingMixin):
        try:
            processor = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
        except (OSError, ImportError, ValueError) as error:
            raise ClipScratchError(
                f"image processor {str(source)!r} could not be loaded ({one_line(error)[:300]}); give a folder that "
                "has a preprocessor_config.json, correct the id, or connect."
            ) from error
    processor.do_convert_rgb = True  # users of the saved processor may have grey or transparent images
    return processor


def forget_code(processor):
    """Remove references to code from a processor, tokenizer or image processor, so that they are not saved with it."""
    for part in (processor, *vars(processor).values()):
        if getattr(part, "_auto_class", None) is not None:
            raise ClipScratchError(
                f"{type(part).__name__} is a class with code of its own ({type(part).__module__}), which does not "
                "travel with the model; give a tokenizer and an image processor of transformers' own classes."
            )
        if isinstance(part, PreTrainedTokenizerBase):
            part.init_kwargs = without_foreign_code(part.init_kwargs)
        elif isinstance(part, ImageProcessingMixin):
            part.__dict__ = without_foreign_code(vars(part))
    return processor
