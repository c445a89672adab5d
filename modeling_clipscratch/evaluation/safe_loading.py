"""Load saved models without running their code, and name the file that prevents a model from being loaded."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import cached_file

from ..data.images.preprocess import Preprocess
from ..hub.configuration_clipscratch import AUTO_MAP, CODE_KEYS
from ..hub.processor_clipscratch import load_image_processor
from ..utils.errors import ClipScratchError
from ..utils.local_files import read_json
from ..utils.names import first_line

_INDEX = "model.safetensors.index.json"
_LOADERS = {
    "config.json": lambda folder: AutoConfig.from_pretrained(folder, trust_remote_code=False),
    "tokenizer.json": lambda folder: Tokenizer.from_file(str(folder / "tokenizer.json")),
    "tokenizer_config.json": lambda folder: AutoTokenizer.from_pretrained(folder, trust_remote_code=False),
    **dict.fromkeys(("processor_config.json", "preprocessor_config.json"), lambda folder: usable_processor(folder)),
}
_REMEDY = "copy the folder again, or save it again where it was trained."


@contextlib.contextmanager
def explaining_load_errors(*sources: str | Path | None) -> Iterator[None]:
    """Turn an error inside into one sentence that names the code or the damaged file that causes it.

    Whatever is loaded inside must be loaded with `trust_remote_code=False`. A folder may name code and yet load without
    it, if transformers knows the type, as it does for ClipScratch folders.

    Args:
        sources: folders or Hub ids that are loaded inside; `None` is ignored.

    Raises:
        ClipScratchError: If a source needs code of its own, a file of a folder is damaged, or a library raises anything
            but an `OSError`.
    """
    try:
        yield
    except Exception as error:  # libraries raise anything on a file that is not as they expect
        message, names = f"{error} {error.__cause__}", [str(source) for source in sources if source]
        for name in names:
            if f"{name} contains custom code" in message:
                raise ClipScratchError(
                    f"{name} needs code of its own, which is never run here (it names {', '.join(_code_of(name))}); "
                    "give a model of a type that transformers knows."
                ) from error
        for folder in filter(Path.is_dir, map(Path, names)):
            _check_files(folder)
        if isinstance(error, (ClipScratchError, OSError)) or not names:
            raise
        if isinstance(error, ImportError):  # the older tokenizers of some families (SigLIP) need a library
            reason = f"needs a library that is not installed: {first_line(error)}."
            raise ClipScratchError(f"{' or '.join(names)} {reason} Try pip install sentencepiece protobuf.") from error
        if "ignore_mismatched_sizes" in message:
            reason = "the weights have other shapes than config.json says"
        else:
            reason = f"{type(error).__name__}: {first_line(error)}"
        raise ClipScratchError(f"{' or '.join(names)} cannot be loaded ({reason}); {_REMEDY}") from error


def usable_processor(source):
    """Load an image processor and apply it: only then a size, a mean or a filter of a wrong type raises."""
    processor = load_image_processor(source)
    Preprocess(processor)
    return processor


def check_code(folder: str | Path) -> None:
    """Check that the JSON files of a folder name no code but ClipScratch's.

    Raises:
        ClipScratchError: If one names other code, or cannot be read.
    """
    for path in sorted(Path(folder).glob("*.json")):
        if foreign := [name for name in _references(read_json(path)) if name not in AUTO_MAP.values()]:
            raise ClipScratchError(
                f"{path} names code that is not ClipScratch's ({foreign[0]}), which would run wherever the folder is "
                "loaded with trust_remote_code=True; delete that reference, or load the model and its processor with "
                "modeling_clipscratch.load_model and save them again."
            )


def _check_files(folder):
    """Raise ClipScratchError if a file of the folder is damaged, missing, or holds a value that cannot be used."""
    for path in filter(Path.is_file, (folder / name for name in (*_LOADERS, _INDEX))):
        read_json(path)
    if (folder / _INDEX).is_file():
        shards = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise ClipScratchError(f"{folder / _INDEX} is damaged (it has no weight_map); {_REMEDY}")
        for shard in sorted(set(map(str, shards.values()))):
            if not (folder / shard).is_file():
                raise ClipScratchError(f"{folder / shard} is missing, which {_INDEX} names; {_REMEDY}")
    weights = sorted(folder.glob("*.safetensors"))
    for path in weights:
        _try(path, "is damaged", lambda path=path: safe_open(path, framework="numpy").keys())
    pickles = [] if weights else sorted(folder.glob("pytorch_model*.bin"))
    for path in pickles:
        problem = "is damaged, or holds more than weights, which is not read since it could run anything"
        _try(path, problem, lambda path=path: dict(torch.load(path, map_location="meta", weights_only=True)))
    for name, load in _LOADERS.items():
        if (folder / name).is_file():
            with contextlib.suppress(OSError, ImportError):  # something else is missing
                _try(folder / name, "holds a value that cannot be used", lambda load=load: load(folder))


def _try(path, problem, load):
    try:
        load()
    except (OSError, ImportError):
        raise
    except Exception as error:
        raise ClipScratchError(f"{path} {problem} ({type(error).__name__}: {first_line(error)}); {_REMEDY}") from error


def _code_of(source):
    """Names of the files with code that the JSON files of a folder or Hub id name."""
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("gated_repo", "missing_entries", "connection_errors")}
    paths = (cached_file(source, name, **quiet) for name in _LOADERS if name != "tokenizer.json")
    references = {name for path in paths if path for name in _references(read_json(path))}
    return sorted({name.replace("--", "/").rpartition(".")[0] + ".py" for name in references})


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
