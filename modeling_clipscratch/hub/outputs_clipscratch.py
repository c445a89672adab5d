"""What the model gives back, in transformers' names and shapes. P is the projection's width."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput


@dataclass
class ClipScratchOutput(ModelOutput):
    """What a `ClipScratchModel` gives for pictures and texts.

    Args:
        loss: scalar, nats; with `return_loss=True` only.
        logits_per_image: (images, texts), scaled cosine similarities.
        logits_per_text: its transpose.
        text_embeds: (texts, P), unit length.
        image_embeds: (images, P), unit length.
        logit_scale: scalar, natural log of the inverse temperature, clamped.
        logit_bias: scalar; with the sigmoid loss only.
        text_model_output: what the text tower gave, `pooler_output` projected, not of unit length.
        vision_model_output: the same for the vision tower.

    >>> output = ClipScratchOutput(logits_per_image=torch.zeros(2, 3))
    >>> output.logits_per_image.softmax(-1)[0]
    tensor([0.3333, 0.3333, 0.3333])
    >>> output.loss is None  # asked for with return_loss=True
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
