"""Prepare a `datasets.IterableDataset`, and read its shards row by row, resumable after any row."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from ...utils.errors import ClipScratchError
from ...utils.local_files import path_of_cell
from ..columns import (
    DEFAULT_OPTIONS,
    DataOptions,
    cell_texts,
    find_columns,
    is_text_or_number,
    known_classes,
    written_lists,
)
from ..dataset import image_digest, is_prepared, ppm, prepared_features, read_member, title

_AT_ONCE = 32  # rows that `datasets` returns together
_HEAD = 5  # rows that show the features of a stream without known features


def prepare_stream(
    stream: datasets.IterableDataset, options: DataOptions = DEFAULT_OPTIONS, *, root: Path | None = None
) -> datasets.IterableDataset:
    """Give a stream the columns of a prepared dataset. A row that lacks something keeps an empty cell, and with
    `on_bad_row` `skip` also one with an unknown label.
    """
    stream = with_features(stream).with_format(None)
    name, features = title(stream), stream.features
    if stream._distributed is not None:
        raise ClipScratchError(f"{name} was split by node; give the whole stream, which is split among processes here.")
    if "BufferShuffledExamplesIterable" in (type(layer).__name__ for layer in _layers(stream)):
        raise ClipScratchError(  # its state lacks the rows in its buffer
            f"{name} was shuffled with a buffer, so a stopped run cannot resume it; leave `shuffle` out: "
            "--stream_shuffle_rows shuffles rows as they are read."
        )
    if is_prepared(stream) and not options.class_names:
        return stream
    image, captions, label = find_columns(features, DEFAULT_OPTIONS if is_prepared(stream) else options, origin=name)
    key = "key" if is_text_or_number(features.get("key")) and "key" not in (image, label) else None
    classes = numbers = None
    if label:
        classes = known_classes(features[label], options, column=label, origin=name)
        if classes is None:
            raise ClipScratchError(
                f"{name}: the classes in column {label!r} are not known before all rows are read; give their names in "
                "label order (class_names)."
            )
        own = getattr(features[label], "names", [])  # which a generator may yield instead of numbers
        numbers = {name: number for names in (own, classes) for number, name in enumerate(names)}
    columns = [column for column in features if column in (image, *captions, label, key)]
    arguments = {"name": name, "image": image, "captions": captions, "label": label, "key": key, "root": root or ""}
    arguments |= {"count": classes and len(classes), "numbers": numbers, "on_bad_row": options.on_bad_row}
    stream = undecoded(stream.select_columns(columns))
    features = prepared_features(classes)
    return stream.map(_prepare, with_indices=True, fn_kwargs=arguments, features=features, remove_columns=columns)


def _prepare(raw: dict, row: int, name, image, captions, label, key, root, count, numbers, on_bad_row) -> dict:
    cell = image_cell(raw[image])
    if (path := cell["path"]) and not cell["bytes"]:
        cell["path"] = path_of_cell(root, path)
    stored = cell["bytes"] or cell["path"]
    text = None if key is None else raw[key]
    prepared = {"image": cell if stored else None, "key": image_digest(stored or b"") if text is None else str(text)}
    if label is None:
        return prepared | {"captions": cell_texts(tuple(written_lists([raw[column]])[0] for column in captions))}
    value = raw[label].strip() if isinstance(raw[label], str) else raw[label]
    number = numbers.get(value) if isinstance(value, str) else value
    if number is not None and not -1 <= number < count:
        number = None
    if number is None and value not in (None, "") and on_bad_row == "raise":
        raise ClipScratchError(f"{name}: row {row}: label {value!r} is not one of the {count} classes.")
    return prepared | {"label": number}


def image_cell(cell) -> dict:
    """Return the `bytes` and `path` of an image's cell of any form; of a tar's cell the bytes are read."""
    if isinstance(cell, Image.Image):  # after a user's `map`, before which `datasets` decodes
        cell = ppm(np.asarray(cell.convert("RGB")))
    cell = {"bytes": cell} if isinstance(cell, bytes) else {"path": cell} if isinstance(cell, str) else cell or {}
    if shard := cell.get("shard"):
        cell = {"bytes": read_member(cell), "path": f"{shard}: {cell['member']}"}
    return {"bytes": cell.get("bytes"), "path": cell.get("path")}


def with_features(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """Return a stream with known features, taken from its first rows if need be."""
    if stream.features is not None:
        return stream
    if not (rows := list(stream.take(_HEAD))):
        raise ClipScratchError(f"{title(stream)}: no rows; choose another split or check where it comes from.")
    return stream.map(features=datasets.Dataset.from_list(rows).features)


def undecoded(stream: datasets.IterableDataset) -> datasets.IterableDataset:
    """Return a stream with known features that yields images as they are stored."""
    decodes = any(getattr(feature, "decode", False) for feature in stream.features.values())
    return stream.decode(False) if decodes else stream


def _layers(stream: datasets.IterableDataset) -> list:
    """Return what a stream was made with, the last first. `datasets` has no public way to see it."""
    layers = [stream._ex_iterable]
    for layer in layers:
        layers += getattr(layer, "ex_iterables", None) or [*filter(None, [getattr(layer, "ex_iterable", None)])]
    return layers


def shard_names(stream: datasets.IterableDataset) -> list[str]:
    """Return the (S,) files of the shards; `shard 3` if a stream is not made of files."""
    for value in getattr(_layers(stream)[-1], "kwargs", {}).values():
        if isinstance(value, list) and len(value) == stream.num_shards and all(isinstance(name, str) for name in value):
            return value
    return [f"shard {number}" for number in range(stream.num_shards)]


def shard_rows(stream: datasets.IterableDataset, shard: int, state: dict | None = None) -> Iterator[tuple[dict, dict]]:
    """Yield the rows of one shard from `state` on, undecoded, with the state behind each, which JSON can hold."""
    name = shard_names(stream)[shard]
    stream = undecoded(stream) if stream.features else stream
    stream = stream.shard(num_shards=stream.num_shards, index=shard)
    try:
        if state is not None:
            stream.load_state_dict(state["state"])
        # `datasets` returns batches, and its state is exact between them.
        before, skip = (stream.state_dict(), 0) if state is None else (state["state"], state["skip"])
        # Not iter(stream): in a worker of a DataLoader that yields a part of the shards only.
        for columns in stream.iter(batch_size=_AT_ONCE):
            for number, cells in enumerate(zip(*columns.values(), strict=True), 1):
                if number > skip:
                    yield dict(zip(columns, cells, strict=True)), {"state": before, "skip": number}
            before, skip = stream.state_dict(), 0
    except ClipScratchError:
        raise
    except Exception as error:  # the reader of each format has errors of its own
        raise shard_error(name, error) from error


def shard_error(name: str, error: Exception) -> ClipScratchError:
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return ClipScratchError(
        f"{name}: cannot be read ({reason}); check disk and connection, or fetch it again (git lfs pull, if it is "
        "a Git LFS pointer), then resume with --resume_from_checkpoint auto."
    )
