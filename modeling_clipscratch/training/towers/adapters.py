"""Train low-rank adapters in a frozen tower, and merge them into its weights at the end."""

import logging

from ...utils.errors import ClipScratchError
from ..recipe.arguments import ModelArguments

logger = logging.getLogger(__name__)


def add_adapters(model, options: ModelArguments) -> list:
    """Add LoRA (Hu et al. 2021, arXiv 2106.09685) to all linear layers of the towers whose rank is above 0.

    Returns peft's models of the towers, for `merge_adapters`.
    """
    adapters = []
    for side, tower in (("text", model.text_model), ("vision", model.vision_model)):
        rank = getattr(options, f"{side}_lora_rank")
        if rank == 0:
            continue
        if not getattr(options, f"freeze_{side}") or getattr(options, f"unfreeze_{side}_layers"):
            raise ClipScratchError(
                f"{side}_lora_rank={rank}: the {side} tower's own weights are trained already; set freeze_{side} to "
                f"true and leave unfreeze_{side}_layers out, or leave {side}_lora_rank out."
            )
        try:
            from peft import LoraConfig, LoraModel  # an extra: most runs do without
        except ImportError as error:
            message = f"{side}_lora_rank={rank} needs peft; pip install 'clipscratch[adapters]'."
            raise ClipScratchError(message) from error
        # Scaled by 2, as is usual: the update is 2 B A x, and B starts at zero.
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        adapters.append(LoraModel(tower, config, "default"))
        trained = sum(parameter.numel() for parameter in tower.parameters() if parameter.requires_grad)
        logger.info("%s tower: adapters of rank %d, %s more parameters are trained", side, rank, f"{trained:,}")
    return adapters


def merge_adapters(adapters: list) -> None:
    """Add the learned updates to the towers' weights; nothing of peft is left in the model."""
    for adapter in adapters:
        adapter.merge_and_unload().requires_grad_(False)
