"""ClipScratch: a text tower and a vision tower, projected to a shared space and trained with a contrastive loss.

Shapes: B pairs, T tokens, D pooled features of a tower, P width of the shared space.
"""

import logging
import os
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel, VisionTextDualEncoderProcessor
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput, can_return_tuple

from .checks_clipscratch import check_text_tower, check_vision_tower
from .chunks_clipscratch import in_chunks
from .configuration_clipscratch import CHOICES, ClipScratchConfig
from .errors_clipscratch import ClipScratchError
from .losses_clipscratch import contrastive_logits, contrastive_loss, unit_length
from .processor_clipscratch import forget_code, load_image_processor, load_tokenizer
from .towers_clipscratch import (
    build_tower,
    describe_model,
    first_position,
    freeze_tower,
    last_blocks,
    load_tower,
    pool,
)

logger = logging.getLogger(__name__)


@dataclass
class ClipScratchOutput(ModelOutput):
    """Output of a `ClipScratchModel`.

    Args:
        loss (`torch.Tensor` scalar): Contrastive loss in nats, with `return_loss=True`.
        logits_per_image (`torch.Tensor` of shape `(images, texts)`): Scaled cosine similarities.
        logits_per_text (`torch.Tensor` of shape `(texts, images)`): Its transpose.
        text_embeds (`torch.Tensor` of shape `(texts, P)`): Embeddings of unit length.
        image_embeds (`torch.Tensor` of shape `(images, P)`): Embeddings of unit length.
        logit_scale (`torch.Tensor` scalar): Natural logarithm of the inverse temperature, clamped.
        logit_bias (`torch.Tensor` scalar): With the sigmoid loss.
        text_model_output (`BaseModelOutputWithPooling`): Output of the text tower. Its `pooler_output` is projected,
            not of unit length.
        vision_model_output (`BaseModelOutputWithPooling`): The same for the vision tower.

    >>> output = ClipScratchOutput(logits_per_image=torch.zeros(2, 3))
    >>> output.logits_per_image.softmax(-1)[0]
    tensor([0.3333, 0.3333, 0.3333])
    >>> output.loss is None
    True
    """

    loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    logit_bias: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self):
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


