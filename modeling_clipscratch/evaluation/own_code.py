"""Models that need code of their own go in; one sentence that names the files comes out, and nothing of them runs."""

import contextlib
from collections.abc import Iterator

from transformers.utils import cached_file

from ..data.files import read_json

# What transformers reads to find the classes of a folder's parts.
_NAMES = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


@contextlib.contextmanager
def refusing_own_code(*sources: str | None) -> Iterator[None]:
    """What is loaded inside must be loaded with `trust_remote_code=False`; what needs more is refused in our words.

    A folder may name files with code and yet be read without them, where transformers knows the type (a ClipScratch
    folder is one): then nothing is said.

    Args:
        sources: the folders or Hub ids that are loaded.
    Raises: ValueError with the names of the files that would have to run.
    """
    try:
        yield
    except ValueError as error:
        said = f"{error} {error.__cause__}"
        source = next((name for name in sources if name and f"{name} contains custom code" in said), None)
        if source is None:
            raise
        raise ValueError(
            f"{source} cannot be read without code of its own, and none is run here (it names "
            f"{', '.join(own_code(source))}); give a model of a type that transformers knows."
        ) from error


def own_code(source: str) -> list[str]:
    """The files with code that the JSON files of a folder or Hub id name, each once, in alphabetical order."""
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    found = (cached_file(source, name, **quiet) for name in _NAMES)
    return sorted({file for path in found if path for file in _named(read_json(path))})


def _named(part) -> Iterator[str]:
    if not isinstance(part, dict):
        return
    for name, value in part.items():
        if name == "auto_map":
            for classes in value.values():
                for reference in classes if isinstance(classes, list) else [classes]:
                    if reference is not None:  # "module.Class", or "owner/repository--module.Class"
                        yield reference.replace("--", "/").rpartition(".")[0] + ".py"
        else:
            yield from _named(value)
