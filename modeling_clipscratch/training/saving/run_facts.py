"""A run's parts go in; the facts that its recipe does not tell (`run.json`) come out, none of them a local path."""

import os

from transformers import CONFIG_MAPPING

from ...data.dataset import class_names
from ...utils.names import is_local, public_name


def data_facts(data, splits: dict, trainer, measured: str, templates) -> dict:
    """What the model learned from and was measured on.

    Args:
        data: `DataArguments`.
        splits: {split: dataset} of the run; of a stream the training split has no known length.
        trainer: the `ClipScratchTrainer`, which may have left out bad rows.
        measured: the split that the finished model is measured on.
        templates: prompts of class data.
    """
    names = class_names(splits["train"])
    facts = _source(data.dataset, built_in=data.dataset in ("digits", "scenes"))
    facts["kind"] = "caption" if names is None else "class"
    if facts["source"] == "hub":
        facts["revision"] = data.dataset_revision
    facts["streamed"] = data.streaming
    facts["rows"] = {split: len(part) for split, part in splits.items() if not (data.streaming and split == "train")}
    if not data.streaming:
        facts["rows"]["train"] = len(trainer.train_pairs)
    facts["measured"] = measured
    if names is not None:
        facts["class_names"], facts["templates"] = names, list(templates)
    elif not data.streaming:
        facts["captions"] = sum(map(len, trainer.train_pairs.dataset["captions"][:]))
    return facts


def run_facts(model_options, data: dict, args, state, images_seen: int, trained: dict) -> dict:
    """
    Args:
        model_options: `ModelArguments`.
        data: of `data_facts`.
        args, state: the Trainer's.
        images_seen: images that the model was trained on, each as often as it came.
        trained: of `count_trained`.
    Returns: what `run.json` holds; `seconds` are those of training with its evaluations, over all resumed parts.
    """
    towers = {side: getattr(model_options, f"{side}_tower") for side in ("text", "vision")}
    timed = [line["seconds"] for line in state.log_history if "seconds" in line]
    return {
        "dataset": data,
        "towers": {side: _source(name, scratch=name in CONFIG_MAPPING) for side, name in towers.items()},
        "trained_parameters": trained,
        "steps": state.global_step,
        "pictures_seen": images_seen,
        "seconds": round(timed[-1], 1) if timed else None,
        "processes": args.world_size,
        "cores": os.cpu_count(),
        "precision": args.precision,
    }


def count_trained(model) -> dict[str, int]:
    """Weights with a gradient, adapters among them, of the text tower, the vision tower and the heads."""
    counts = {"text": 0, "vision": 0, "heads": 0}
    sides = {"text_model": "text", "vision_model": "vision"}
    for name, parameter in model.named_parameters():
        counts[sides.get(name.split(".")[0], "heads")] += parameter.numel() * parameter.requires_grad
    return counts


def _source(given, *, built_in=False, scratch=False):
    local = is_local(given)
    source = "built-in" if built_in else "scratch" if scratch else "local" if local else "hub"
    return {"name": public_name(given), "source": source}
