"""Parse a recipe and a command line into checked arguments."""

import difflib
import json
import textwrap
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from ...utils.errors import ClipScratchError
from .arguments import RECIPE_GROUPS, ClipScratchTrainingArguments, DataArguments, ModelArguments, recipe_fields

_PACKAGE = Path(__file__).resolve().parents[2]
# What `--help` shows; `--help all` shows every field.
_COMMON = (
    "dataset", "image_column", "caption_column", "label_column", "templates", "test_split", "on_bad_row", "text_tower",
    "vision_tower", "freeze_text", "freeze_vision", "unfreeze_vision_layers", "loss", "num_train_epochs", "max_steps",
    "global_batch_size", "learning_rate", "tower_learning_rate", "eval_steps", "bf16", "seed", "output_dir",
    "overwrite_output_dir", "resume_from_checkpoint", "report_to", "push_to_hub",
)  # fmt: skip
_OWN_WORDS = {  # where transformers' help does not fit
    "max_steps": "Length of the run in steps, instead of num_train_epochs.",
    "resume_from_checkpoint": "Resume from a checkpoint: its path, or auto for the last whole one in output_dir.",
    "push_to_hub": "Publish the finished model on the Hub.",
    "activation_checkpointing": "Recompute the towers' activations in the backward pass: less memory, more time.",
}


class _Parser(HfArgumentParser):
    source = ""  # what an error begins with

    def error(self, message):  # argparse would print 200 options before it
        raise ClipScratchError(self.source + message)


def parse_recipe(arguments: list[str]) -> tuple[ModelArguments, DataArguments, ClipScratchTrainingArguments, dict]:
    """Parse `[recipe] [--field value ...]`, a name in `configuration/` or a path; the last value has the named fields.

    >>> model, data, args, settings = parse_recipe(["digits", "--learning_rate", "5e-4"])
    >>> data.dataset, args.learning_rate, settings["patch_size"]
    ('digits', 0.0005, 2)
    """
    if {"-h", "--help"} & {*arguments}:
        print(_help(everything="all" in arguments))
        raise SystemExit
    settings = {}
    if arguments and not arguments[0].startswith("-"):
        settings = read_recipe(arguments[0])
        arguments = arguments[1:]
    parser = _Parser(RECIPE_GROUPS, allow_abbrev=False, add_help=False)
    settings |= _parse(parser, arguments, prefix="--")
    parser.set_defaults(**settings)
    return *parser.parse_args_into_dataclasses([], look_for_args_file=False), settings


def recipes() -> dict[str, Path]:
    """The recipes that are known by name: those of the installed package, or of the clone."""
    folder = _PACKAGE / "configuration"  # in a wheel
    folder = folder if folder.is_dir() else _PACKAGE.parent / "configuration"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_recipe(name: str | Path) -> dict:
    """Read a recipe by name or path into {field: value}. Values are parsed as those of the command line."""
    path = recipes().get(str(name), Path(name))
    if not path.is_file():
        near = difflib.get_close_matches(str(name), [*recipes(), *map(str, path.parent.glob("*.yaml"))], 1)
        hint = f"did you mean {near[0]}?" if near else f"give a path, or one of {', '.join(recipes())}."
        raise ClipScratchError(f"recipe {name} does not exist; {hint}")
    try:
        # Every scalar stays text, so that YAML's readings of no, 5e-4 and 08 play no part.
        recipe = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClipScratchError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ClipScratchError(f"recipe {path} must be a flat list of 'field: value' lines.")
    parser = _Parser(RECIPE_GROUPS, allow_abbrev=False, add_help=False)
    parser.source = f"recipe {path}: "
    words, empty = [], {}
    hints = {name: hint for group in RECIPE_GROUPS for name, hint in get_type_hints(group).items()}
    for field, value in recipe.items():
        if value in ("", "~", "null") and NoneType in get_args(hints.get(field)):
            empty[field] = None
        elif value == "":
            parser.error(f"{field} has no value; give one, or delete the line.")
        elif isinstance(value, list):
            words += [f"--{field}", *(item if isinstance(item, str) else json.dumps(item) for item in value)]
        else:
            words.append(f"--{field}={json.dumps(_typed(value)) if isinstance(value, dict) else value}")
    return _parse(parser, words, prefix="") | empty


def _typed(value):
    """Return a nested value with its numbers and booleans, which transformers reads as JSON."""
    if isinstance(value, dict):
        return {name: _typed(part) for name, part in value.items()}
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


def _parse(parser, words, *, prefix):
    """{field: value} of the fields that the words name."""
    options = [word.lstrip("-").split("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    fields = recipe_fields()
    names = [name if name in fields else name.removeprefix("no_") for name in options]
    for option, name in zip(options, names, strict=True):
        if name not in fields:
            near = nearest_field(option)
            hint = f"did you mean {prefix}{near}?" if near else "--help all lists all fields."
            parser.error(f"{prefix}{option} is not a field; {hint}")
    parsed, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(f"{unknown[0]!r} belongs to no field; give a recipe first, then --field value.")
    return {name: getattr(parsed, name) for name in names}


def nearest_field(name: str) -> str | None:
    """Return the field whose name is spelt nearly so, or contains all words of the name."""
    words = set(name.split("_"))
    longer = [field for field in recipe_fields() if words <= set(field.split("_"))]
    near = difflib.get_close_matches(name, longer, 1, cutoff=0.5) if len(words) > 1 or len(longer) == 1 else []
    return next(iter(near or difflib.get_close_matches(name, recipe_fields(), 1, cutoff=0.8)), None)


def _help(*, everything):
    lines = ["usage: clipscratch train [RECIPE] [--field value ...]", f"recipes: {', '.join(recipes())}, or a path", ""]
    own = [name for group in RECIPE_GROUPS for name in group.__annotations__]
    for name in dict.fromkeys([*own, *recipe_fields()]) if everything else _COMMON:
        field = recipe_fields()[name]
        about = _OWN_WORDS.get(name, field.metadata.get("help", "")).replace("%%", "%")
        if choices := field.metadata.get("choices"):
            about += f" One of {', '.join(choices)}."
        if isinstance(field.default, (str, int, float)) and "Default" not in about:
            about += f" Default: {getattr(field.default, 'value', field.default)}."
        first, *others = textwrap.wrap(about, 88) or [""]
        lines += [f"  --{name:<28} {first}".rstrip(), *(f"{'':33}{line}" for line in others)]
    return "\n".join(lines if everything else [*lines, "", "all fields: clipscratch train --help all"])
