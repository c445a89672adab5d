"""Define what a prepared dataset holds, prepare any table of images, and read the images.

A prepared dataset is a `datasets.Dataset` or `IterableDataset` with three columns:

- `image`: `datasets.Image(decode=False)`, or `TAR_IMAGE_FEATURE`, the position of an image in a tar;
- `label`: `datasets.ClassLabel` (class data), or `captions`: a list of strings (caption data);
- `key`: string, unique in its split. All randomness of a sample follows from its key.

Prompt templates belong to class data and travel beside the dataset.
"""

import copy
import hashlib
import logging
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets.fingerprint import Hasher

from ..utils.errors import ClipScratchError
from ..utils.local_files import path_of_cell, stamp
from ..utils.names import printable
from .columns import (
    DEFAULT_OPTIONS,
    DataOptions,
    cell_texts,
    find_columns,
    is_text,
    is_text_or_number,
    read_labels,
    written_lists,
)
from .images.decode import BadImageError, decode_image
from .templates import ALIKE

logger = logging.getLogger(__name__)

IMAGE_FEATURE = datasets.Image(decode=False)
TAR_IMAGE_FEATURE = {  # where an image lies in a tar: nothing is unpacked, no bytes are copied
    "shard": datasets.Value("string"),
    "member": datasets.Value("string"),
    "offset": datasets.Value("int64"),
    "size": datasets.Value("int64"),
}
CAPTIONS_FEATURE = datasets.List(datasets.Value("string"))
KEY_FEATURE = datasets.Value("string")


def class_names(dataset) -> list[str] | None:
    """Return the (C,) class names of a prepared dataset; `None` for caption data."""
    return [name.rstrip(ALIKE) for name in dataset.features["label"].names] if "label" in dataset.features else None


def labels_of(dataset: datasets.Dataset) -> np.ndarray | None:
    """Return the (N,) int64 labels of a prepared dataset; `None` for caption data."""
    return np.asarray(dataset["label"][:], dtype=np.int64) if "label" in dataset.features else None


def title(dataset) -> str:
    """Return what messages call a dataset."""
    name, split = dataset.info.dataset_name or "the dataset", dataset.split
    return name if split is None else f"{name}, split {split}"


def is_prepared(dataset) -> bool:
    """Return whether a dataset has exactly the columns of a prepared one."""
    features = dataset.features or {}
    names = getattr(features.get("label"), "names", None)
    return features in [prepared_features(names, image) for image in (IMAGE_FEATURE, TAR_IMAGE_FEATURE)]


def prepared_features(class_names: Sequence[str] | None, image=IMAGE_FEATURE) -> datasets.Features:
    """Return the features of a prepared dataset with these classes; `None` for caption data."""
    text = {"captions": CAPTIONS_FEATURE}
    if class_names is not None:
        text = {"label": datasets.ClassLabel(names=list(class_names))}
    return datasets.Features({"image": image, **text, "key": KEY_FEATURE})


def prepare_dataset(
    dataset: datasets.Dataset,
    options: DataOptions = DEFAULT_OPTIONS,
    *,
    name: str | None = None,
    split: str | None = None,
    train: Callable[[], datasets.Dataset] | None = None,
    root: Path | None = None,
) -> datasets.Dataset:
    """Give a table of images the columns `image`, `label` or `captions`, and `key`. Images are not decoded or copied.

    Rows that hold one caption each and share an image become one row with all its captions. `name` and `split` are what
    messages call the dataset, `train` opens the training split of the same data if this is another one, and paths are
    relative to `root`, by default the working directory.
    """
    dataset = dataset.with_format(None)  # a copy, whose info is its own
    if name is not None:
        dataset.info.dataset_name = name
    if split is not None:
        dataset._split = datasets.NamedSplit(split)
    if not len(dataset):
        raise ClipScratchError(f"{title(dataset)}: no rows; choose another split or check where it comes from.")
    if (rows := _positions(dataset)) is not None and len(np.unique(rows)) < len(rows):
        dataset = dataset.flatten_indices()  # rows that were selected twice become rows of their own
    named = DEFAULT_OPTIONS if is_prepared(dataset) else options
    image, captions, label = find_columns(dataset.features, named, origin=title(dataset))
    images, paths = _image_column(dataset, image, root)
    keys = _keys(dataset, image, paths, root)
    rows_of = _rows_by_image(images, paths, compare=len(captions) == 1 and is_text(dataset.features[captions[0]]))
    first = [rows[0] for rows in rows_of]
    if captions:
        columns = (written_lists(dataset[column][:]) for column in captions)
        cells = [cell_texts(values) for values in zip(*columns, strict=True)]
        texts = [[]] * len(dataset)
        for rows in rows_of:
            texts[rows[0]] = [text for row in rows for text in cells[row]]
        text_column = {"captions": (texts, CAPTIONS_FEATURE)}
    else:
        if repeated := [keys[rows[0]] for rows in rows_of if len(rows) > 1]:
            raise ClipScratchError(f"{title(dataset)}: {repeated[0]} is in several rows; an image has one label.")
        labels, names = read_labels(dataset, label, options, train=train, origin=title(dataset))
        text_column = {"label": (labels, datasets.ClassLabel(names=names))}
    prepared = _add_columns(images, {**text_column, "key": (keys, KEY_FEATURE)})
    return _without_bad_rows(prepared.select(first) if len(first) < len(dataset) else prepared, options)