class ClipScratchModel(PreTrainedModel):
    """Two towers, each pooled, projected and scaled to unit length, and a learned temperature.

    A frozen tower gets no gradients, stays in `eval()` and keeps its weights to the bit.

    Args:
        config (`ClipScratchConfig`): Configuration of the model. The weights are new; `from_pretrained` loads a saved
            model, `from_towers` builds one around pretrained towers.

    >>> model = ClipScratchModel.from_pretrained("runs/digits")
    >>> model.get_text_features(torch.tensor([[2, 5, 3]])).pooler_output.shape == (1, model.config.projection_dim)
    True
    """

    config_class = ClipScratchConfig
    base_model_prefix = "clipscratch"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    accepts_loss_kwargs = False  # read by the Trainer: the loss is a batch mean, not scaled by an item count

    def __init__(self, config):
        super().__init__(config)
        self.text_model = build_tower(config.text_config, config.text_pooling)
        self.vision_model = build_tower(config.vision_config, config.vision_pooling)
        self.text_projection = _projection(config.text_feature_dim, config)
        self.visual_projection = _projection(config.vision_feature_dim, config)
        # One number each, but of one dimension, as in SigLIP: FSDP does not shard scalars.
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init_value)))
        bias = torch.full((1,), float(config.logit_bias_init_value)) if config.loss == "sigmoid" else None
        self.logit_bias = None if bias is None else nn.Parameter(bias)
        self.post_init()
        self.freeze_towers()

    def get_input_embeddings(self):
        """Return the text tower's token table, as transformers' CLIP does."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value):
        self.text_model.set_input_embeddings(value)

    @torch.no_grad()
    def _init_weights(self, module):
        if module is self:
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)
            if module.logit_bias is not None:
                init.constant_(module.logit_bias, module.config.logit_bias_init_value)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=self.config.initializer_range or module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(cls, *args, output_loading_info=False, **kwargs):
        """Load a saved model as `PreTrainedModel.from_pretrained` does, but raise if weights are missing.

        transformers would initialise them at random. With `output_loading_info`, that is left to the caller.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        missing = sorted(info["missing_keys"])
        if missing and not output_loading_info:
            raise ClipScratchError(
                f"{len(missing)} of the model's weights are not in its file under the names that this transformers "
                f"knows, {missing[0]} for one; load it with transformers {model.config.transformers_version}, which "
                "saved it, or save it again where it was trained."
            )
        model.freeze_towers()  # loading replaces parameters by new ones, which require gradients
        return (model, info) if output_loading_info else model

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save the model with its code, for `AutoModel.from_pretrained(..., trust_remote_code=True)`."""
        # A class can name one auto class only, and from_pretrained changes which; the zero-shot pipeline looks for a
        # second one.
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        self.config.auto_map = dict.fromkeys(("AutoModel", "AutoModelForZeroShotImageClassification"), name)
        # By default some towers (ViT) are written under older names. The Trainer reads a checkpoint's file as it is and
        # would leave those weights out, with a warning at most.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_towers(cls, text, vision, *, tokenizer=None, image_processor=None, **config):
        """Build a model around two towers, with its processor, and log their origins and sizes.

        Args:
            text (`str`, `PretrainedConfig` or `nn.Module`): Hub id, folder, config (new weights) or module of the text
                tower.
            vision (`str`, `PretrainedConfig` or `nn.Module`): The same for the vision tower.
            tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): Hub id, folder or tokenizer. Default: that of
                the text tower's Hub id or folder. It is set to pad and truncate on the right, at the number of tokens
                that the tower reads.
            image_processor (`str` or `BaseImageProcessor`, *optional*): Hub id, folder or image processor. Default:
                that of the vision tower's Hub id or folder.
            config: Further arguments of `ClipScratchConfig`.

        Returns:
            (model, processor), a `ClipScratchModel` and a `VisionTextDualEncoderProcessor`.

        Raises:
            ClipScratchError: If a tower is no encoder that `AutoModel` knows, its pooled features do not depend on its
                input, or a tower, tokenizer or image processor cannot be found or does not fit the others.

        >>> config = ClipScratchConfig.from_pretrained("runs/digits")
        >>> parts = {"tokenizer": "runs/digits", "image_processor": "runs/digits"}
        >>> model, processor = ClipScratchModel.from_towers(config.text_config, config.vision_config, **parts)
        >>> model.config.projection_dim, processor.tokenizer.padding_side
        (512, 'right')
        """
        if unknown := sorted(set(config) - CHOICES):
            raise ClipScratchError(f"{unknown[0]} is none of the config's arguments: {', '.join(sorted(CHOICES))}.")
        config = ClipScratchConfig(**config)  # a wrong choice is refused before anything is loaded
        tokenizer = getattr(text, "name_or_path", text) if tokenizer is None else tokenizer
        if image_processor is None:
            image_processor = getattr(vision, "name_or_path", vision)
        text_tower = load_tower(text, "text", config.text_pooling)
        vision_tower = load_tower(vision, "vision", config.vision_pooling)
        tokenizer, image_processor = load_tokenizer(tokenizer), load_image_processor(image_processor)
        longest = text_tower.config.max_position_embeddings - first_position(text_tower)
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        check_text_tower(text_tower, config.text_pooling, tokenizer)
        check_vision_tower(vision_tower, config.vision_pooling, image_processor)
        processor = VisionTextDualEncoderProcessor(image_processor=image_processor, tokenizer=tokenizer)
        config.text_config, config.vision_config = text_tower.config, vision_tower.config
        for part in (config.text_config, config.vision_config):  # saved with the model, maybe published
            if os.path.isdir(part.name_or_path):
                part.name_or_path = os.path.basename(os.path.abspath(part.name_or_path))
        model = cls(config)
        model.text_model, model.vision_model = text_tower, vision_tower
        model.freeze_towers()
        for line in describe_model(model):
            logger.info(line)
        return model, forget_code(processor)

    def freeze_towers(self):
        """Apply the config's `freeze_*` and `unfreeze_*_layers` to parameters and modes."""
        for tower, unfrozen_layers in self._frozen_towers():
            freeze_tower(tower, unfrozen_layers)
        self.train(self.training)

    def _frozen_towers(self):
        sides = [side for side in ("text", "vision") if getattr(self.config, f"freeze_{side}")]
        return [(getattr(self, f"{s}_model"), getattr(self.config, f"unfreeze_{s}_layers")) for s in sides]

    def train(self, mode=True):
        super().train(mode)
        for tower, unfrozen_layers in self._frozen_towers():
            tower.eval()
            for block in last_blocks(tower, unfrozen_layers):
                block.train(mode)
        return self

    def enable_input_require_grads(self):
        """Do nothing: with gradients at the embeddings, frozen layers would keep activations for no use."""

    def text_tower_features(self, input_ids, attention_mask=None, **kwargs):
        """Run the text tower and pool its tokens.

        Returns:
            The tower's output, and pooled features (B, D), which `get_text_features` takes as `text_features`.
        """
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        return output, pool(output, attention_mask, self.config.text_pooling, self.config.text_state_norm)

    def vision_tower_features(self, pixel_values, **kwargs):
        """Run the vision tower on (B, 3, H, W) and pool its tokens; see `text_tower_features`."""
        output = self.vision_model(pixel_values=pixel_values, return_dict=True, **kwargs)
        return output, pool(output, None, self.config.vision_pooling, self.config.vision_state_norm)

    @can_return_tuple
    def get_text_features(
        self, input_ids=None, attention_mask=None, text_features=None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Project texts to the shared space, not to unit length, as transformers' `CLIPModel` does.

        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(B, T)`): Token ids, and 1 for those to read.
            text_features (`torch.Tensor` of shape `(B, D)`): Features of `text_tower_features`, in place of both.

        Returns:
            `BaseModelOutputWithPooling` whose `pooler_output` is (B, P).
        """
        output = None
        if text_features is None:
            output, text_features = self.text_tower_features(input_ids, attention_mask, **kwargs)
        return _with_features(output, self.text_projection(text_features.to(self.logit_scale.dtype)))

    @can_return_tuple
    def get_image_features(self, pixel_values=None, image_features=None, **kwargs) -> BaseModelOutputWithPooling:
        """Project images to the shared space, as `get_text_features` does texts.

        Args:
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): Images.
            image_features (`torch.Tensor` of shape `(B, D)`): Features of `vision_tower_features`, in their place.
        """
        output = None
        if image_features is None:
            output, image_features = self.vision_tower_features(pixel_values, **kwargs)
        return _with_features(output, self.visual_projection(image_features.to(self.logit_scale.dtype)))

    def clamped_logit_scale(self):
        """Return the natural logarithm of the inverse temperature that the loss uses, a scalar."""
        return self.logit_scale.squeeze().clamp(max=self.config.logit_scale_max)

    @torch.no_grad()
    def clamp_logit_scale_(self):
        """Clamp the parameter itself, after an optimizer step, so that it can fall again."""
        self.logit_scale.clamp_(max=self.config.logit_scale_max)

    def logits(self, image_embeds, text_embeds):
        """Compute (images, texts) scaled cosines of unit embeddings, plus the bias of the sigmoid loss."""
        return contrastive_logits(image_embeds, text_embeds, self.clamped_logit_scale(), self.logit_bias)

    @can_return_tuple
    def forward(
        self,
        input_ids=None,
        pixel_values=None,
        attention_mask=None,
        position_ids=None,
        token_type_ids=None,
        text_features=None,
        image_features=None,
        group=None,
        targets=None,
        return_loss=None,
        return_logits=True,
        encode_chunk_size=None,
        output_attentions=None,
        output_hidden_states=None,
        **kwargs,
    ) -> ClipScratchOutput:
        """Embed images and texts and compare them; of one side alone, return the embeddings.

        Args:
            input_ids (`torch.Tensor` of shape `(B, T)`): Token ids; with `attention_mask` and, for towers that have
                them, `position_ids` and `token_type_ids` of the same shape.
            pixel_values (`torch.Tensor` of shape `(B, 3, H, W)`): Images.
            text_features (`torch.Tensor` of shape `(B, D)`): Cached features in place of the text inputs.
            image_features (`torch.Tensor` of shape `(B, D)`): Cached features in place of `pixel_values`.
            group (`torch.Tensor` of shape `(B,)`): Integers; rows of equal group are positives of each other.
            targets (`torch.Tensor` of shape `(B, B)`): Weights of the pairs, in place of `group`.
            return_loss (`bool`): Compute the loss that the config names.
            return_logits (`bool`, defaults to `True`): `False` leaves logits and loss to the caller, who has the rest
                of the batch (of other processes).
            encode_chunk_size (`int`): Rows that a tower encodes at once; they are encoded again in the backward pass.
                The towers' own outputs are not returned then.
            kwargs: Further arguments of the vision tower.

        Raises:
            ClipScratchError: If there is no input, or `return_loss` with one side alone.
        """
        recorded = _not_none(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        # Not every text tower takes these two (DistilBERT has no token types).
        extra = _not_none(position_ids=position_ids, token_type_ids=token_type_ids)
        images = {"pixel_values": pixel_values, "image_features": image_features}
        texts = {"input_ids": input_ids, "attention_mask": attention_mask, "text_features": text_features, **extra}
        vision = self._encode(self.get_image_features, images, encode_chunk_size, **recorded, **kwargs)
        text = self._encode(self.get_text_features, texts, encode_chunk_size, **recorded)
        image_embeds = None if vision is None else unit_length(vision.pooler_output)
        text_embeds = None if text is None else unit_length(text.pooler_output)
        both = vision is not None and text is not None
        if not both and (return_loss or (vision is None and text is None)):
            raise ClipScratchError("the model needs input_ids or pixel_values, and both for the loss; give them.")
        logits = self.logits(image_embeds, text_embeds) if both and return_logits else None
        loss = None
        if return_loss and return_logits:
            loss = contrastive_loss(logits, loss=self.config.loss, group=group, targets=targets)
        bias = None if self.logit_bias is None else self.logit_bias.squeeze().clone()  # FSDP forbids views
        return ClipScratchOutput(
            loss=loss,
            logits_per_image=logits,
            logits_per_text=None if logits is None else logits.t(),
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            logit_scale=self.clamped_logit_scale() if both else None,
            logit_bias=bias if both else None,
            text_model_output=text,
            vision_model_output=vision,
        )

    def _encode(self, get_features, inputs, chunk_size, **options):
        if all(value is None for name, value in inputs.items() if name != "attention_mask"):
            return None
        if chunk_size is None:
            return get_features(**inputs, return_dict=True, **options)

        def encode(**chunk):
            return get_features(**chunk, return_dict=True, **options).pooler_output

        return _with_features(None, in_chunks(encode, inputs, chunk_size, device=self.device))


ClipScratchModel.register_for_auto_class("AutoModel")  # save_pretrained then copies the code into the folder


def _projection(width, config):
    """Build the head that projects features `width` wide; see `ClipScratchConfig.projection`."""
    if config.projection == "linear":
        return nn.Linear(width, config.projection_dim, bias=False)
    hidden = nn.Linear(width, config.projection_dim)
    if config.projection == "linear+norm":
        return nn.Sequential(hidden, nn.LayerNorm(config.projection_dim))
    return nn.Sequential(hidden, nn.GELU(), nn.Linear(config.projection_dim, config.projection_dim))


def _with_features(output, features):
    """Return a tower's output with (B, P) `features` as its `pooler_output`."""
    # A new object: DistilBERT's output has no such field, and DDP builds outputs anew from their fields.
    output = {} if output is None else output
    kept = {name: output.get(name) for name in ("last_hidden_state", "hidden_states", "attentions")}
    return BaseModelOutputWithPooling(pooler_output=features, **kept)


def _not_none(**options):
    return {name: value for name, value in options.items() if value is not None}
