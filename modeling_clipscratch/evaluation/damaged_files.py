"""Name the file of a saved model that keeps it from being loaded."""

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # `transformers` asks for torchvision

from ..hub.errors_clipscratch import ClipScratchError
from ..utils.local_files import read_json

_INDEX = "model.safetensors.index.json"
_JSON = ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")
_PICKLE = "is damaged, or holds more than weights, which is not read since it could run anything"
_VALUES = "holds a value that cannot be used"
_REMEDY = "copy the folder again, or save it again where it was trained."


@contextlib.contextmanager
def naming_damaged_files(*sources: str | Path | None) -> Iterator[None]:
    """Turn what goes wrong inside because of a damaged file into one sentence that names the file.

    Args:
        sources: Folders that are loaded inside; Hub ids and `None` are passed over.

    Raises:
        ClipScratchError: If a file of a folder is damaged, or a library raises what is neither a `ValueError` nor an
            `OSError`.
    """
    try:
        yield
    except Exception as error:  # libraries raise anything on a file that is not what they expect
        folders = [Path(source) for source in sources if source and Path(source).is_dir()]
        for folder in folders:
            _check_contents(folder)
        for folder in folders:
            _check_values(folder)
        named = " or ".join(str(source) for source in sources if source)
        if isinstance(error, (ValueError, OSError)) or not named:
            raise
        raise ClipScratchError(f"{named} cannot be loaded ({_reason(error)}); {_REMEDY}") from error


def _check_contents(folder):
    """Raises: ClipScratchError if a file of the folder is not of its format, or a file of weights is missing."""
    for path in (folder / name for name in (*_JSON, _INDEX)):
        if path.is_file():
            read_json(path)
    if (folder / _INDEX).is_file():
        shards = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise ClipScratchError(f"{folder / _INDEX} is damaged (it has no weight_map); {_REMEDY}")
        for shard in sorted(set(map(str, shards.values()))):
            if not (folder / shard).is_file():
                raise ClipScratchError(f"{folder / shard} is missing, which {_INDEX} names; {_REMEDY}")
    for path in sorted(folder.glob("*.safetensors")):
        _try(lambda path=path: safe_open(path, framework="numpy").keys(), path, "is damaged", ())
    if not any(folder.glob("*.safetensors")):
        for path in sorted(folder.glob("pytorch_model*.bin")):
            _try(lambda path=path: dict(torch.load(path, map_location="meta", weights_only=True)), path, _PICKLE, ())


def _check_values(folder):
    """Raises: ClipScratchError if a library cannot make anything of what a JSON file says."""
    config, tokenizer, settings = (folder / name for name in _JSON[:3])
    images = next((path for path in (folder / name for name in _JSON[3:]) if path.is_file()), folder)
    if _try(lambda: AutoConfig.from_pretrained(folder, trust_remote_code=False), config, _VALUES) is None:
        return  # the error says what is wrong with it
    if tokenizer.is_file():
        _try(lambda: Tokenizer.from_file(str(tokenizer)), tokenizer, _VALUES)
    _try(lambda: AutoTokenizer.from_pretrained(folder, trust_remote_code=False), settings, _VALUES)
    load = partial(AutoImageProcessor.from_pretrained, folder, backend="pil", trust_remote_code=False)
    if (processor := _try(load, images, _VALUES)) is not None:
        _try(lambda: try_image_processor(processor), images, _VALUES, passed_over=())


def try_image_processor(image_processor) -> None:
    """Prepare an image: only then a size, a mean or a filter of a wrong type raises whatever it raises."""
    image_processor(Image.new("RGB", (40, 30)))


def _try(load, path, trouble, passed_over=(OSError, ImportError, ValueError)):
    """What `load()` returns; by default, what is missing or has a sentence of its own is passed over."""
    try:
        return load()
    except passed_over:
        return None
    except Exception as error:
        raise ClipScratchError(f"{path} {trouble} ({_reason(error)}); {_REMEDY}") from error


def _reason(error):
    words = " ".join(str(error).split()).partition(". ")[0][:200].rstrip(".")
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
