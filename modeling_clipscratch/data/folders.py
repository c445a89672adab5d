"""Folders of pictures go in, one sub-folder a class or with a metadata table; rows come out."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .columns import Columns, class_order, readable_class
from .local_files import refuse_unreadable
from .names import is_junk_folder
from .pictures import is_picture_name, is_unread_name, warn_of_unread
from .rows import DEFAULT_TEMPLATES, Rows
from .splits import Readers, by_split, canonical_split, is_split_name
from .tables import files_fingerprint, read_path, table_readers

logger = logging.getLogger(__name__)

_METADATA = ("metadata.csv", "metadata.jsonl")


def metadata_readers(folder: Path, *, name: str, columns: Columns, cache_dir: str | None = None) -> Readers:
    """One reader for each split folder with a metadata table, or one for the folder's own; none where there is none.

    Such a table names only files in `folder`: people get it from others, together with the images.
    """
    splits = _split_folders(folder)
    tables = {split: _metadata(split_folder) for split, split_folder in splits.items()}
    found = {split: [table] for split, table in tables.items() if table is not None}
    parted = [path for path in _sub_folders(folder) if is_split_name(path.name) and _has_pictures(path)]
    stray = _metadata(folder)
    if stray and (len(parted) > 1 if splits == {"train": folder} else not found):
        raise ValueError(f"{stray}: lies beside split folders; put one into each of them, with its own rows.")
    return table_readers(found, name, columns, cache_dir, folder=folder)


def _metadata(folder):
    return next((folder / file for file in _METADATA if (folder / file).exists()), None)


def class_folder_readers(
    folder: Path, *, name: str, class_names: Sequence[str] | None = None, templates: Sequence[str] | None = None
) -> Readers:
    """One reader for each split folder that has sub-folders with pictures; none where there is none.

    Classes are numbered by train's sub-folders, in order of their names; `class_names` renames them in that order.
    """
    splits = _split_folders(folder)
    classes = {split: _class_folders(split_folder) for split, split_folder in splits.items()}
    every = class_order(classes.get("train", []), [found for folders in classes.values() for found in folders])
    if class_names and len(class_names) != len(every):
        raise ValueError(
            f"{name}: {len(class_names)} class names for {len(every)} sub-folders ({', '.join(every[:5])}, ...); "
            "give one name for each."
        )
    _check_no_splits(name, every)
    if not class_names:
        _check_folder_names(name, every)
    return {
        split: partial(
            _read_class_folders,
            split_folder,
            name=name,
            split=split,
            classes=every,
            class_names=list(class_names or map(readable_class, every)),
            templates=list(templates or DEFAULT_TEMPLATES),
        )
        for split, split_folder in splits.items()
        if classes[split]
    }


def _check_no_splits(name, folders):
    """Raises: ValueError for folders such as `train2017` and `val2017`, which are read as classes."""
    words = {folder: re.fullmatch(r"([A-Za-z]+)[-_ ]?\d+", folder) for folder in folders}
    splits = {canonical_split(match[1]): folder for folder, match in words.items() if match and is_split_name(match[1])}
    if len(splits) > 1:
        raise ValueError(
            f"{name}: the sub-folders {' and '.join(map(repr, splits.values()))} would be classes, and look like "
            f"splits; rename them to {', '.join(splits)}."
        )


def _check_folder_names(name, folders):
    read = {}
    for folder in folders:
        words = readable_class(folder)
        if words.encode(errors="ignore").decode() != words:
            raise ValueError(
                f"{name}: the sub-folder {folder!a} has a name that is no UTF-8; rename it, or give class_names."
            )
        if words in read:
            raise ValueError(
                f"{name}: the sub-folders {read[words]!r} and {folder!r} would be classes of one name; rename one, or "
                "give class_names."
            )
        read[words] = folder


def _split_folders(folder: Path) -> dict[str, Path]:
    """Sub-folders that are named after splits; where there is none, the folder itself is train."""
    names = [path.name for path in sorted(folder.iterdir()) if _is_split_folder(path)]
    found = {split: folder / name for split, name in by_split(names, str(folder)).items()}
    return found if any(map(_holds_rows, found.values())) else {"train": folder}  # a class may be called train


def _holds_rows(folder: Path) -> bool:
    return _metadata(folder) is not None or any(map(_has_pictures, _sub_folders(folder)))


def _is_split_folder(path: Path) -> bool:
    return path.is_dir() and is_split_name(path.name)


def _class_folders(folder: Path) -> list[str]:
    return [path.name for path in _sub_folders(folder) if _has_pictures(path)]


def _sub_folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not is_junk_folder(path.name)]


def _has_pictures(folder: Path) -> bool:
    return any(is_picture_name(file) for _, files in _walk(folder) for file in files)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    for parent, subfolders, files in os.walk(folder, onerror=refuse_unreadable):
        subfolders[:] = sorted(name for name in subfolders if not is_junk_folder(name))
        yield parent, sorted(files)


def _read_class_folders(
    folder: Path, *, name: str, split: str, classes: list[str], class_names: list[str], templates: list[str]
) -> Rows:
    keys, labels, unread, links = [], [], [], []
    others = sorted({path.name for path in _sub_folders(folder)}.difference(classes))  # none of their pictures is read
    for label, class_folder in enumerate([*classes, *others]):
        for parent, files in _walk(folder / class_folder):
            unread += [f"{parent}/{file}" for file in files if is_unread_name(file)]
            links += [entry.path for entry in os.scandir(parent) if entry.is_symlink() and entry.is_dir()]
            inside = Path(parent).relative_to(folder).as_posix()
            pictures = [f"{inside}/{file}" for file in files if is_picture_name(file)]
            keys += pictures
            labels += [label] * len(pictures)
    warn_of_unread(unread)
    if links:  # one may lead to another class, or back up
        logger.warning("%d links to folders (%s, ...) are not followed; put the images there.", len(links), links[0])
    paths = [str(folder / key) for key in keys]
    return Rows(
        name=name,
        split=split,
        kind="class",
        keys=keys,
        read_image=partial(read_path, paths),
        encoded=True,
        labels=np.array(labels, dtype=np.int64),
        class_names=class_names,
        templates=templates,
        origin=str(folder),
        fingerprint=files_fingerprint(paths),
    )
