"""Two tower configs and the choices around them go in; one validated `ClipScratchConfig` comes out."""

import inspect
import math

from transformers import AutoConfig, PretrainedConfig
from transformers.utils.versions import require_version

from .errors_clipscratch import ClipScratchError

# Older ones know a ViT's weights by other names only, and would draw those that they miss at random.
require_version("transformers>=5.9", "A ClipScratch folder needs it: pip install -U transformers")

POOLINGS = ("cls", "mean", "cls+mean", "tower")
STATE_NORMS = ("none", "l2")
PROJECTIONS = ("linear", "mlp", "linear+norm")
MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5
LOSSES = ("softmax", "sigmoid", "diagonal")
CODE_KEYS = ("auto_map", "custom_pipelines")  # where transformers looks for code to run
AUTO_MAP = {  # what the `auto_map` of a saved folder names
    "AutoConfig": "configuration_clipscratch.ClipScratchConfig",
    "AutoModel": "modeling_clipscratch.ClipScratchModel",
    "AutoModelForZeroShotImageClassification": "modeling_clipscratch.ClipScratchModel",
}


class ClipScratchConfig(PretrainedConfig):
    """Configuration of a `ClipScratchModel`.

    Args:
        text_config: config of the text tower, or its dict with `model_type`; default DistilBERT-base.
        vision_config: config of the vision tower, or its dict with `model_type`; default ViT-B/16 at 224 pixels.
        projection_dim: P, width of the shared space.
        projection: `linear` (one matrix, no bias), `mlp` (two matrices with a GELU between) or `linear+norm` (one
            matrix, with bias, and a LayerNorm after it).
        text_pooling: tokens to one text state: `cls` (first token), `mean` (over the attention mask), `cls+mean`
            (both, side by side), `tower` (the tower's own `pooler_output`).
        vision_pooling: the same for pictures; `mean` runs over all tokens.
        text_state_norm: `none` or `l2` (unit length), applied to the pooled state before the projection.
        vision_state_norm: the same for pictures.
        freeze_text: the text tower gets no gradient and stays in `eval()`.
        freeze_vision: the same for the vision tower.
        unfreeze_text_layers: last blocks of a frozen text tower that are trained all the same, with what follows them.
        unfreeze_vision_layers: the same for the vision tower.
        loss: `softmax` (soft targets over all positives), `sigmoid` (pairwise, with a learnable bias) or
            `diagonal` (each row's own partner is its only positive).
        logit_scale_init_value: natural log of the first inverse temperature.
        logit_scale_max: natural log that the learned scale is clamped to.
        logit_bias_init_value: first bias of the sigmoid loss.
        initializer_range: standard deviation of new projection weights; `None` takes input width ** -0.5.
        class_names: classes that the model was trained on, in label order; `None` for caption data.
        templates: prompts of the classes in training, with `{}` for the class.

    Raises:
        ClipScratchError: if a choice is not among those above or a number is out of its range.

    Source: Radford et al. 2021, arXiv 2103.00020; bias and sigmoid: Zhai et al. 2023, arXiv 2303.15343.

    >>> config = ClipScratchConfig(text_pooling="cls+mean", projection_dim=64)
    >>> config.text_state_dim, config.vision_state_dim, config.projection_dim
    (1536, 768, 64)
    """

    model_type = "clipscratch"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}
    has_no_defaults_at_init = False
    _auto_class = "AutoConfig"

    def __init__(
        self,
        text_config=None,
        vision_config=None,
        *,
        projection_dim=512,
        projection="linear",
        text_pooling="cls",
        vision_pooling="cls",
        text_state_norm="none",
        vision_state_norm="none",
        freeze_text=True,
        freeze_vision=False,
        unfreeze_text_layers=0,
        unfreeze_vision_layers=0,
        loss="softmax",
        logit_scale_init_value=2.6592,
        logit_scale_max=MAX_LOGIT_SCALE,
        logit_bias_init_value=-10.0,
        initializer_range=None,
        class_names=None,
        templates=None,
        **kwargs,
    ):
        self.text_config = _tower_config(text_config, "text_config", "distilbert")
        self.vision_config = _tower_config(vision_config, "vision_config", "vit")
        self.projection_dim = projection_dim
        self.projection = _one_of("projection", projection, PROJECTIONS)
        self.text_pooling = _one_of("text_pooling", text_pooling, POOLINGS)
        self.vision_pooling = _one_of("vision_pooling", vision_pooling, POOLINGS)
        self.text_state_norm = _one_of("text_state_norm", text_state_norm, STATE_NORMS)
        self.vision_state_norm = _one_of("vision_state_norm", vision_state_norm, STATE_NORMS)
        self.freeze_text = freeze_text
        self.freeze_vision = freeze_vision
        self.unfreeze_text_layers = _layers("text", unfreeze_text_layers, freeze_text)
        self.unfreeze_vision_layers = _layers("vision", unfreeze_vision_layers, freeze_vision)
        self.loss = _one_of("loss", loss, LOSSES)
        self.logit_scale_init_value = logit_scale_init_value
        self.logit_scale_max = logit_scale_max
        self.logit_bias_init_value = logit_bias_init_value
        self.initializer_range = initializer_range
        self.class_names = class_names
        self.templates = templates
        if projection_dim < 1:
            raise ClipScratchError(
                f"projection_dim={projection_dim} is not a positive number of dimensions; choose 512."
            )
        if logit_scale_init_value > logit_scale_max:
            raise ClipScratchError(
                f"logit_scale_init_value={logit_scale_init_value} is above logit_scale_max={logit_scale_max:.4f}; "
                "choose a smaller one (both are natural logarithms)."
            )
        kwargs.pop("without_code", None)  # of `to_dict`
        super().__init__(**kwargs)

    def to_dict(self):
        """Serialize the config. Code that a tower's config names is left out: it would run with the model's own."""
        output = without_foreign_code(super().to_dict())
        # With trust_remote_code=False AutoTokenizer reads config.json as a plain config, and warns of our model type
        # unless some part of the file has a plain config's, which is empty.
        output["without_code"] = {"model_type": ""}
        return output

    @property
    def text_state_dim(self):
        """D of the pooled text state."""
        return tower_width(self.text_config) * (2 if self.text_pooling == "cls+mean" else 1)

    @property
    def vision_state_dim(self):
        """D of the pooled picture state."""
        return tower_width(self.vision_config) * (2 if self.vision_pooling == "cls+mean" else 1)


