"""A model, a picture and a text go in; how much each place of the picture speaks for the text comes out.

Gradient times activation of the patch tokens, as Grad-CAM does it for convolutions (Selvaraju et al. 2017,
arXiv 1610.02391), over the later half of the blocks. Gradients are those of activations, so frozen weights are no
hindrance.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.functional import normalize as unit_length

from ..data.pixels import Preprocess, normalize
from ..hub.towers_clipscratch import last_blocks
from .encode import encode_texts


@dataclass(frozen=True, kw_only=True)
class TextMap:
    """
    Args:
        row: number of the picture in its rows.
        picture: uint8 (h, w, 3), as the tower reads it.
        text: what was looked for.
        what: what that text is to the picture, in a word or two.
        heat: (h, w) in [0, 1], 1 where the picture speaks most for the text.
        cosine: of the picture and the text.
    """

    row: int
    picture: np.ndarray
    text: str
    what: str = ""
    heat: np.ndarray
    cosine: float


def text_map(model, processor, image, text: str) -> tuple[np.ndarray, float]:
    """Where a picture speaks for a text.

    1. The tokens that go into each block of the later half of the vision tower are held. (Behind the last block, a
       model that reads the first token only gives the patch tokens no gradient.)
    2. For each of them, the gradient of the cosine times what sets the token apart from the mean patch, summed over the
       width: what the cosine would lose, to first order, if the place looked like the rest of the picture.
    3. Summed over the blocks; what speaks against the text is cut off, the rest averaged over neighbours where the
       patches are many, since single tokens are noisy, scaled to 1 and enlarged to the picture.

    Args:
        model: with patch tokens, `get_image_features` and `get_text_features`; frozen or not.
        processor: with `.tokenizer` and `.image_processor`.
        image: PIL picture or uint8 array (H, W, 3).
        text: any.
    Returns: ((h, w) float32 in [0, 1] over the picture as the tower reads it, the cosine). All 0 where nothing speaks
        for the text.
    Raises: ValueError if the vision tower has no token for each patch.
    """
    preprocess = Preprocess(processor.image_processor)
    pixels = torch.tensor(preprocess(image))[None]
    text_embeds = encode_texts(model, processor.tokenizer, [text], say_cut=False).to(model.device)
    lines, columns = patch_grid(model, tuple(pixels.shape[1:3]))
    held = []

    def hold(block, given):
        # The first of them begins the graph: no weight needs a gradient for it.
        held.append(given[0] if held else given[0].detach().requires_grad_())
        return (held[-1], *given[1:])

    dtype = next(model.vision_model.parameters()).dtype
    modes = [(module, module.training) for module in model.modules()]
    blocks = last_blocks(model.vision_model, -(-model.config.vision_config.num_hidden_layers // 2))
    hooks = [block.register_forward_pre_hook(hold) for block in blocks]
    try:
        model.eval()
        with torch.enable_grad():
            pixel_values = normalize(pixels.to(model.device), preprocess.mean, preprocess.std).to(dtype)
            features = model.get_image_features(pixel_values=pixel_values).pooler_output
            cosine = (unit_length(features.float(), dim=-1) * text_embeds).sum()
            gradients = torch.autograd.grad(cosine, held)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode
    shares = [_shares(tokens, found, lines * columns) for tokens, found in zip(held, gradients, strict=True)]
    heat = torch.stack(shares).sum(0).clamp(min=0).view(1, 1, lines, columns)
    reach = min(lines, columns) // 10  # 3 x 3 of 14 x 14 patches, none of 4 x 4
    heat = avg_pool2d(heat, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
    heat = heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)
    heat = interpolate(heat, size=tuple(pixels.shape[1:3]), mode="bilinear", align_corners=False)
    return heat[0, 0].cpu().numpy(), cosine.item()


def _shares(tokens, gradient, patches):
    """(1, T, D) tokens and their gradient -> (patches,); other tokens (class, registers) come before the patches."""
    if tokens.ndim != 3 or tokens.shape[1] < patches:
        raise ValueError(
            f"the vision tower has tokens {tuple(tokens.shape)} for {patches} patches, so they have no places in the "
            "picture; maps need a tower like ViT, CLIP's or DINOv2."
        )
    tokens, gradient = tokens.detach()[0, -patches:].float(), gradient[0, -patches:].float()
    return ((tokens - tokens.mean(0)) * gradient).sum(-1)


def patch_grid(model, image_size: tuple[int, int]) -> tuple[int, int]:
    """Lines and columns of the patches of a picture (height, width)."""
    size = model.config.vision_config.to_dict().get("patch_size")
    if not isinstance(size, int):
        raise ValueError(
            f"a {model.config.vision_config.model_type} tower has patch_size={size}, so its tokens have no places in "
            "the picture; maps need a tower like ViT, CLIP's or DINOv2."
        )
    return image_size[0] // size, image_size[1] // size
