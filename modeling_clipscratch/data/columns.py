"""The columns of a table go in; which of them is the picture, the captions or the label comes out."""

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import datasets
import numpy as np

from .templates import class_names_from, templates_from

logger = logging.getLogger(__name__)

_IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "file_name", "filename", "filepath", "file_path", "path")
_IMAGE_NAMES += ("jpg", "jpeg", "png", "webp")  # how `datasets` names the members of tar shards
_CAPTION_NAME = re.compile(r"(caption|text|sentence|description|txt)s?(_?\d+)?")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "class_name", "cls", "target")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the user says of a table: columns by name, where they cannot be told, and the words for the classes.

    >>> Columns(caption="text", image="photo").caption
    'text'
    """

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    class_names: Sequence[str] | None = None
    templates: Sequence[str] | None = None

    def __post_init__(self):
        # A name or a file may stand for a list; from here on it is the list.
        if self.class_names:
            object.__setattr__(self, "class_names", class_names_from(_as_list(self.class_names)))
        if self.templates:
            object.__setattr__(self, "templates", templates_from(_as_list(self.templates)))


def _as_list(words):
    return [words] if isinstance(words, str) else words


def is_text(feature) -> bool:
    """Whether a column holds one text a row."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def is_whole_number(feature) -> bool:
    """Whether a column holds one whole number a row."""
    return isinstance(feature, datasets.Value) and "int" in feature.dtype


def _is_texts(feature) -> bool:
    return is_text(feature) or (isinstance(feature, datasets.List | datasets.LargeList) and is_text(feature.feature))


def _is_picture(feature) -> bool:
    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and {"bytes", "path"} <= set(feature))


def _may_be_picture(feature) -> bool:  # a path or the bytes of a file
    return is_text(feature) or (isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary"))


def find_columns(features: datasets.Features, columns: Columns, *, origin: str) -> tuple[str, list[str], str | None]:
    """The picture's column, the captions' columns (none for class data) and the label's column (none for captions).

    Raises:
        ValueError: if a named column does not exist, or a column cannot be told from types and names alone.
    """
    image = _image_column(features, columns.image, origin)
    if columns.caption and columns.label:
        raise ValueError(
            f"caption_column={columns.caption!r} and label_column={columns.label!r} are both named; name captions for "
            "caption data or a label for class data."
        )
    if columns.caption:
        caption = _named(features, columns.caption, "caption", origin)
        if not _is_texts(features[caption]):
            raise ValueError(f"{origin}: caption_column={caption!r} holds {features[caption]}; it must hold text.")
        return image, [caption], None
    if columns.label:
        return image, [], _named(features, columns.label, "label", origin)
    captions: dict[str, list[str]] = {}
    for column, feature in features.items():
        if column != image and _is_texts(feature) and (match := _CAPTION_NAME.fullmatch(column.lower())):
            captions.setdefault(match.group(1), []).append(column)
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(labels) != 1:
        labels = [c for c in labels or features if c.lower() in _LABEL_NAMES and c != image] or labels
    if len(captions) == 1 and not labels:
        return image, next(iter(captions.values())), None
    if len(labels) == 1 and not captions:
        return image, [], labels[0]
    if not captions and not labels:
        raise ValueError(
            f"{origin}: neither captions nor a label among the columns {_listed(features)}; name one with "
            "--caption_column or --label_column."
        )
    candidates = [column for group in captions.values() for column in group] + labels
    raise ValueError(
        f"{origin}: columns {_listed(candidates)} could all be the captions or the label; choose one with "
        "--caption_column or --label_column."
    )


def _image_column(features: datasets.Features, named: str | None, origin: str) -> str:
    if named:
        image = _named(features, named, "image", origin)
        if not (_is_picture(features[image]) or _may_be_picture(features[image])):
            raise ValueError(f"{origin}: image_column={image!r} holds {features[image]}, neither pictures nor paths.")
        return image
    pictures = [column for column, feature in features.items() if _is_picture(feature)]
    if len(pictures) == 1:
        return pictures[0]
    possible = pictures or [column for column, feature in features.items() if _may_be_picture(feature)]
    candidates = [column for column in possible if column.lower() in _IMAGE_NAMES]
    if len(candidates) == 1:
        return candidates[0]
    if candidates or pictures:
        raise ValueError(
            f"{origin}: columns {_listed(candidates or pictures)} could all be the picture; choose one with "
            "--image_column."
        )
    raise ValueError(
        f"{origin}: no picture among the columns {_listed(features)}; name the one that holds pictures or their paths "
        "with --image_column."
    )


def _named(features: datasets.Features, column: str, what: str, origin: str) -> str:
    if column in features:
        return column
    near = difflib.get_close_matches(column, features, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ValueError(f"{origin}: {what}_column={column!r} is not there; the columns are {_listed(features)}{hint}")


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(columns)


def read_labels(
    table: datasets.Dataset,
    column: str,
    *,
    names: Sequence[str] | None,
    train: Callable[[], datasets.Dataset] | None,
    origin: str,
) -> tuple[np.ndarray, list[str]]:
    """Labels as numbers and the classes' names.

    Args:
        names: the user's names, in label order; `None` takes the table's own.
        train: opens the train split of the same set, where this is another: classes written as words are numbered by
            train, so that all splits number them alike.
    """
    feature, values = table.features[column], _stripped(table[column][:])
    empty = next((row for row, value in enumerate(values) if value is None or value == ""), None)
    if empty is not None:
        raise ValueError(f"{origin}: row {empty} has no label in column {column!r}; every row of class data needs one.")
    if isinstance(feature, datasets.ClassLabel):
        return np.array(values, dtype=np.int64), list(names or map(readable_class, feature.names))
    if is_text(feature):
        known = list(names) if names else []
        if not names:
            theirs = set(_stripped(train()[column][:])) if train else set()
            known = class_order(theirs - {None, ""}, values)
        numbers = {name: number for number, name in enumerate(known)}
        strange = next((value for value in values if value not in numbers), None)
        if strange is not None:
            raise ValueError(f"{origin}: label {strange!r} is not among the {len(known)} class names; add it to them.")
        return np.array([numbers[value] for value in values], dtype=np.int64), known
    if not is_whole_number(feature):
        raise ValueError(f"{origin}: label column {column!r} holds {feature}; labels are whole numbers or words.")
    if not names:
        raise ValueError(
            f"{origin}: the labels in column {column!r} are numbers without names; give the classes' names in label "
            "order (class_names), since captions are made of them."
        )
    return np.array(values, dtype=np.int64), list(names)


def _stripped(values):
    return [value.strip() if isinstance(value, str) else value for value in values]


def class_order(train: Iterable[str], others: Iterable[str]) -> list[str]:
    """Train's classes in order, then those that only other splits have: these never renumber what was learnt.

    >>> class_order(["dog", "cat"], ["ant", "cat"])
    ['cat', 'dog', 'ant']
    """
    train = set(train)
    order = [*sorted(train, key=_by_number), *sorted(set(others) - train, key=_by_number)]
    first = {}
    for name in order:
        other = first.setdefault(name.casefold(), name)
        if other != name and len(name) > 1:  # single letters are classes of alphabets
            logger.warning("%r and %r count as two classes; if they are one, spell them alike.", other, name)
    return order


def _by_number(name: str) -> tuple:  # folders named 0, 1, ..., 10 are in label order
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def readable_class(name: str) -> str:
    """
    >>> readable_class("maple_tree")
    'maple tree'
    """
    return name.replace("_", " ")
