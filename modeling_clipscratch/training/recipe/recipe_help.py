"""Format the help of `clipscratch train`: the fields that matter first, the others on demand."""

import dataclasses
import textwrap

from .arguments import ClipScratchTrainingArguments, DataArguments, ModelArguments, recipe_fields

_COMMON = {
    "data": ["dataset", "image_column", "caption_column", "label_column", "templates", "test_split", "on_bad_row"],
    "model": ["text_tower", "vision_tower", "freeze_text", "freeze_vision", "unfreeze_vision_layers", "loss"],
    "training": [
        "num_train_epochs", "max_steps", "global_batch_size", "learning_rate", "tower_learning_rate", "eval_steps",
        "precision", "seed",
    ],
    "run": ["output_dir", "overwrite_output_dir", "resume_from_checkpoint", "report_to", "push_to_hub"],
}  # fmt: skip
_OWN_WORDS = {  # where transformers' help does not fit
    "max_steps": "Length of the run in steps, instead of num_train_epochs.",
    "resume_from_checkpoint": "Resume from a checkpoint: its path, or auto for the last whole one in output_dir.",
    "push_to_hub": "Publish the finished model on the Hub.",
    "activation_checkpointing": "Recompute the towers' activations in the backward pass: less memory, more time.",
}


def help_text(recipes: list[str], *, everything: bool) -> str:
    """The help, which ends with the names of the recipes.

    Args:
        recipes: names of the known recipes.
        everything: list all fields, ClipScratch's before those that only transformers has.
    """
    groups = dict(_COMMON)
    if everything:
        shown = {name for names in _COMMON.values() for name in names}
        own = {
            "more on the data": DataArguments.__annotations__,
            "more on the model": ModelArguments.__annotations__,
            "more on training": ClipScratchTrainingArguments.__annotations__,
            "transformers' TrainingArguments": recipe_fields(),
        }
        for title, names in own.items():
            groups[title] = [name for name in names if name not in shown]
            shown |= {*names}
    lines = ["usage: clipscratch train [RECIPE] [--field value ...]", "", f"recipes: {', '.join(recipes)}, or a path"]
    for title, names in groups.items():
        lines += ["", f"{title}:"]
        for name in names:
            lines += _lines_of(recipe_fields()[name])
    return "\n".join(
        [*lines, "", "all fields, grouped: clipscratch train --help all"][: None if not everything else -2]
    )


def _lines_of(field):
    about = _OWN_WORDS.get(field.name, field.metadata.get("help", "")).replace("%%", "%")
    about = " ".join(about.split())
    if choices := field.metadata.get("choices"):
        about += f" One of {', '.join(choices)}."
    if field.default not in (None, dataclasses.MISSING, "") and "Default" not in about:
        about += f" Default: {getattr(field.default, 'value', field.default)}."
    wrapped = textwrap.wrap(about, 88) or [""]
    first = f"  --{field.name:<28} {wrapped[0]}" if len(field.name) <= 28 else f"  --{field.name} {wrapped[0]}"
    return [first.rstrip(), *(f"{'':33}{line}" for line in wrapped[1:])]
