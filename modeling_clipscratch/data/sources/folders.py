"""Find and open folders of images: one sub-folder a class, or a text file beside each image."""

import functools
import logging
import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import datasets

from ..columns import DataOptions, class_order, readable_class
from ..dataset import build_dataset, image_files, utf8_key
from ..local_files import read_text
from ..pictures import is_picture_name, is_unread_name
from ..splits import Source, Split, by_split, canonical_split, is_split_name, split_of_path, split_words
from .tables import Listing

logger = logging.getLogger(__name__)

_IMAGE_WORDS = {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"}
_SHARD = re.compile(r"\d{5,}")  # how img2dataset calls its folders
_BOXES = re.compile(r"\s*\d+(\s+\d*\.\d+){4}\s")  # a class and four fractions: a detector's label

Images = Mapping[str, Sequence[str]]  # folder below the dataset's -> its images


def image_folder_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source | None:
    """The splits of a folder of images; `None` where there is no image.

    Raises: ValueError if the folders can be read in two ways, naming both, or if there are neither classes nor texts.
    """
    images = {inside: found for inside, files in listing.items() if (found := [*filter(is_picture_name, files)])}
    if not images:
        return None
    if options.folder_names != "classes" and (texts := _texts_beside(images, listing)):
        return _caption_source(folder, images, texts, listing, name, options)
    return _class_source(folder, images, listing, name, options)


def _texts_beside(images: Images, listing: Listing) -> dict[str, str]:
    """Image -> the text file of the same name; none where fewer than half of the images have one."""
    texts = {}
    for inside, names in images.items():
        beside = {os.path.splitext(file)[0]: file for file in listing[inside] if file.lower().endswith(".txt")}
        for image in names if beside else ():
            if text := beside.get(os.path.splitext(image)[0]):
                texts[_join(inside, image)] = _join(inside, text)
    return texts if 2 * len(texts) >= sum(map(len, images.values())) else {}


def _join(inside, file):
    return f"{inside}/{file}" if inside else file


def _caption_source(folder, images, texts, listing, name, options) -> Source:
    splits: dict[str | None, list[str]] = {}
    for inside, names in images.items():
        splits.setdefault(split_of_path(inside), []).extend(_join(inside, image) for image in names)
    unnamed = splits.pop(None, [])
    if splits and unnamed:
        logger.warning("%s: %d images (%s, ...) lie in no split's folder; left aside.", name, len(unnamed), unnamed[0])
    splits = splits or {"train": unnamed}
    return {
        split: Split(
            functools.cache(partial(_read_captions, folder, paths, texts, _is_one_caption(paths, listing), options)),
            f"{folder}, {len(paths)} images with text files",
        )
        for split, paths in splits.items()
    }


def _is_one_caption(paths: Sequence[str], listing: Listing) -> bool:
    """Whether the lines of a text are one caption: as img2dataset writes an alt text, with a `.json` beside it."""
    inside, _, image = paths[0].rpartition("/")
    return f"{os.path.splitext(image)[0]}.json" in listing[inside] or bool(_SHARD.fullmatch(inside.rpartition("/")[2]))


def _read_captions(folder, paths, texts, one, options) -> datasets.Dataset:
    one = options.caption_lines == "join" if options.caption_lines else one
    captions = []
    for path in paths:
        text = _read_text(folder / texts[path], options) if path in texts else ""
        lines = [" ".join(text.split())] if one else text.splitlines()
        captions.append([line.strip() for line in lines if line.strip()])
    return build_dataset(
        image_files([str(folder / path) for path in paths]), [*map(utf8_key, paths)], captions=captions
    )


def _read_text(path: Path, options: DataOptions) -> str:
    try:
        text = read_text(path)
    except ValueError:
        if options.on_bad_row == "raise":
            raise
        return ""  # a row without a caption, which is left out and counted
    if _BOXES.match(f"{text} "):
        raise ValueError(
            f"{path}: holds a class and a box of a detector, no caption; remove these files, or set --folder_names "
            "classes to read the folders as classes."
        )
    return text


def _class_source(folder: Path, images: Images, listing: Listing, name: str, options: DataOptions) -> Source:
    """Classes are numbered by train's sub-folders, in order of their names; `class_names` renames them in that order."""
    splits = _split_folders(folder, images, name, options)
    parts = {split: _below(images, top) for split, top in splits.items()}
    classes = {split: {inside.split("/")[0] for inside in part} - {""} for split, part in parts.items()}
    aside = [
        _join(top, part[""][0]) for (split, top), part in zip(splits.items(), parts.values(), strict=True) if "" in part
    ]
    if any(splits.values()):
        aside += [
            _join(inside, files[0]) for inside, files in images.items() if inside.split("/")[0] not in splits.values()
        ]
    if aside:
        logger.warning(
            "%s: the images of %d folders (%s, ...) are of no class; left aside.", name, len(aside), aside[0]
        )
    parts = {split: part for split, part in parts.items() if classes[split]}
    every = class_order(classes.get("train", ()), set().union(*classes.values()))
    if not every:
        raise ValueError(f"{name}: holds images, but neither classes (sub-folders) nor captions; {_REMEDY}.")
    if options.class_names and len(options.class_names) != len(every):
        raise ValueError(
            f"{name}: {len(options.class_names)} class names for {len(every)} sub-folders ({', '.join(every[:5])}, ...); "
            "give one name for each."
        )
    if not options.class_names:
        _check_folder_names(name, every)
    _warn_of_empty(name, listing, splits, every)
    names = list(options.class_names or map(readable_class, every))
    return {
        split: Split(
            functools.cache(partial(_read_classes, folder / splits[split], part, every, names)),
            str(folder / splits[split]),
        )
        for split, part in parts.items()
    }


_REMEDY = "add a captions.csv with the columns image and caption, a .txt beside each image, or one sub-folder a class"


def _split_folders(folder: Path, images: Images, name: str, options: DataOptions) -> dict[str, str]:
    """Split -> its sub-folder; `{"train": ""}` where the sub-folders are classes."""
    tops: dict[str, set[str]] = {}  # sub-folder -> those in it that hold images, "" for itself
    for inside in images:
        top, _, rest = inside.partition("/")
        if top:
            tops.setdefault(top, set()).add(rest.partition("/")[0])
    if options.folder_names == "classes" or not tops:
        return {"train": ""}
    if options.folder_names == "splits":
        named = {top: split_of_path(top) for top in tops}
        found = by_split(filter(None, named.values()), name)
        if not found:
            raise ValueError(f"{name}: folder_names='splits', but none of {_some(tops)} is named after a split.")
        return {split: top for top, split in named.items() if split}
    exact = [top for top in tops if is_split_name(top)]
    if deep := [top for top in exact if tops[top] != {""}]:
        return by_split(
            [
                *deep,
                *(top for top in exact if top not in deep and canonical_split(top) not in map(canonical_split, deep)),
            ],
            name,
        )
    kinds = {split for top in tops for split in split_words(top)}
    others = [top for top in tops if top not in exact]
    if exact and not others:
        raise ValueError(
            f"{name}: {_some(exact)} are splits, but hold neither classes (sub-folders) nor captions; {_REMEDY}."
        )
    if len(kinds) > 1 or exact and len(others) == 1:
        raise _doubt(name, tops, "splits, since their names are words for these")
    below = {split for inner in tops.values() for top in inner for split in split_words(top)}
    if len(below) > 1:
        raise _doubt(
            name,
            tops,
            f"folders of splits, since {_some(set().union(*tops.values()) - {''})} lie in them",
            split=False,
            inner=tops,
        )
    if len(tops) == 1 and len(sub := next(iter(tops.values()))) > 1 and "" not in sub:
        raise _doubt(name, tops, f"the folder of the classes {_some(sub)}", split=False, inner=tops)
    if all(map(_SHARD.fullmatch, tops)):
        raise _doubt(name, tops, "shards without captions, since their names are numbers", split=False)
    words = [top for top in tops if top.lower() in _IMAGE_WORDS]
    if words and len(tops) > 1:
        raise _doubt(
            name, tops, f"images in {words[0]!r} and something that belongs to them in the others", split=False
        )
    if words and set(images) == {words[0]}:
        raise ValueError(
            f"{name}: holds images in {words[0]!r}, but neither classes (sub-folders) nor captions; {_REMEDY}."
        )
    file_words = set()
    for files in images.values():
        for file in files:
            if not (found := split_words(os.path.splitext(file)[0])):
                return {"train": ""}
            file_words |= found
    if len(file_words) > 1:
        raise ValueError(
            f"{name}: every image has a word for a split in its name ({' and '.join(sorted(file_words))}), which is "
            "not read; put them into folders (train/<class>/, test/<class>/), or set --folder_names classes to read all "
            "of them as one split."
        )
    return {"train": ""}


def _doubt(name, tops, other, *, split=True, inner=None):
    remedy = "--folder_names classes or splits chooses"
    if not split:
        remedy = f"give {Path(name) / next(iter(inner))}, or " if inner and len(inner) == 1 else ""
        remedy += "set --folder_names classes for the first; for the second, lay them out as <split>/<class>/"
    return ValueError(f"{name}: the sub-folders {_some(tops)} may be classes, or {other}; {remedy}.")


def _some(names) -> str:
    names = sorted(names)
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _below(images: Images, top: str) -> Images:
    """The folders of a sub-folder, as seen from there."""
    if not top:
        return images
    return {
        inside[len(top) :].lstrip("/"): files for inside, files in images.items() if f"{inside}/".startswith(f"{top}/")
    }


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


def _warn_of_empty(name, listing, splits, classes):
    """Says which sub-folders would be classes, if their images were of a kind that is read."""
    unread = {inside for inside, files in listing.items() if any(map(is_unread_name, files))}
    empty = {inside.split("/")[0] for top in splits.values() for inside in _below(dict.fromkeys(unread, ()), top)}
    if empty := empty.difference(classes, {""}, splits.values()):
        logger.warning("%s: %s hold no image that is read, so they are no classes.", name, _some(empty))


def _read_classes(folder: Path, images: Images, classes: Sequence[str], names: Sequence[str]) -> datasets.Dataset:
    keys, labels = [], []
    folders: dict[str, list[str]] = {}  # of each class, in the order in which they were walked
    for inside in images:
        folders.setdefault(inside.split("/")[0], []).append(inside)
    for label, name in enumerate(classes):
        for inside in folders.get(name, ()):
            keys += [f"{inside}/{file}" for file in images[inside]]
            labels += [label] * len(images[inside])
    paths = [f"{folder}{os.sep}{key}" for key in keys]
    return build_dataset(image_files(paths), [*map(utf8_key, keys)], labels=labels, class_names=names)
