"""A YAML file and a command line go in; checked arguments, and the recipe as it will be run, come out."""

import contextlib
import difflib
import math
import types
import typing
from enum import Enum
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from ...hub.errors_clipscratch import ClipScratchError
from .arguments import RECIPE_GROUPS, ClipScratchTrainingArguments, DataArguments, ModelArguments, recipe_fields

_NUMBER_OR_WORD = {"encode_chunk_size"}  # texts for the command line, whose parser knows one type a field
# What YAML's yes or no is meant to be, where it is not that word.
_WORDS = {("resume_from_checkpoint", True): "true", ("report_to", False): "none"}


class _Parser(HfArgumentParser):
    def error(self, message):  # argparse would print 200 options before its sentence
        raise ClipScratchError(message)


def parse_recipe(arguments: list[str]) -> tuple[ModelArguments, DataArguments, ClipScratchTrainingArguments, dict]:
    """`[recipe.yaml] [--field value ...]` -> arguments and the recipe.

    Args:
        arguments: the command line; a first word that is no option is the recipe's path. Fields given on the command
            line go before the recipe's, those before the defaults.
    Returns: model, data and training arguments, and a flat dict of every field that was named.
    Raises: ClipScratchError if a key is unknown (the nearest is named) or a value has the wrong type.

    >>> model, data, args, settings = parse_recipe(["digits.yaml", "--learning_rate", "5e-4"])
    >>> data.dataset, args.learning_rate, settings["patch_size"]
    ('digits', 0.0005, 2)
    """
    settings = {}
    if arguments and not arguments[0].startswith("-"):
        settings = read_recipe(arguments[0])
        arguments = arguments[1:]
    parser = _Parser(RECIPE_GROUPS, usage="%(prog)s [recipe.yaml] [--field value ...]", allow_abbrev=False)
    given, unknown = parser.parse_known_args(arguments)
    if unknown and not unknown[0].startswith("-"):
        raise ClipScratchError(f"{unknown[0]!r} belongs to no option; a recipe goes first, then --field value.")
    if unknown:
        raise ClipScratchError(_unknown_field(unknown[0].lstrip("-").split("=")[0].replace("-", "_"), "option --"))
    named = _named_on_command_line(arguments)
    settings.update({name: getattr(given, name) for name in named})
    parser.set_defaults(**settings)
    return *parser.parse_args_into_dataclasses([], look_for_args_file=False), settings


def read_recipe(path: str | Path) -> dict:
    """A recipe file -> {field: value}, checked.

    >>> read_recipe("digits.yaml")["dataset"]
    'digits'
    """
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], 1)
        raise ClipScratchError(
            f"recipe {path} does not exist" + (f"; did you mean {path.parent / near[0]}?" if near else ".")
        )
    try:
        settings = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ClipScratchError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ClipScratchError(f"recipe {path} must be a flat list of 'field: value' lines.")
    fields = recipe_fields()
    for name, value in settings.items():
        if name not in fields:
            raise ClipScratchError(f"recipe {path}: " + _unknown_field(name, ""))
        _check_type(path, name, value, fields[name])
    return settings


def _unknown_field(name, prefix):
    near = nearest_field(str(name))
    hint = f"did you mean {prefix.split()[-1] if prefix else ''}{near}?" if near else "--help lists all of them."
    return f"{prefix or 'key '}{name} is not known; {hint}"


def nearest_field(name: str) -> str | None:
    """The field whose name is spelt almost so, or that has all of the words in its name.

    >>> nearest_field("learning_rte"), nearest_field("epochs"), nearest_field("temperature")
    ('learning_rate', 'num_train_epochs', None)
    """
    words = set(name.split("_"))
    longer = [field for field in recipe_fields() if words <= set(field.split("_"))]
    near = difflib.get_close_matches(name, longer, 1, cutoff=0.5) if len(words) > 1 or len(longer) == 1 else []
    return next(iter(near or difflib.get_close_matches(name, recipe_fields(), 1, cutoff=0.8)), None)


def _named_on_command_line(arguments):
    fields = recipe_fields()
    options = [word.lstrip("-").split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")]
    return [name if name in fields else name.removeprefix("no_") for name in options]


def _check_type(path, name, value, field):
    hint = typing.get_type_hints(_owner(name))[name]
    kinds = _plain_types(hint) | ({int} if name in _NUMBER_OR_WORD else set())
    choices = field.metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise ClipScratchError(f"recipe {path}: {name}: {value!r} is not one of {', '.join(choices)}.")
    if type(None) in typing.get_args(hint) and value is None:
        return
    if any(_fits(value, kind) for kind in kinds) and not _odd_entries(value, hint):
        return
    wanted = " or ".join(sorted("list of str" if kind is list else kind.__name__ for kind in kinds))
    remedy = f"give {wanted}."
    if isinstance(value, bool) and str in kinds:
        word = _WORDS.get((name, value), "yes" if value else "no")
        remedy = f"YAML reads {'true, yes, on' if value else 'false, no, off'} as {value}; write {word!r} in quotes."
    if isinstance(value, str) and kinds & {float, int}:
        with contextlib.suppress(ValueError, OverflowError):  # of what is no number, or not finite
            number = _yaml_float(float(value)) if float in kinds else str(int(float(value)))
            remedy = f"YAML reads {value} as text; write {number}."
    raise ClipScratchError(f"recipe {path}: {name}: {value!r} is of type {type(value).__name__}; {remedy}")


def _yaml_float(number):
    """
    >>> _yaml_float(1.2345678e-05), _yaml_float(0.5), _yaml_float(1e22)
    ('1.2345678e-5', '0.5', '1.0e+22')
    """
    if not math.isfinite(number):
        raise ClipScratchError(f"{number} is not finite")
    mantissa, _, exponent = repr(number).partition("e")
    if not exponent:
        return mantissa
    return (mantissa if "." in mantissa else mantissa + ".0") + "e" + exponent[0] + exponent[1:].lstrip("0")


def _owner(name):
    return next(group for group in RECIPE_GROUPS if name in {f for f in group.__dataclass_fields__})


def _plain_types(hint):
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_plain_types(part) for part in typing.get_args(hint)))
    if origin is typing.Literal:
        return {type(value) for value in typing.get_args(hint)}
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {str}
    return set() if kind is type(None) else {kind}


def _odd_entries(value, hint):
    """Whether a list of texts holds something else (YAML reads 0, yes and no as no texts)."""
    of_texts = list[str] in (hint, *typing.get_args(hint))
    return of_texts and not all(isinstance(entry, str) for entry in value)


def _fits(value, kind):
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
