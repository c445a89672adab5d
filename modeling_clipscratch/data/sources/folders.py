"""Find and open folders of images: one sub-folder a class, or a text file beside each image."""

import itertools
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path

import datasets

from ...utils.errors import ClipScratchError
from ...utils.local_files import Listing, read_text
from ..columns import DataOptions, check_no_columns, class_order, readable_class
from ..dataset import build_dataset, image_files, utf8_key
from ..images.decode import is_image_name
from ..splits import KEYWORDS, Source, Split, by_split, canonical_split, group_by_split, split_of_path, split_words
from ..templates import check_class_names

logger = logging.getLogger(__name__)

_IMAGE_FOLDERS = {"image", "images", "img", "imgs", "jpegimages", "photos", "pictures"}
_SHARD = re.compile(r"\d{5,}")  # folders of img2dataset

Images = Mapping[str, Sequence[str]]  # folder relative to the dataset's, "" for itself -> its images


def image_folder_source(folder: Path, listing: Listing, name: str, options: DataOptions) -> Source | None:
    """Return the splits of a folder of images; `None` if it holds no image."""
    images = {inside: names for inside, files in listing.items() if (names := [*filter(is_image_name, files)])}
    if not images:
        return None
    check_no_columns(name, options)
    if options.folder_names != "classes" and (texts := _texts_beside(images, listing)):
        return _caption_source(folder, images, texts, listing, name, options)
    return _class_source(folder, images, name, options)


def _texts_beside(images: Images, listing: Listing) -> dict[str, str]:
    """Map images to the text files of the same names; none if fewer than half of the images have one."""
    texts = {}
    for inside, names in images.items():
        beside = {os.path.splitext(file)[0]: file for file in listing[inside] if file.lower().endswith(".txt")}
        for image in names:
            if text := beside.get(os.path.splitext(image)[0]):
                texts[os.path.join(inside, image)] = os.path.join(inside, text)
    return texts if 2 * len(texts) >= sum(map(len, images.values())) else {}


def _caption_source(folder, images, texts, listing, name, options) -> Source:
    source = {}
    for split, folders in group_by_split(images, name).items():
        paths = [os.path.join(inside, image) for inside in folders for image in images[inside]]
        inside, image = os.path.split(paths[0])  # img2dataset writes one alt text, with a .json beside it
        one = _SHARD.fullmatch(os.path.basename(inside)) or f"{os.path.splitext(image)[0]}.json" in listing[inside]
        one = options.caption_lines == "join" if options.caption_lines else bool(one)
        read = partial(_read_captions, folder, paths, texts, one, options)
        source[split] = Split(read, f"{folder}, text files beside the images")
    return source


def _read_captions(folder, paths, texts, one, options) -> datasets.Dataset:
    captions = []
    for path in paths:
        try:
            text = read_text(folder / texts[path]) if path in texts else ""
        except ClipScratchError:
            if options.on_bad_row == "raise":
                raise
            text = ""  # a row without a caption, which is left out and counted
        lines = [" ".join(text.split())] if one else map(str.strip, text.splitlines())
        captions.append([line for line in lines if line])
    images = image_files([str(folder / path) for path in paths])
    return build_dataset(images, [*map(utf8_key, paths)], captions=captions)


