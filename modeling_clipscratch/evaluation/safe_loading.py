"""Load saved models without running their code, and name the file that prevents a model from being loaded."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..hub.configuration_clipscratch import AUTO_MAP, CODE_KEYS
from ..utils.errors import ClipScratchError
from ..utils.local_files import read_json
from ..utils.names import first_line


@contextlib.contextmanager
def explaining_load_errors(*sources: str | Path | None) -> Iterator[None]:
    """Turn an error inside into one sentence that names the code or the damaged file that causes it.

    `sources`, folders or Hub ids, must be loaded with `trust_remote_code=False`. A folder may name code and yet load
    without it, if transformers knows the type, as it does for ClipScratch folders. An `OSError` is raised as it is.
    """
    try:
        yield
    except Exception as error:  # libraries raise anything on a file that is not as they expect
        message, names = f"{error} {error.__cause__}", [str(source) for source in sources if source]
        for name in names:
            if f"{name} contains custom code" in message:
                raise ClipScratchError(
                    f"{name} needs code of its own, which is never run here; give a model of a type that transformers "
                    "knows."
                ) from error
        for folder in filter(Path.is_dir, map(Path, names)):
            for path in sorted(folder.glob("*.json")):
                read_json(path)
            for path in sorted(folder.glob("*.safetensors")):
                try:
                    safe_open(path, framework="numpy")
                except (SafetensorError, OSError) as damage:
                    raise ClipScratchError(f"{path} is damaged ({first_line(damage)}); copy it again.") from damage
        if isinstance(error, (ClipScratchError, OSError)) or not names:
            raise
        remedy = "copy the folder again, or save it again where it was trained"
        if isinstance(error, ImportError):  # the older tokenizers of some families (SigLIP) need a library
            remedy = "try pip install sentencepiece protobuf"
        reason = f"{type(error).__name__}: {first_line(error)}"
        if "ignore_mismatched_sizes" in message:
            reason = "the weights have other shapes than config.json says"
        raise ClipScratchError(f"{' or '.join(names)} cannot be loaded ({reason}); {remedy}.") from error


def check_code(folder: str | Path) -> None:
    """Raise `ClipScratchError` if a JSON file of a folder names code that is not ClipScratch's, or cannot be read."""
    for path in sorted(Path(folder).glob("*.json")):
        if foreign := [name for name in _references(read_json(path)) if name not in AUTO_MAP.values()]:
            raise ClipScratchError(
                f"{path} names code that is not ClipScratch's ({foreign[0]}), which would run wherever the folder is "
                "loaded with trust_remote_code=True; delete that reference, or load the model and its processor with "
                "modeling_clipscratch.load_model and save them again."
            )


def _references(settings, inside=False) -> Iterator[str]:
    """Every "module.Class" or "owner/repository--module.Class" that JSON names as code, at any depth."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from _references(value, inside or name in CODE_KEYS)
    elif isinstance(settings, list):
        for value in settings:
            yield from _references(value, inside)
    elif inside and isinstance(settings, str) and "." in settings:
        yield settings
