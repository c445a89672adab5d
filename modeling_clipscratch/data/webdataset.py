"""Folders of tar shards as CLIP_benchmark lays them out go in; rows that read pictures inside the shards come out."""

import hashlib
import os
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from threading import get_ident
from typing import NamedTuple

import numpy as np
from PIL import Image

from .local_files import check_regular
from .pictures import decode_image, is_picture_name
from .rows import DEFAULT_TEMPLATES, BadImageError, Rows
from .shards import is_shard_name, refuse_link, shard_files
from .splits import Readers, by_split
from .templates import published_class_names, templates_from

# The small files beside the splits, by the names that CLIP_benchmark's writer gives them.
KIND_FILE, CLASSES_FILE, TEMPLATES_FILE = "dataset_type.txt", "classnames.txt", "zeroshot_classification_templates.txt"
METADATA_FILES = (KIND_FILE, CLASSES_FILE, TEMPLATES_FILE)
_OPEN_SHARDS = 128  # per process and thread; many systems allow 1,024 or 256 open files in all


class Sample(NamedTuple):
    """What one shard says of one picture: where its bytes lie, and its label or captions."""

    key: str
    member: str
    offset: int
    size: int
    texts: dict[str, str]  # "cls" and "txt", as written


def tar_split_folders(folder: Path) -> dict[str, Path]:
    """The sub-folders that hold tar shards, by split."""
    found = sorted({path.parent.name for path in folder.glob("*/*.tar") if is_shard_name(path.name)})
    return {split: folder / name for split, name in by_split(found, str(folder)).items()}


def loose_shards(folder: Path, tables: Iterable[Path]) -> dict[str, Path]:
    """`{"train": folder}` where it holds shards itself, and no tables but those that img2dataset puts beside them."""
    shards = {path.stem for path in folder.glob("*.tar") if is_shard_name(path.name)}
    return {"train": folder} if shards and shards.issuperset(path.stem for path in tables) else {}


def webdataset_readers(
    folder: Path,
    *,
    name: str,
    splits: dict[str, Path] | None = None,
    origin: str | None = None,
    fingerprint: str | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
) -> Readers:
    """One reader for each sub-folder with shards.

    Args:
        folder: holds `<split>/0.tar`, ... and, for class data, `classnames.txt` and prompt templates.
        splits: where the shards are, if not in sub-folders named after splits.
        origin: where the rows came from, if not this folder.
        fingerprint: of the content, if the files' sizes and times do not tell it.
    """
    return {
        split: partial(
            _read_tar_split,
            folder,
            split_folder,
            name=name,
            split=split,
            origin=origin or str(folder),
            fingerprint=fingerprint,
            class_names=class_names,
            templates=templates,
        )
        for split, split_folder in (splits or tar_split_folders(folder)).items()
    }


def _read_tar_split(
    folder: Path,
    split_folder: Path,
    *,
    name: str,
    split: str,
    origin: str,
    fingerprint: str | None,
    class_names: Sequence[str] | None,
    templates: Sequence[str] | None,
) -> Rows:
    shards = shard_files(split_folder)
    indexed = [_index_shard(shard, *_stamp(shard)) for shard in shards]
    samples = [sample for shard in indexed for sample in shard]
    if not samples:
        raise ValueError(f"{split_folder}: its shards hold no pictures; check how they were written.")
    reader = TarPictures(
        shards=[(str(shard), _stamp(shard)) for shard in shards],
        shard_of=np.repeat(np.arange(len(shards)), [len(shard) for shard in indexed]),
        offsets=np.array([sample.offset for sample in samples], dtype=np.int64),
        sizes=np.array([sample.size for sample in samples], dtype=np.int64),
        members=[sample.member for sample in samples],
    )
    keys = [sample.key for sample in samples]
    if len(set(keys)) < len(keys):  # shards that count from zero each
        keys = [f"{shards[shard].stem}/{key}" for shard, key in zip(reader.shard_of, keys, strict=True)]
    shared = {
        "name": name,
        "split": split,
        "keys": keys,
        "read_image": reader,
        "encoded": True,
        "origin": origin,
        "fingerprint": f"{fingerprint}-{split}" if fingerprint else _fingerprint(shards),
    }
    members = [f"{shards[shard]}: {sample.member}" for shard, sample in zip(reader.shard_of, samples, strict=True)]
    if sample_kind(folder, samples[0], members[0]) == "caption":
        captions = [sample_captions(sample, where) for sample, where in zip(samples, members, strict=True)]
        return Rows(kind="caption", captions=captions, **shared)
    return Rows(
        kind="class",
        labels=np.array([sample_label(s, where) for s, where in zip(samples, members, strict=True)], dtype=np.int64),
        class_names=list(class_names or read_class_names(folder)),
        templates=list(templates or read_templates(folder)),
        **shared,
    )