def _image_column(dataset, column, root) -> tuple[datasets.Dataset, list[str | None] | None]:
    """Return a dataset of the image column alone, and its (N,) paths if it holds nothing else."""
    if not is_text(dataset.features[column]):
        images = dataset.select_columns([column])
        images = images if column == "image" else images.rename_column(column, "image")
        prepared = images.features["image"] in (IMAGE_FEATURE, TAR_IMAGE_FEATURE)
        return images if prepared else images.cast_column("image", IMAGE_FEATURE), None
    paths = [path_of_cell(root or "", cell) if cell and cell.strip() else None for cell in dataset[column][:]]
    where, named = f"{title(dataset)}: column {column!r}", [path for path in paths if path]
    if not any(map(os.path.exists, named)):
        first = f"the image {named[0][:200]}, which is missing, as are all others" if named else "no image"
        raise ClipScratchError(
            f"{where} names {first}; paths are relative to {root or Path.cwd()}; --image_root names another folder, "
            "--image_column another column."
        )
    info = dataset.info.copy()
    info.features = datasets.Features({"image": IMAGE_FEATURE})
    return datasets.Dataset(pa.table({"image": image_files(paths)}), info=info, split=dataset.split), paths


def _keys(dataset, image, paths, root) -> list[str]:
    """Return the cells of a `key` column if they are unique, else paths, and row numbers where there is neither."""
    if image != "key" and is_text_or_number(dataset.features.get("key")):
        keys = dataset["key"][:]
        if None not in keys and len(set(keys)) == len(keys):
            return list(map(str, keys))
    keys = [f"row-{row:08d}" for row in range(len(dataset))]
    if paths is None:
        return keys
    cells = dataset[image][:]
    for row, (cell, path) in enumerate(zip(cells, paths, strict=True)):
        if path:  # in one spelling from the root; outside of the root as it is written
            relative = os.path.relpath(path, root or Path())
            keys[row] = utf8_key(cell if relative.startswith("..") else relative)
    return keys


def _rows_by_image(images: datasets.Dataset, paths, *, compare: bool) -> list[list[int]]:
    """Group rows of one image, in the order of their first row. `compare` compares images that are not paths."""
    if paths is not None:
        folders = {folder: os.path.realpath(folder) for folder in {os.path.dirname(path) for path in paths if path}}
        names = [path and os.path.join(folders[os.path.dirname(path)], os.path.basename(path)) for path in paths]
    elif compare:
        names = _digests(images)
    else:
        names = [None] * len(images)
    rows_of: dict[Hashable, list[int]] = {}
    for row, name in enumerate(names):
        rows_of.setdefault(row if name is None else name, []).append(row)
    return list(rows_of.values())


def _digests(images: datasets.Dataset) -> list[str | None]:
    """Return a digest of each row's encoded image or path, which `map` caches; `None` for a row without one."""
    folders = {os.path.dirname(file["filename"]) for file in images.cache_files}  # where `map` writes
    digests = images.map(
        _digest, batched=True, batch_size=64, remove_columns=["image"], desc="finding equal images",
        features=datasets.Features({"digest": datasets.Value("string")}),
        keep_in_memory=not all(os.access(folder, os.W_OK) for folder in folders),
    )  # fmt: skip
    return digests["digest"][:]


def _digest(batch: dict) -> dict:
    stored = [cell and (cell.get("bytes") or cell.get("path")) for cell in batch["image"]]
    return {"digest": [image_digest(image) if image else None for image in stored]}


def image_digest(image: bytes | str) -> str:
    """Return a hash of an encoded image, or of its path."""
    return hashlib.blake2b(image if isinstance(image, bytes) else image.encode(), digest_size=16).hexdigest()


def _positions(dataset: datasets.Dataset) -> np.ndarray | None:
    """Return the (N,) rows of `dataset.data` that a dataset selects; `None` for all in order. No public way exists."""
    return None if dataset._indices is None else dataset._indices.column(0).to_numpy().astype(np.int64)


def _add_columns(images, columns: dict[str, tuple[list, object]]) -> datasets.Dataset:
    """Add columns, {name: (values, feature)}, without copying the images, as `add_column` would of selected rows."""
    if (positions := _positions(images)) is not None:
        images = copy.copy(images)
        images._indices = None
        places = np.full(len(images), -1)
        places[positions] = np.arange(len(positions))
    for name, (values, feature) in columns.items():
        array = pa.array(values, datasets.Features({name: feature}).arrow_schema.field(name).type)
        if positions is not None:
            array = array.take(pa.array(places, mask=places < 0))
        images = images.add_column(name, array, feature=feature)
    return images if positions is None else images.select(positions)


