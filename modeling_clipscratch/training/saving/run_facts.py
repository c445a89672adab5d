"""Collect what a finished run was trained and measured on, for its card; no path of the user's machine."""

import os

from transformers import CONFIG_MAPPING

from ...data.dataset import class_names
from ...utils.names import is_local, public_name


def data_facts(data, splits: dict, trainer, measured: str, templates) -> dict:
    """Describe the data of a run.

    Args:
        data: `DataArguments`.
        splits: {split: dataset}; the training split of a stream has no known length.
        trainer: the `ClipScratchTrainer`, which may have left out bad rows.
        measured: split that the finished model is measured on.
        templates: prompts of class data.
    """
    names = class_names(splits["train"])
    facts = _source(data.dataset, built_in=data.dataset in ("digits", "scenes"))
    facts |= {"kind": "caption" if names is None else "class", "streamed": data.streaming, "measured": measured}
    if facts["source"] == "hub":
        facts["revision"] = data.dataset_revision
    facts["rows"] = {split: len(part) for split, part in splits.items() if not (data.streaming and split == "train")}
    if not data.streaming:
        facts["rows"]["train"] = len(trainer.train_pairs)
    if names is not None:
        facts["class_names"], facts["templates"] = names, list(templates)
    elif not data.streaming:
        facts["captions"] = sum(map(len, trainer.train_pairs.dataset["captions"][:]))
    return facts


def run_facts(model_options, data: dict, trainer, trained: dict) -> dict:
    """Describe a finished run. `seconds` are those of training with its evaluations, over all resumed parts.

    Args:
        model_options: `ModelArguments`.
        data: of `data_facts`.
        trainer: the `ClipScratchTrainer`.
        trained: of `count_trained`.
    """
    towers = {side: getattr(model_options, f"{side}_tower") for side in ("text", "vision")}
    timed = [line["seconds"] for line in trainer.state.log_history if "seconds" in line]
    return {
        **trainer.record.state()["attributes"],
        "dataset": data,
        "towers": {side: _source(name, scratch=name in CONFIG_MAPPING) for side, name in towers.items()},
        "trained_parameters": trained,
        "steps": trainer.state.global_step,
        "seconds": round(timed[-1], 1) if timed else None,
        "processes": trainer.args.world_size,
        "cores": os.cpu_count(),
        "precision": trainer.args.precision,
    }


def count_trained(model) -> dict[str, int]:
    """Count the weights with a gradient, adapters among them, of the text tower, the vision tower and the heads."""
    counts = {"text": 0, "vision": 0, "heads": 0}
    sides = {"text_model": "text", "vision_model": "vision"}
    for name, parameter in model.named_parameters():
        counts[sides.get(name.split(".")[0], "heads")] += parameter.numel() * parameter.requires_grad
    return counts


def _source(name, *, built_in=False, scratch=False):
    source = "built-in" if built_in else "scratch" if scratch else "local" if is_local(name) else "hub"
    return {"name": public_name(name), "source": source}
