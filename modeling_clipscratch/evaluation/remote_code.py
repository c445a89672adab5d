"""Find the code that the files of a model name, and refuse it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from transformers.utils import cached_file

from ..hub.configuration_clipscratch import AUTO_MAP, CODE_KEYS
from ..hub.errors_clipscratch import ClipScratchError
from ..utils.local_files import read_json

# What transformers reads to find the classes of a folder's parts.
_NAMES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@contextlib.contextmanager
def refusing_own_code(*sources: str | None) -> Iterator[None]:
    """What is loaded inside must be loaded with `trust_remote_code=False`; what needs more is refused in our words.

    A folder may name files with code and yet be read without them, where transformers knows the type (a ClipScratch
    folder is one): then nothing is said.

    Args:
        sources: the folders or Hub ids that are loaded.
    Raises: ClipScratchError with the names of the files that would have to run.
    """
    try:
        yield
    except ValueError as error:
        said = f"{error} {error.__cause__}"
        source = next((name for name in sources if name and f"{name} contains custom code" in said), None)
        if source is None:
            raise
        raise ClipScratchError(
            f"{source} cannot be read without code of its own, and none is run here (it names "
            f"{', '.join(own_code(source))}); give a model of a type that transformers knows."
        ) from error


def own_code(source: str) -> list[str]:
    """The files with code that the JSON files of a folder or Hub id name, each once, in alphabetical order."""
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    paths = (cached_file(source, name, **quiet) for name in _NAMES)
    references = {name for path in paths if path for name in _references(read_json(path))}
    return sorted({name.replace("--", "/").rpartition(".")[0] + ".py" for name in references})


def check_code(folder: str | Path) -> None:
    """Check that the JSON files of a folder name ClipScratch's code only.

    Raises: ClipScratchError with the file and the reference if one names other code, or cannot be read.
    """
    for path in sorted(Path(folder).glob("*.json")):
        try:
            references = list(_references(json.loads(path.read_text(encoding="utf-8"))))
        except ValueError as error:
            raise ClipScratchError(f"{path} is damaged ({error}); copy the folder again.") from error
        if foreign := [name for name in references if name not in AUTO_MAP.values()]:
            raise ClipScratchError(
                f"{path} names code that is not ClipScratch's ({foreign[0]}), which would run wherever the folder is "
                "loaded with trust_remote_code=True; delete that reference, or load the model and its processor with "
                "modeling_clipscratch.evaluation.load_model.load_model and save them again."
            )


def _references(settings, inside=False) -> Iterator[str]:
    """Every "module.Class" or "owner/repository--module.Class" that a JSON file names, at any depth."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from _references(value, inside or name in CODE_KEYS)
    elif isinstance(settings, list):
        for value in settings:
            yield from _references(value, inside)
    elif inside and isinstance(settings, str) and "." in settings:
        yield settings