def _without_bad_rows(dataset, options: DataOptions):
    """Return the rows that have a caption or a label. Raise for other rows, unless they are to be skipped."""
    if "label" in dataset.features:
        labels, count = dataset["label"][:], len(class_names(dataset))
        needs = f"one of the {count} classes that have names (-1 stands for a hidden label)"
        bad = {row: label for row, label in enumerate(labels) if label not in range(count)}
        bad = {row: "no label" if label is None else f"label {label}" for row, label in bad.items()}
    else:
        needs = "a caption"
        bad = {row: "no caption" for row, texts in enumerate(dataset["captions"][:]) if not texts}
    if not bad:
        return dataset
    keys = dataset["key"][:]
    problems = [f"{keys[row]} has {problem}" for row, problem in bad.items()]
    if options.on_bad_row == "raise" or len(bad) == len(dataset):
        raise ClipScratchError(
            f"{title(dataset)}: {problems[0]}; every row needs {needs}: correct it, or set on_bad_row to skip."
        )
    warn_left_out(dataset, problems, "rows")
    return dataset.select([row for row in range(len(dataset)) if row not in bad])


def warn_left_out(dataset: datasets.Dataset, problems: Sequence[str], kind: str) -> None:
    """Log how many rows or images are left out, if any, and the first three problems."""
    if problems:
        shown = "; ".join([*problems[:3], "..."][: len(problems)])
        logger.warning("%s: left out %d of %d %s: %s", title(dataset), len(problems), len(dataset), kind, shown)


def build_dataset(
    images: pa.Array,
    keys: Sequence[str],
    *,
    captions: Sequence[Sequence[str]] | None = None,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> datasets.Dataset:
    """Make a prepared dataset of (N,) cells of images, unique keys, and captions or labels with their class names."""
    image = TAR_IMAGE_FEATURE if pa.types.is_struct(images.type) and images.type.num_fields == 4 else IMAGE_FEATURE
    features = prepared_features(class_names, image)
    columns = [images, labels if captions is None else captions, keys]
    schema = features.arrow_schema
    table = pa.table([pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)], schema)
    return datasets.Dataset(table, info=datasets.DatasetInfo(features=features))


def image_files(paths: Sequence[str | None]) -> pa.Array:
    """Return the (N,) cells of an `image` column whose images are files; `None` for a row without an image."""
    return pa.array([{"path": path and utf8_key(path)} for path in paths], IMAGE_FEATURE.pa_type)


def image_bytes(files: Sequence[bytes]) -> pa.Array:
    """Return the (N,) cells of an `image` column whose encoded images are in memory."""
    return pa.array([{"bytes": file} for file in files], IMAGE_FEATURE.pa_type)


def ppm(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3) as an uncompressed PPM file, which is fast to write and to read."""
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


def utf8_key(name: str) -> str:
    """Return a file's name, which must be UTF-8, since Arrow holds no other."""
    if not name.isascii() and name.encode(errors="ignore").decode() != name:
        raise ClipScratchError(f"{printable(name)}: its name is not UTF-8; rename it.")
    return name


class ImageReader:
    """Read the images of a prepared dataset by their row, from memory, files or tars.

    It holds no open file: it can be pickled, and used in several threads and worker processes.
    """

    def __init__(self, dataset: datasets.Dataset):
        self.title, self._positions = title(dataset), _positions(dataset)
        self._table = dataset.data.select(["image", "key"])

    def __call__(self, index: int, decode=decode_image):
        """Return `decode(bytes or path, name=...)` of a row. A missing image raises `BadImageError`."""
        row = int(index if self._positions is None else self._positions[index])
        cell = self._table.column("image")[row].as_py() or {}
        if shard := cell.get("shard"):
            return decode(read_member(cell), name=f"{shard}: {cell['member']}")
        if cell.get("path") and not cell.get("bytes"):
            return decode(cell["path"], name=cell["path"])
        name = f"{self.title}: {self._table.column('key')[row].as_py()}"
        if cell.get("bytes"):
            return decode(cell["bytes"], name=name)
        raise BadImageError(f"{name} has no image; remove the row.")


def read_member(cell: dict) -> bytes:
    """Read the bytes of a cell of `TAR_IMAGE_FEATURE`."""
    with open(cell["shard"], "rb") as file:
        file.seek(cell["offset"])
        return file.read(cell["size"])


def content_fingerprint(dataset: datasets.Dataset) -> str:
    """Return a digest of the images alone: of bytes in the table, and of size and time of files that it names."""
    table, positions = dataset.data.select(["image"]).replace_schema_metadata(), _positions(dataset)
    field = "shard" if dataset.features["image"] == TAR_IMAGE_FEATURE else "path"
    names = pa.compute.struct_field(table.column("image"), field)
    names = (names if positions is None else names.take(pa.array(positions))).unique().to_pylist()
    names += [file["filename"] for file in dataset.cache_files]
    files = [(name, os.path.exists(name) and stamp(name)) for name in names if name]  # a missing one raises when read
    return Hasher.hash([table, positions, files])
