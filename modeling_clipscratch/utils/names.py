"""Recognise names of local paths and of a model's files, and make names and texts fit to be shown or published."""

import os.path
import re
from collections.abc import Mapping
from pathlib import Path

CODE = "_clipscratch.py"  # ends the names of the files with the model's code
_OF_A_MODEL = {
    "config.json", "model.safetensors", "processor_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
}  # fmt: skip
# In base64 and web addresses another character is before the slash.
_START, _END = r"(?<![^\s\"'`(\[{>=;])(?:~|\.{1,2})?/", r"[^\s\"'`<>|()\[\]{},;&/]"
_PATH = re.compile(rf"{_START}(?:{_END}+/)*({_END}+)/(?:({_END}+)|(?!{_END}))")


def is_local(name: str) -> bool:
    """Return whether a name is a path on this machine rather than a Hub id."""
    return name.startswith((".", "~", "/")) or os.path.exists(name)


def public_name(name: str) -> str:
    """Return a Hub id unchanged, and the last part of a local path, so that no path is published.

    >>> public_name("/home/ann/birds/"), public_name("clip-benchmark/wds_flickr8k"), public_name("digits")
    ('birds', 'clip-benchmark/wds_flickr8k', 'digits')
    """
    return Path(name).name if is_local(name) else name


def hide_paths(text: str, recipe: Mapping) -> str:
    """Replace each absolute path, and each one below `~`, `.` or `..`, by its last part.

    The values of the run's recipe that are folders or files are replaced first: they may be relative, or hold spaces.

    >>> hide_paths("clipscratch eval --model ../runs/digits --dataset=/data/birds/ --split test", {})
    'clipscratch eval --model digits --dataset=birds --split test'
    """
    values = [part for value in recipe.values() for part in (value if isinstance(value, list) else [value])]
    for value in values:
        if isinstance(value, str) and is_local(value) and (name := public_name(value)) not in ("", ".", ".."):
            text = text.replace(value, name)
    return _PATH.sub(lambda match: match[2] or match[1], text)


def printable(name: str) -> str:
    """Replace lone surrogates (bytes that are not UTF-8) and terminal control characters by `\\ufffd`."""
    return re.sub("[\ud800-\udfff\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", name)


def on_one_line(text: str) -> str:
    """Return printable text without line breaks."""
    return printable(" ".join(text.split()))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, for use within a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def is_of_a_model(path: str) -> bool:
    """Return whether a file, by its path in a folder or repository, is one of those that load the model."""
    shard = path.startswith("model") and path.endswith((".safetensors", ".safetensors.index.json"))
    return "/" not in path and (shard or path in _OF_A_MODEL or path.endswith(CODE))