CHOICES = {  # the arguments that are ours, all but the towers' configs
    name
    for name, parameter in inspect.signature(ClipScratchConfig).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}


def without_foreign_code(settings):
    """Remove the references to code other than `AUTO_MAP`, at any depth.

    Args:
        settings: what a JSON file of a model or a processor holds.
    Returns: a copy.

    >>> without_foreign_code({"auto_map": {"AutoModel": "you/repository--code.Model"}, "dim": 16})
    {'dim': 16}
    """
    if type(settings) is list:
        return [without_foreign_code(value) for value in settings]
    if type(settings) is not dict:
        return settings
    references = settings.get("auto_map")
    known = references if isinstance(references, dict) else {}
    own = {auto: reference for auto, reference in AUTO_MAP.items() if known.get(auto) == reference}
    kept = {
        name: without_foreign_code(value)
        for name, value in settings.items()
        if name not in CODE_KEYS or isinstance(value, int)  # a token's number in a vocabulary
    }
    return kept | ({"auto_map": own} if own else {})


def _tower_config(given, name, default_type):
    if given is None:
        return AutoConfig.for_model(default_type)
    if isinstance(given, dict):
        if "model_type" not in given:
            raise ClipScratchError(f"{name} has no model_type; name one, for example {default_type!r}.")
        settings = dict(given)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)
    return given


def tower_width(config):
    """Return the width of a tower's tokens. Raises: ClipScratchError if its config has no such number."""
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ClipScratchError(
            f"a tower of type {config.model_type} has no hidden_size, one width for all its tokens; choose another, "
            "for example a ViT, DINOv2, BERT or DistilBERT."
        )
    return config.hidden_size


def _layers(side, count, frozen):
    if count < 0:
        raise ClipScratchError(f"unfreeze_{side}_layers={count} is not a number of layers; choose 0 or more.")
    if count and not frozen:
        raise ClipScratchError(
            f"unfreeze_{side}_layers={count} with freeze_{side}=False: the whole tower is trained already; "
            f"set freeze_{side} to True, or leave unfreeze_{side}_layers out."
        )
    return count


def _one_of(name, value, allowed):
    if value not in allowed:
        raise ClipScratchError(f"{name}={value!r} is not one of {', '.join(allowed)}.")
    return value
