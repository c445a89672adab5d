"""Pixels and tokens (or cached states of a frozen tower) go in; unit embeddings, logits and the loss come out.

Shapes: B pairs, T tokens, D pooled state of a tower, P projection.
"""

import logging
import os

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .checks_clipscratch import check_text_tower, check_vision_tower
from .chunks_clipscratch import encode_side
from .configuration_clipscratch import CHOICES, ClipScratchConfig
from .errors_clipscratch import ClipScratchError
from .heads_clipscratch import build_projection, given, unit_length, with_features
from .losses_clipscratch import contrastive_logits, contrastive_loss
from .outputs_clipscratch import ClipScratchOutput
from .processor_clipscratch import build_processor, own_source, processed_size
from .towers_clipscratch import (
    build_tower,
    check_whole,
    describe_towers,
    freeze_tower,
    is_fixed,
    last_blocks,
    load_tower,
    pool,
)

logger = logging.getLogger(__name__)


def _require_grad(layer, inputs, output):
    if torch.is_grad_enabled():
        (output[0] if isinstance(output, tuple) else output).requires_grad_(True)


class ClipScratchModel(PreTrainedModel):
    """Two towers, each pooled, projected and made unit length, and a learned temperature.

    A frozen tower is frozen in four ways: no gradient, so nothing for an optimizer to hold; `eval()` for good, so no
    dropout; and its weights keep their bits.

    >>> model = ClipScratchModel.from_pretrained("runs/digits")
    >>> model.get_text_features(torch.tensor([[2, 5, 3]])).pooler_output.shape
    torch.Size([1, 16])
    """

    config_class = ClipScratchConfig
    base_model_prefix = "clipscratch"
    main_input_name = "input_ids"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _auto_class = "AutoModel"
    accepts_loss_kwargs = False  # read by the Trainer: the loss is a batch mean, not scaled by an item count

    def __init__(self, config):
        super().__init__(config)
        self.text_model = build_tower(config.text_config, config.text_pooling)
        self.vision_model = build_tower(config.vision_config, config.vision_pooling)
        self.text_projection = build_projection(config.text_feature_dim, config)
        self.visual_projection = build_projection(config.vision_feature_dim, config)
        # One number each, but of one dimension, as SigLIP has them: FSDP does not shard what has none.
        self.logit_scale = nn.Parameter(torch.full((1,), float(config.logit_scale_init_value)))
        bias = torch.full((1,), float(config.logit_bias_init_value)) if config.loss == "sigmoid" else None
        self.logit_bias = None if bias is None else nn.Parameter(bias)
        self.post_init()
        self.freeze_towers()

    def get_input_embeddings(self):
        """The text tower's token table, as transformers' CLIP has it."""
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
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        if not output_loading_info:  # who asks for the report looks at it
            check_whole(model.config, report["missing_keys"])
        model.freeze_towers()  # loading makes new parameters that all want gradients
        return (model, report) if output_loading_info else model

    def save_pretrained(self, save_directory, *args, **kwargs):
        # One class can name one auto class only, and from_pretrained changes which; the zero-shot pipeline looks for a
        # second one.
        name = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        self.config.auto_map = dict.fromkeys(("AutoModel", "AutoModelForZeroShotImageClassification"), name)
        # Otherwise some towers (ViT) are written under older names. The Trainer reads a checkpoint's file as it is and
        # would leave those weights out, with a warning at most.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_towers(cls, text, vision, *, tokenizer=None, image_processor=None, **config):
        """Build a model around two towers, with its processor, and log which weights were loaded and which are new.

        Args:
            text: Hub id, folder, config (weights from scratch) or module of the text tower.
            vision: the same for the vision tower.
            tokenizer: Hub id, folder or tokenizer; default that of the text tower's Hub id or folder. It is set to pad
                and truncate on the right, at what the tower reads.
            image_processor: the same for images; default that of the vision tower's Hub id or folder.
            config: further arguments of `ClipScratchConfig`.
        Returns: (model, processor), a `ClipScratchModel` and a `VisionTextDualEncoderProcessor`.
        Raises: ClipScratchError if a tower is no encoder that `AutoModel` knows, its pooled state does not tell its
            inputs apart, or a tower, tokenizer or image processor cannot be found or does not fit the others.

        >>> config = ClipScratchConfig.from_pretrained("runs/digits")
        >>> parts = {"tokenizer": "runs/digits", "image_processor": "runs/digits"}
        >>> model, processor = ClipScratchModel.from_towers(config.text_config, config.vision_config, **parts)
        >>> model.config.projection_dim, processor.tokenizer.padding_side
        (512, 'right')
        """
        if unknown := sorted(set(config) - CHOICES):
            raise ClipScratchError(
                f"{unknown[0]} is not an argument of from_towers; choose from {', '.join(sorted(CHOICES))}."
            )
        settings = ClipScratchConfig(**config)  # what is not among its choices is refused before anything is loaded
        tokenizer = own_source(text, "text", "tokenizer") if tokenizer is None else tokenizer
        if image_processor is None:
            image_processor = own_source(vision, "vision", "image_processor")
        text_tower, text_report = load_tower(text, "text", settings.text_pooling)
        vision_tower, vision_report = load_tower(vision, "vision", settings.vision_pooling)
        processor = build_processor(tokenizer, image_processor, text_tower)
        check_text_tower(text_tower, settings.text_pooling, processor.tokenizer)
        check_vision_tower(vision_tower, settings.vision_pooling, processed_size(processor.image_processor))
        settings.text_config, settings.vision_config = text_tower.config, vision_tower.config
        for part in (settings.text_config, settings.vision_config):  # saved with the model, read by strangers
            if os.path.isdir(part._name_or_path):
                part._name_or_path = os.path.basename(os.path.abspath(part._name_or_path))
        model = cls(settings)
        model.text_model, model.vision_model = text_tower, vision_tower
        model.freeze_towers()
        for line in describe_towers(model, {"text": text_report, "vision": vision_report}):
            logger.info(line)
        return model, processor

    def freeze_towers(self):
        """Applies `freeze_text`, `freeze_vision` and what they except of the config to parameters and modes."""
        for tower, unfrozen_layers in self._frozen_towers():
            freeze_tower(tower, unfrozen_layers)
        self.train(self.training)

    def _frozen_towers(self):
        text = (self.text_model, self.config.unfreeze_text_layers, self.config.freeze_text)
        vision = (self.vision_model, self.config.unfreeze_vision_layers, self.config.freeze_vision)
        return [(tower, unfrozen_layers) for tower, unfrozen_layers, frozen in (text, vision) if frozen]

    def train(self, mode=True):
        super().train(mode)
        for tower, unfrozen_layers in self._frozen_towers():
            tower.eval()
            for block in last_blocks(tower, unfrozen_layers):
                block.train(mode)
        return self

    def enable_input_require_grads(self):
        """Let gradients begin where the first trained layer of each tower reads the output of a frozen one.

        `gradient_checkpointing_enable` calls this, since checkpoints that re-enter autograd (`use_reentrant`) give a
        layer no gradient where its input requires none. transformers' own method lets gradients begin at the
        embeddings, so that frozen layers keep their activations for a backward pass that nothing needs.
        """
        self.disable_input_require_grads()
        self._require_grads_hooks = []
        for tower in (self.text_model, self.vision_model):
            layers = [module for module in tower.modules() if isinstance(module, GradientCheckpointingLayer)]
            trained = [number for number, layer in enumerate(layers) if not is_fixed(layer)]
            if trained and trained[0] > 0:
                self._require_grads_hooks.append(layers[trained[0] - 1].register_forward_hook(_require_grad))

    def text_tower_features(self, input_ids, attention_mask=None, **kwargs):
        """Runs the text tower. Returns (its output, pooled states (B, D))."""
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **kwargs)
        return output, pool(output, attention_mask, self.config.text_pooling, self.config.text_state_norm)

    def vision_tower_features(self, pixel_values, **kwargs):
        """Runs the vision tower on (B, 3, H, W). Returns (its output, pooled states (B, D))."""
        output = self.vision_model(pixel_values=pixel_values, return_dict=True, **kwargs)
        return output, pool(output, None, self.config.vision_pooling, self.config.vision_state_norm)

    @can_return_tuple
    def get_text_features(
        self, input_ids=None, attention_mask=None, text_features=None, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Projected text features, not of unit length, as transformers' `CLIPModel` gives them.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T), 1 for a token to read.
            text_features: (B, D) pooled states from a cache, in place of the two above.
        Returns: `BaseModelOutputWithPooling` whose `pooler_output` is (B, P).
        """
        output = None
        if text_features is None:
            output, text_features = self.text_tower_features(input_ids, attention_mask, **kwargs)
        return with_features(output, self.text_projection(text_features.to(self.logit_scale.dtype)))

    @can_return_tuple
    def get_image_features(self, pixel_values=None, image_features=None, **kwargs) -> BaseModelOutputWithPooling:
        """Projected picture features, not of unit length.

        Args:
            pixel_values: (B, 3, H, W) float.
            image_features: (B, D) pooled states from a cache, in place of the pixels.
        Returns: `BaseModelOutputWithPooling` whose `pooler_output` is (B, P).
        """
        output = None
        if image_features is None:
            output, image_features = self.vision_tower_features(pixel_values, **kwargs)
        return with_features(output, self.visual_projection(image_features.to(self.logit_scale.dtype)))

    def clamped_logit_scale(self):
        """Scalar, natural log of the inverse temperature that the loss uses."""
        return self.logit_scale.squeeze().clamp(max=self.config.logit_scale_max)

    @torch.no_grad()
    def clamp_logit_scale_(self):
        """Brings the parameter itself back to its limit, after an optimizer step, so that it can come down again."""
        self.logit_scale.clamp_(max=self.config.logit_scale_max)

    def logits(self, image_embeds, text_embeds):
        """(images, texts) from unit embeddings: scaled cosines, plus the bias where the loss has one."""
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
        """Both sides, or one alone: its embeddings then come without logits, scale and bias.

        Args:
            input_ids, attention_mask, position_ids, token_type_ids: (B, T); or `text_features`: (B, D) from a cache.
            pixel_values: (B, 3, H, W); or `image_features`: (B, D) from a cache.
            group: (B,) int64, rows of equal group are positives of each other.
            targets: (B, B) weights, in place of `group`.
            return_loss: compute the loss that the config names.
            return_logits: False leaves logits and loss to who has the rest of the batch (other processes).
            encode_chunk_size: rows that a tower encodes at once; their activations are made again for the backward
                pass. The towers' own outputs are not returned then.
        Returns: `ClipScratchOutput`.
        Raises: ClipScratchError if neither side is given, or the loss is wanted of one.
        """
        recorded = given(output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        # Not every text tower knows these two (DistilBERT has no token types).
        known = given(position_ids=position_ids, token_type_ids=token_type_ids)
        images = {"pixel_values": pixel_values, "image_features": image_features}
        texts = {"input_ids": input_ids, "attention_mask": attention_mask, "text_features": text_features, **known}
        vision = encode_side(self.get_image_features, images, encode_chunk_size, recorded, **kwargs)
        text = encode_side(self.get_text_features, texts, encode_chunk_size, recorded)
        image_embeds = None if vision is None else unit_length(vision.pooler_output)
        text_embeds = None if text is None else unit_length(text.pooler_output)
        both = vision is not None and text is not None
        if not both and (return_loss or (vision is None and text is None)):
            raise ClipScratchError("the model needs input_ids or pixel_values, and both for the loss; give them.")
        logits = self.logits(image_embeds, text_embeds) if both and return_logits else None
        loss = None
        if return_loss and return_logits:
            loss = contrastive_loss(logits, loss=self.config.loss, group=group, targets=targets)
        bias = None if self.logit_bias is None else self.logit_bias.squeeze().clone()  # FSDP wants no views
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
