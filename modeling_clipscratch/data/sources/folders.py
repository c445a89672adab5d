"""Find and open folders of images: one sub-folder a class, or a text file beside each image."""

import itertools
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import datasets

from ...utils.errors import ClipScratchError
from ...utils.local_files import Listing, read_text
from ..columns import DataOptions, check_no_columns, class_order, readable_class
from ..dataset import build_dataset, image_files, utf8_key
from ..images.decode import is_image_name, is_unread_name
from ..splits import Source, Split, by_split, canonical_split, is_split_name, split_of_path, split_words

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"}
_SHARD = re.compile(r"\d{5,}")  # folders of img2dataset
_BOXES = re.compile(r"\s*\d+(\s+\d*\.\d+){4}\s")  # a class and four fractions: a label for a detector
_LACKS = (
    "hold images, but neither classes nor captions; add a captions.csv with the columns image and caption, a .txt "
    "beside each image, or one sub-folder a class."
)

Images = Mapping[str, Sequence[str]]  # folder relative to the dataset's, "" for itself -> its images


def image_folder_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source | None:
    """Return the splits of a folder of images; `None` if it holds no image."""
    images = {inside: names for inside, files in listing.items() if (names := [*filter(is_image_name, files)])}
    if not images:
        return None
    if options.folder_names != "classes" and (texts := _texts_beside(images, listing)):
        source = _caption_source(folder, images, texts, listing, name, options)
    else:
        source = _class_source(folder, images, listing, name, options)
    check_no_columns(name, options)
    return source


# Texts beside images


def _join(inside: str, file: str) -> str:
    return f"{inside}/{file}" if inside else file


def _texts_beside(images: Images, listing: Listing) -> dict[str, str]:
    """Map images to the text files of the same names; none if fewer than half of the images have one."""
    texts = {}
    for inside, names in images.items():
        beside = {os.path.splitext(file)[0]: file for file in listing[inside] if file.lower().endswith(".txt")}
        for image in names if beside else ():
            if text := beside.get(os.path.splitext(image)[0]):
                texts[_join(inside, image)] = _join(inside, text)
    return texts if 2 * len(texts) >= sum(map(len, images.values())) else {}


def _caption_source(folder, images, texts, listing, name, options) -> Source:
    split_of = {inside: split_of_path(inside) for inside in images}
    if not all(split_of.values()):  # a folder `toy train` among others is no split
        split_of = {inside: next(filter(is_split_name, inside.split("/")), None) for inside in images}
    splits: dict[str, list[str]] = {}
    for inside, split in split_of.items():
        splits.setdefault(canonical_split(split or ""), []).extend(_join(inside, image) for image in images[inside])
    unnamed = splits.pop("", [])
    if splits and unnamed:
        logger.warning("%s: %d images in no split's folder are left out (%s, ...).", name, len(unnamed), unnamed[0])
    source = {}
    for split, paths in (splits or {"train": unnamed}).items():
        inside, _, image = paths[0].rpartition("/")  # img2dataset writes one alt text, with a .json beside it
        one = f"{os.path.splitext(image)[0]}.json" in listing[inside] or _SHARD.fullmatch(inside.rpartition("/")[2])
        one = options.caption_lines == "join" if options.caption_lines else bool(one)
        read = partial(_read_captions, folder, paths, texts, one, options)
        source[split] = Split(read, f"{folder}, text files beside the images")
    return source


def _read_captions(folder, paths, texts, one, options) -> datasets.Dataset:
    captions = []
    for path in paths:
        text = _read_caption(folder / texts[path], options) if path in texts else ""
        lines = [" ".join(text.split())] if one else map(str.strip, text.splitlines())
        captions.append([line for line in lines if line])
    images = image_files([str(folder / path) for path in paths])
    return build_dataset(images, [*map(utf8_key, paths)], captions=captions)


def _read_caption(path: Path, options: DataOptions) -> str:
    try:
        text = read_text(path)
    except ClipScratchError:
        if options.on_bad_row == "raise":
            raise
        return ""  # a row without a caption, which is left out and counted
    if _BOXES.match(f"{text} "):
        raise ClipScratchError(
            f"{path}: holds a class and a box for a detector, not a caption; remove these files, or set --folder_names "
            "classes to read the folders as classes."
        )
    return text


# Classes


def _class_source(folder: Path, images: Images, listing: Listing, name: str, options: DataOptions) -> Source:
    """Return a split for each split folder, its classes numbered by train's sub-folders in the order of their names.

    `class_names` renames the classes in that order.
    """
    splits = {split: _innermost(images, top) for split, top in _split_folders(images, name, options).items()}
    parts = {split: _below(images, top) for split, top in splits.items()}
    classes = {split: [*dict.fromkeys(_top(inside) for inside in part if inside)] for split, part in parts.items()}
    every = class_order(classes.get("train", ()), itertools.chain(*classes.values()))
    for split, own in classes.items():
        if own and classes.get("train") and not {*own} & {*classes["train"]}:
            raise ClipScratchError(
                f"{name}: train has the classes {_some(classes['train'])}, and {split} has {_some(own)}, none of them; "
                "give all splits the same sub-folders, one a class."
            )
    if not every:
        raise ClipScratchError(f"{name}: its folders {_LACKS}")
    if options.class_names and len(options.class_names) != len(every):
        raise ClipScratchError(
            f"{name}: {len(options.class_names)} class names for {len(every)} sub-folders ({', '.join(every[:5])}, "
            "...); give one name for each."
        )
    names = list(options.class_names or _readable(name, every))
    tops = {*splits.values()}
    inner = tuple(f"{top}/" if top else "" for top in tops)
    if outside := [inside or "." for inside in images if not inside or not inside.startswith(inner)]:
        logger.warning("%s: the images in %s are of no class and left out.", name, _some(outside))
    unread = {inside: () for inside, files in listing.items() if any(map(is_unread_name, files))}
    empty = {_top(inside) for top in tops for inside in _below(unread, top)} - {"", *every, *tops}
    if empty:
        logger.warning("%s: %s hold no image of a kind that is read, so they are no classes.", name, _some(empty))
    return {
        split: Split(partial(_read_classes, folder / top, parts[split], every, names), str(folder / top))
        for split, top in splits.items()
        if classes[split]
    }


