"""Raw rows of a streamed split go in, as its files hold them; rows with a key, a picture and their words come out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from .rows import BadImageError
from .streamed_shards import Shards
from .tables import cell_texts
from .webdataset import Sample, sample_captions, sample_label


class StreamedRow(NamedTuple):
    """One row: its picture, still encoded, and either captions or a label."""

    key: str
    picture: bytes
    where: str  # what an error calls it
    captions: list[str] | None
    label: int | None


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """The train split of a data set that is read as it is needed.

    Args:
        name: what the user called the data set.
        kind: `class` or `caption`.
        shards: its files.
        columns: of the picture, the captions and the label, for parquet; `None` for tars.
        class_names, templates: of class data, in label order.
        numbers: label of each class name, where the labels are words.
    """

    name: str
    kind: Literal["class", "caption"]
    shards: Shards
    columns: tuple[str, list[str], str | None] | None = None
    class_names: Sequence[str] | None = None
    templates: Sequence[str] | None = None
    numbers: dict[str, int] | None = None

    def fingerprint(self) -> str:
        """Of the names of the shards: by it a run that goes on knows its set."""
        return hashlib.blake2b("\n".join(map(_stem, self.shards.files)).encode(), digest_size=16).hexdigest()

    def row(self, raw: dict, shard: int, number: int) -> StreamedRow:
        """A raw row as `Shards.rows` gives it -> its parts.

        Raises: BadImageError if it lacks a picture; ValueError if it lacks a caption or a label, or its label a name.
        """
        file = self.shards.files[shard]
        if self.columns is None:
            where, key, picture = f"{file}: {raw['member']}", f"{_stem(file)}/{raw['key']}", raw["image"]
            sample = tar_sample(raw)
            captions = sample_captions(sample, where) if self.kind == "caption" else None
            label = sample_label(sample, where) if self.kind == "class" else None
        else:
            image, texts, column = self.columns
            where = f"{file}: row {number}"
            picture = _picture(raw[image], where, image)
            key = hashlib.blake2b(picture, digest_size=16).hexdigest()  # rows of a table have no names
            captions = cell_texts(tuple(raw[name] for name in texts)) if self.kind == "caption" else None
            label = self._number(raw[column], where, column) if self.kind == "class" else None
        if captions == []:
            raise ValueError(f"{where}: has no caption; every row needs at least one.")
        if label is not None and not 0 <= label < len(self.class_names):
            raise ValueError(f"{where}: label {label} has no class name; {len(self.class_names)} names are known.")
        return StreamedRow(key, picture, where, captions, label)

    def _number(self, value, where, column):
        if value is None or value == "":
            raise ValueError(f"{where}: has no label in column {column!r}; every row of class data needs one.")
        if self.numbers is None:
            return int(value)
        if value not in self.numbers:
            raise ValueError(f"{where}: label {value!r} is not among the {len(self.numbers)} class names; add it.")
        return self.numbers[value]


def tar_sample(raw: dict) -> Sample:
    """A raw row of a tar as the reader of whole tars knows it, but for where its bytes lie."""
    texts = {name: raw[name] for name in ("cls", "txt") if raw[name] is not None}
    return Sample(raw["key"], raw["member"], 0, len(raw["image"]), texts)


def _picture(cell, where, column):
    data = cell if isinstance(cell, bytes) else (cell or {}).get("bytes")
    if not data:
        raise BadImageError(f"{where}: has no picture in column {column!r}; write it there or remove the row.")
    return data


def _stem(file):
    return file.rpartition("/")[2].rpartition(".")[0]
