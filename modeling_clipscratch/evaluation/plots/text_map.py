"""A model, a picture and a text go in; how much each place of the picture speaks for the text comes out.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) with respect to patch tokens inside the vision tower.
Gradients are those of activations, so frozen weights are no hindrance; and they are taken all the way from a picture
without places, since at a cosine near 1 a gradient alone is 0.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, interpolate
from torch.nn.functional import normalize as unit_length

from ...data.images.preprocess import Preprocess, normalize
from ...hub.errors_clipscratch import ClipScratchError
from ...hub.towers_clipscratch import last_blocks
from ..encode import encode_texts

BLOCKS = 4  # from the end; of 1 to 12, the one whose maps agree best with what covering a place costs (docs/log.md)
STEPS = 9  # points on the way, both ends among them; twice as many give the same maps


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

    1. The tokens that go into the fourth block from the end of the vision tower are held. (Behind the last block, a
       model that reads the first token only gives the patch tokens no gradient.)
    2. Patch tokens are moved in steps from their mean, a picture that is the same everywhere, to what they are. The
       mean gradient of the cosine on that way, times the way, summed over the width, is what each place adds to it.
    3. What a place takes from it is cut off, the rest averaged over neighbours where the patches are many, since single
       tokens are noisy, scaled to 1 and enlarged to the picture.

    Args:
        model: with patch tokens, `get_image_features` and `get_text_features`; frozen or not.
        processor: with `.tokenizer` and `.image_processor`.
        image: PIL picture or uint8 array (H, W, 3).
        text: any.
    Returns: ((h, w) float32 in [0, 1] over the picture as the tower reads it, the cosine). All 0 where nothing speaks
        for the text.
    Raises: ClipScratchError if the vision tower has no token for each patch.
    """
    preprocess = Preprocess(processor.image_processor)
    pixels = torch.tensor(preprocess(image))[None]
    text_embeds = encode_texts(model, processor.tokenizer, [text], say_cut=False).to(model.device)
    lines, columns = patch_grid(model, tuple(pixels.shape[1:3]))
    patches = lines * columns
    held = []

    def walk(block, given):
        tokens = given[0].detach()
        if tokens.ndim != 3 or tokens.shape[1] < patches:
            raise ClipScratchError(
                f"the vision tower has tokens {tuple(tokens.shape)} for {patches} patches, so they have no places in "
                "the picture; maps need a tower like ViT, CLIP's or DINOv2."
            )
        way = torch.zeros_like(tokens)  # the class token and registers, which come first, stay as they are
        way[:, -patches:] = tokens[:, -patches:] - tokens[:, -patches:].mean(1, keepdim=True)
        left = torch.linspace(1, 0, STEPS, dtype=tokens.dtype, device=tokens.device)
        held[:] = (tokens - left[:, None, None] * way).requires_grad_(), way
        return (held[0], *given[1:])

    dtype = next(model.vision_model.parameters()).dtype
    modes = [(module, module.training) for module in model.modules()]
    blocks = min(BLOCKS, model.config.vision_config.num_hidden_layers)
    hook = last_blocks(model.vision_model, blocks)[0].register_forward_pre_hook(walk)
    try:
        model.eval()
        with torch.enable_grad():
            pixel_values = normalize(pixels.to(model.device), preprocess.mean, preprocess.std).to(dtype)
            features = model.get_image_features(pixel_values=pixel_values).pooler_output
            cosines = unit_length(features.float(), dim=-1) @ text_embeds[0]
            (gradients,) = torch.autograd.grad(cosines.sum(), held[0])
    finally:
        hook.remove()
        for module, mode in modes:
            module.training = mode
    mean = torch.trapezoid(gradients.float(), dim=0) / (STEPS - 1)
    shares = (mean * held[1][0].float()).sum(-1)[-patches:]
    heat = shares.clamp(min=0).view(1, 1, lines, columns)
    reach = min(lines, columns) // 10  # 3 x 3 of 14 x 14 patches, none of 4 x 4
    heat = avg_pool2d(heat, 2 * reach + 1, stride=1, padding=reach)
    heat = heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)
    heat = interpolate(heat, size=tuple(pixels.shape[1:3]), mode="bilinear", align_corners=False)
    return heat[0, 0].cpu().numpy(), cosines[-1].item()


def patch_grid(model, image_size: tuple[int, int]) -> tuple[int, int]:
    """Lines and columns of the patches of a picture (height, width)."""
    size = model.config.vision_config.to_dict().get("patch_size")
    if not isinstance(size, int):
        raise ClipScratchError(
            f"a {model.config.vision_config.model_type} tower has patch_size={size}, so its tokens have no places in "
            "the picture; maps need a tower like ViT, CLIP's or DINOv2."
        )
    return image_size[0] // size, image_size[1] // size
