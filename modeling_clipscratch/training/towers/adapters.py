"""A frozen tower goes in; low-rank adapters that are trained in its place come out, and are merged at the end."""

import logging

from ...hub.errors_clipscratch import ClipScratchError
from ..recipe.arguments import ModelArguments

logger = logging.getLogger(__name__)


def add_adapters(model, options: ModelArguments) -> list:
    """Puts LoRA (Hu et al. 2021, arXiv 2106.09685) into all linear layers of the towers that ask for it.

    Args:
        options: `text_lora_rank` and `vision_lora_rank`; 0 leaves a tower as it is.
    Returns: peft's handles of the towers, for `merge_adapters`.
    Raises: ClipScratchError if the tower is trained already, or peft is not installed.
    """
    handles = []
    for side, tower in (("text", model.text_model), ("vision", model.vision_model)):
        rank = getattr(options, f"{side}_lora_rank")
        if rank == 0:
            continue
        if rank < 0:
            raise ClipScratchError(f"{side}_lora_rank={rank} is not a rank; choose 0 (none) or more, such as 8.")
        if not getattr(options, f"freeze_{side}") or getattr(options, f"unfreeze_{side}_layers"):
            raise ClipScratchError(
                f"{side}_lora_rank={rank}: the {side} tower's own weights are trained already; set freeze_{side} to "
                f"true and leave unfreeze_{side}_layers out, or leave {side}_lora_rank out."
            )
        handles.append(_with_adapters(tower, rank, side))
        learned = sum(parameter.numel() for parameter in tower.parameters() if parameter.requires_grad)
        logger.info("%s tower: adapters of rank %d, %s more parameters are trained", side, rank, f"{learned:,}")
    return handles


def _with_adapters(tower, rank, side):
    try:
        from peft import LoraConfig, LoraModel  # an extra: most runs do without
    except ImportError as error:
        raise ClipScratchError(f"{side}_lora_rank={rank} needs peft; pip install 'clipscratch[adapters]'.") from error
    # Scaled by 2, as is usual: the update is 2 B A x, and B starts at zero.
    return LoraModel(tower, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"), "default")


def merge_adapters(handles: list) -> None:
    """Adds the learned updates to the towers' weights; then nothing of peft is left in the model."""
    for handle in handles:
        handle.merge_and_unload().requires_grad_(False)