def _split_folders(images: Images, name: str, options: DataOptions) -> dict[str, str]:
    """Map splits to their sub-folders; `{"train": ""}` if the sub-folders are classes."""
    tops: dict[str, set[str]] = {}  # sub-folder -> those in it that hold images, "" for itself
    for inside in filter(None, images):
        tops.setdefault(_top(inside), set()).add(_top(inside.partition("/")[2]))
    if options.folder_names == "splits":
        if splits := by_split(tops, name, split_of_path):
            return splits
        raise ClipScratchError(f"{name}: folder_names='splits', and none of {_some(tops)} is named after a split.")
    exact = [top for top in tops if is_split_name(top)]
    deep = [top for top in exact if tops[top] != {""}]
    if deep and options.folder_names is None:
        return by_split(deep, name)
    if tops and options.folder_names is None:
        _check_classes(tops, exact, images, name)
    return {"train": ""}


def _check_classes(tops: Mapping[str, set[str]], exact: Sequence[str], images: Images, name: str) -> None:
    """Raise `ClipScratchError` if the sub-folders may be something other than classes, naming what."""
    kinds, below = ({*itertools.chain(*map(split_words, words))} for words in (tops, itertools.chain(*tops.values())))
    others, inner = len(tops) - len(exact), next(iter(tops.values()))
    generic = [top for top in tops if top.lower() in _IMAGE_FOLDERS]
    if exact and not others or generic and {*images} == {*generic}:
        raise ClipScratchError(f"{name}: its folders {_some(tops)} {_LACKS}")
    doubt, remedy = None, "for the second, lay them out as <split>/<class>/"
    if len(kinds) > 1 or exact and others == 1:
        doubt, remedy = "splits, as words in their names say", "--folder_names splits for the second"
    elif len(below) > 1:
        doubt = f"folders of the splits {_some(below)}, which lie in them"
        remedy = f"for the second, give {Path(name, *tops)}" if len(tops) == 1 else remedy
    elif len(tops) == 1 and len(inner) > 1 and "" not in inner:
        doubt, remedy = f"the folder of the classes {_some(inner)}", f"for the second, give {Path(name, *tops)}"
    elif all(map(_SHARD.fullmatch, tops)):
        doubt, remedy = "img2dataset's shards, whose .txt files are missing", "for the second, add the .txt files"
    elif generic:
        doubt = f"the images ({generic[0]}) and what belongs to them"
        remedy = f"for the second, add a captions.csv, or give {Path(name, generic[0])}, if the classes are there"
    elif len(files := _file_splits(images)) > 1:
        doubt = f"classes whose files are named after the splits {_some(files)}"
    if doubt:
        raise ClipScratchError(
            f"{name}: the sub-folders {_some(tops)} may be classes, or {doubt}; set --folder_names classes for the "
            f"first; {remedy}."
        )


def _file_splits(images: Images) -> set[str]:
    """Return the splits in the names of all images; none if one image has no such word."""
    splits = set()
    for file in itertools.chain(*images.values()):
        if not (words := split_words(os.path.splitext(file)[0])):
            return set()
        splits |= words
    return splits


def _innermost(images: Images, top: str) -> str:
    """Return the folder of a split, or one named like a split that alone lies in it (`seg_train/seg_train/`)."""
    inner = {_top(inside) for inside in _below(images, top)} if top else set()
    if len(inner) != 1 or not split_words(alone := inner.pop()):
        return top
    return _innermost(images, f"{top}/{alone}") if any(_below(images, f"{top}/{alone}")) else top


def _top(inside: str) -> str:
    return inside.partition("/")[0]


def _some(names: Iterable[str]) -> str:
    names = sorted({*names} - {""})
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _below(images: Images, top: str) -> Images:
    """Return the folders of a sub-folder, relative to it."""
    if not top:
        return images
    return {inside[len(top) + 1 :]: files for inside, files in images.items() if f"{inside}/".startswith(f"{top}/")}


def _readable(name: str, folders: Sequence[str]) -> list[str]:
    """Return the names of the classes of folders. Raise if two are equal, or one is not UTF-8."""
    classes: dict[str, str] = {}
    for folder in folders:
        words = readable_class(folder)
        if utf8_key(words) != words:
            problem = f"the sub-folder {folder!a} has a name that is not UTF-8; rename it"
        elif words in classes:
            problem = f"the sub-folders {classes[words]!r} and {folder!r} would be classes of one name; rename one"
        else:
            classes[words] = folder
            continue
        raise ClipScratchError(f"{name}: {problem}, or give class_names.")
    return list(classes)


def _read_classes(folder: Path, images: Images, classes: Sequence[str], names: Sequence[str]) -> datasets.Dataset:
    keys, labels = [], []
    folders: dict[str, list[str]] = {}  # of each class, in the order of the walk
    for inside in images:
        folders.setdefault(_top(inside), []).append(inside)
    for label, name in enumerate(classes):
        for inside in folders.get(name, ()):
            keys += [f"{inside}/{file}" for file in images[inside]]
            labels += [label] * len(images[inside])
    paths = [f"{folder}{os.sep}{key}" for key in keys]
    return build_dataset(image_files(paths), [*map(utf8_key, keys)], labels=labels, class_names=names)