def _class_source(folder: Path, images: Images, name: str, options: DataOptions) -> Source:
    """Return a split for each split folder; `class_names` renames the classes in the order of `class_order`."""
    tops = _split_folders(images, name, options)
    split_of = {top: split for split, top in tops.items()}
    rows: dict[str, list[tuple[str, str]]] = {}  # split -> class and key of each image
    outside = []
    for inside, files in images.items():
        top = "" if "" in split_of else _top(inside)
        split, below = split_of.get(top), inside.removeprefix(f"{top}/")
        if split and below and inside != top:
            rows.setdefault(split, []).extend((_top(below), f"{below}/{file}") for file in files)
        else:
            outside.append(inside or ".")
    classes = {split: {own for own, _ in part} for split, part in rows.items()}
    every = class_order(classes.get("train", ()), itertools.chain(*classes.values()))
    if not every:
        raise ClipScratchError(
            f"{name}: its folders hold images, but neither classes nor captions in a split; add a captions.csv with "
            "the columns image and caption, a .txt beside each image, or one sub-folder a class."
        )
    for split, own in classes.items():
        if not own & (train := classes.get("train", own)):
            raise ClipScratchError(
                f"{name}: train has the classes {_some(train)}, and {split} has {_some(own)}, none of them; give all "
                "splits the same sub-folders, one a class."
            )
    names = list(options.class_names or map(readable_class, every))
    check_class_names(names)
    if len(names) != len(every):
        raise ClipScratchError(
            f"{name}: {len(names)} class names for {len(every)} sub-folders ({_some(every)}); give one name for each."
        )
    if outside:
        logger.warning("%s: the images in %s are of no class and left out.", name, _some(outside))
    return {
        split: Split(partial(_read_classes, folder / top, rows[split], every, names), str(folder / top))
        for split, top in tops.items()
        if split in rows
    }


def _split_folders(images: Images, name: str, options: DataOptions) -> dict[str, str]:
    """Map splits to their sub-folders; `{"train": ""}` if the sub-folders are classes. What may be either raises."""
    tops: dict[str, set[str]] = {}  # sub-folder -> those in it that hold images, "" for itself
    for inside in filter(None, images):
        tops.setdefault(_top(inside), set()).add(_top(inside.partition("/")[2]))
    if options.folder_names == "splits":
        return by_split(tops, name, split_of_path)
    if options.folder_names == "classes" or not tops:
        return {"train": ""}
    exact = [top for top in tops if canonical_split(top) in KEYWORDS]
    if deep := [top for top in exact if tops[top] != {""}]:
        return by_split(deep, name)
    if exact == [*tops] or {*map(str.lower, images)} <= _IMAGE_FOLDERS:
        return {top: top for top in tops}  # which hold no classes
    stems = [os.path.splitext(file)[0] for file in itertools.chain(*images.values())]
    named = [tops, itertools.chain(*tops.values()), stems if all(map(split_words, stems)) else ()]
    splits = [kinds for words in named if len(kinds := {*itertools.chain(*map(split_words, words))}) > 1]
    doubt = None
    if splits or (exact and len(tops) == 2):
        doubt = f"the splits {_some(splits[0] if splits else exact)}, which names of folders or files mean"
    elif len(tops) == 1 and len(inner := next(iter(tops.values()))) > 1 and "" not in inner:
        doubt = f"the folder of the classes {_some(inner)}"
    elif all(map(_SHARD.fullmatch, tops)):
        doubt = "img2dataset's shards, whose .txt files are missing"
    elif generic := [top for top in tops if top.lower() in _IMAGE_FOLDERS]:
        doubt = f"the images ({generic[0]}) and what belongs to them"
    if doubt:
        raise ClipScratchError(
            f"{name}: the sub-folders {_some(tops)} may be classes, or {doubt}; set --folder_names classes for the "
            "first; for the second set --folder_names splits, lay the images out as <split>/<class>/, add captions, or "
            "give the folder that holds the classes."
        )
    return {"train": ""}


def _top(inside: str) -> str:
    return inside.partition("/")[0]


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")


def _read_classes(folder: Path, rows, classes: Sequence[str], names: Sequence[str]) -> datasets.Dataset:
    numbers = {name: number for number, name in enumerate(classes)}
    labels, keys = zip(*sorted(((numbers[own], key) for own, key in rows), key=itemgetter(0)), strict=True)
    paths = [f"{folder}{os.sep}{key}" for key in keys]
    return build_dataset(image_files(paths), [*map(utf8_key, keys)], labels=labels, class_names=names)