@dataclass(frozen=True, kw_only=True)
class TarPictures:
    """index -> picture, by one seek and one read; nothing is unpacked. Holds no open file, so it can be pickled."""

    shards: list[tuple[str, tuple[int, int]]]
    shard_of: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    members: list[str]

    def __call__(self, index: int, decode=decode_image) -> Image.Image | np.ndarray:
        shard, stamp = self.shards[self.shard_of[index]]
        name = f"{shard}: {self.members[index]}"
        try:
            file = _open_shard(shard, stamp, os.getpid(), get_ident())
            file.seek(int(self.offsets[index]))
            data = file.read(int(self.sizes[index]))
        except OSError as error:
            raise BadImageError(f"{name}: cannot be read ({error.strerror or error}); restore the shard.") from error
        return decode(data, name=name)


# One handle a process and thread: a handle shared over a fork or between threads would share its position too. The
# stamp is in the key so that a shard replaced under a live process is opened anew.
@lru_cache(maxsize=_OPEN_SHARDS)
def _open_shard(path: str, stamp: tuple[int, int], process: int, thread: int):
    return open(path, "rb")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _fingerprint(shards: list[Path]) -> str:
    return hashlib.blake2b(repr([(str(p), _stamp(p)) for p in shards]).encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=64)  # where validation is carved from train, both splits read the same index
def _index_shard(path: Path, size: int, mtime_ns: int) -> list[Sample]:
    """The samples of one shard that have a picture, in order. A sample's name ends at the first dot of its members."""
    samples: dict[str, Sample] = {}
    texts: dict[str, dict[str, str]] = {}
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                parent, slash, base = member.name.rpartition("/")
                refuse_link(member)
                if not member.isfile() or base.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} goes on past its end")
                stem, _, ending = base.partition(".")
                key = f"{parent}{slash}{stem}".removeprefix("./")
                if ending in ("cls", "txt"):
                    file.seek(member.offset_data)
                    texts.setdefault(key, {})[ending] = file.read(member.size).decode("utf-8", "replace")
                elif is_picture_name(base):
                    if key in samples:
                        raise ValueError(
                            f"{path}: {samples[key].member} and {member.name} are two pictures of one sample (its name "
                            "ends at the first dot); keep one, or rename the other."
                        )
                    texts.setdefault(key, {})
                    samples[key] = Sample(key, member.name, member.offset_data, member.size, texts[key])
            file.seek(tar.offset)
            # tarfile takes a header that is garbage, or no header at all, for the end of the archive.
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("the archive has no proper end")
    except tarfile.TarError as error:
        raise ValueError(f"{path}: damaged or cut short ({error}); fetch or write the shard again.") from error
    return list(samples.values())


def sample_kind(folder: Path, first: Sample, where: str) -> str:
    """`class` or `caption`, as the folder states it or else its first sample shows. Raises: ValueError if neither."""
    kind_file = folder / KIND_FILE
    check_regular(kind_file)
    stated = kind_file.read_text(encoding="utf-8-sig").strip() if kind_file.exists() else None
    if stated == "retrieval":
        return "caption"
    if stated not in (None, "classification"):
        raise ValueError(f"{kind_file}: {stated!r} is not supported; 'retrieval' and 'classification' are.")
    # CLIP_benchmark's writer states nothing for classification; other writers state nothing for captions either.
    if stated is None and "cls" not in first.texts and "txt" in first.texts:
        return "caption"
    if "cls" not in first.texts:
        raise ValueError(f"{where}: has neither a label (.cls) nor captions (.txt) beside it; every sample needs one.")
    return "class"


def sample_captions(sample: Sample, where: str) -> list[str]:
    """Lines of the sample's `.txt`. Raises: ValueError if it has none."""
    captions = [line.strip() for line in sample.texts.get("txt", "").splitlines() if line.strip()]
    if not captions:
        raise ValueError(f"{where}: has no captions (.txt) beside it; every sample of caption data needs one.")
    return captions


def sample_label(sample: Sample, where: str) -> int:
    """Number in the sample's `.cls`. Raises: ValueError if it is none."""
    written = sample.texts.get("cls", "").strip()
    if not written.isdigit():
        raise ValueError(f"{where}: its label (.cls) is {written!r}; it must be a whole number, 0 or more.")
    return int(written)


def read_class_names(folder: Path) -> list[str]:
    """Names in label order, a line each. Raises: ValueError if there is no such file, or it skips a line."""
    path = folder / CLASSES_FILE
    if not path.exists():
        raise ValueError(f"{folder}: has no {CLASSES_FILE}; write one name a line in label order, or give class names.")
    return published_class_names(path)


def read_templates(folder: Path) -> Sequence[str]:
    """Prompts, a line each, `{}` for the class; the plain one where there is no such file."""
    path = folder / TEMPLATES_FILE
    check_regular(path)
    empty = not path.exists() or not path.read_text(encoding="utf-8-sig").strip()
    return DEFAULT_TEMPLATES if empty else templates_from([str(path)])
