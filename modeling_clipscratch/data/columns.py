"""Tell which columns of a table are the image, the captions and the label."""

import ast
import dataclasses
import difflib
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import datasets

from ..hub.errors_clipscratch import ClipScratchError
from .templates import class_names_from, templates_from

logger = logging.getLogger(__name__)

_IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "file_name", "filename", "filepath", "file_path", "path")
_IMAGE_NAMES += ("image_name", "image_path", "image_file")
_IMAGE_NAMES += ("jpg", "jpeg", "png", "webp")  # how `datasets` names the members of tar shards
_CAPTION_NAME = re.compile(r"(caption|text|sentence|description|comment|txt)s?(_?\d+)?")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "class_name", "cls", "target")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a dataset is to be read, where its files do not tell it.

    Args:
        image_column, caption_column, label_column: columns of a table.
        class_names: in label order, where the data have none, or instead of them; or one `.txt` with a name a line.
        templates: prompts for class data, `{}` stands for the class; or the name of a published list (`cifar10`,
            `cifar100`, `imagenet`), or one `.txt` with a prompt a line.
        split_column: column that names the split of a row. Default: one called `split`; `none` reads it as any other.
        image_root: folder that the paths in a table are relative to. Default: the table's own.
        folder_names: `classes` or `splits`: what the names of sub-folders are, where they may be either.
        caption_lines: `split` or `join`: whether the lines of a text file are several captions or one.
        on_bad_row: `raise`, or `skip` to leave out rows without a caption or label, and images that cannot be read.
        dataset_config: configuration of a dataset of the Hub, or sub-folder, where there are several.
        revision: branch, tag or commit of a dataset of the Hub.
        cache_dir: where the Hub's files and the tables' Arrow copies are kept, if not where `datasets` keeps them.

    >>> DataOptions(caption_column="text", image_column="photo").caption_column
    'text'
    """

    image_column: str | None = None
    caption_column: str | None = None
    label_column: str | None = None
    class_names: Sequence[str] | None = None
    templates: Sequence[str] | None = None
    split_column: str | None = None
    image_root: str | None = None
    folder_names: Literal["classes", "splits"] | None = None
    caption_lines: Literal["split", "join"] | None = None
    on_bad_row: Literal["raise", "skip"] = "raise"
    dataset_config: str | None = None
    revision: str | None = None
    cache_dir: str | None = None

    def __post_init__(self):
        # A name or a file may stand for a list; from here on it is the list.
        if self.class_names:
            object.__setattr__(self, "class_names", class_names_from(_as_list(self.class_names)))
        if self.templates:
            object.__setattr__(self, "templates", templates_from(_as_list(self.templates)))
        if self.caption_column and self.label_column:
            raise ClipScratchError(
                f"caption_column={self.caption_column!r} and label_column={self.label_column!r} are both named; name "
                "captions for caption data or a label for class data."
            )


def check_no_columns(name: str, options: DataOptions) -> None:
    """Raise `ClipScratchError` if an option of tables is set, and the data are no table."""
    named = ("image_column", "caption_column", "label_column", "split_column", "image_root")
    if wrong := next((option for option in named if getattr(options, option) not in (None, "none")), None):
        raise ClipScratchError(
            f"{wrong}={getattr(options, wrong)!r}: {name} is no table and has no columns; leave the option out."
        )


def _as_list(words):
    return [words] if isinstance(words, str) else words


# Option of a command line -> field of `DataOptions`.
DATA_OPTIONS = {
    {"revision": "dataset_revision"}.get(field.name, field.name): field for field in dataclasses.fields(DataOptions)
}
DEFAULT_OPTIONS = DataOptions()


def is_text(feature) -> bool:
    """Whether a column holds one text a row."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def is_text_or_number(feature) -> bool:
    """Whether a column holds one text or one whole number a row."""
    return is_text(feature) or (isinstance(feature, datasets.Value) and "int" in feature.dtype)


def _is_texts(feature) -> bool:
    return is_text(feature) or (isinstance(feature, datasets.List | datasets.LargeList) and is_text(feature.feature))


def _is_picture(feature) -> bool:
    fields = set(feature) if isinstance(feature, dict) else set()
    return isinstance(feature, datasets.Image) or {"bytes", "path"} <= fields or {"shard", "member"} <= fields


def _may_be_picture(feature) -> bool:  # a path or the bytes of a file
    return is_text(feature) or (isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary"))


def find_columns(
    features: datasets.Features, options: DataOptions, *, origin: str
) -> tuple[str, list[str], str | None]:
    """The picture's column, the captions' columns (none for class data) and the label's column (none for captions).

    Raises:
        ClipScratchError: if a named column does not exist, or a column cannot be told from types and names alone.
    """
    image = _image_column(features, options.image_column, origin)
    if image in (options.caption_column, options.label_column):
        raise ClipScratchError(
            f"{origin}: column {image!r} cannot be both the image and its text; name another with --image_column, "
            f"--caption_column or --label_column: the columns are {', '.join(features)}."
        )
    if options.caption_column:
        caption = _named(features, options.caption_column, "caption", origin)
        if not _is_texts(features[caption]):
            raise ClipScratchError(
                f"{origin}: caption_column={caption!r} holds {features[caption]}; it must hold text."
            )
        return image, [caption], None
    if options.label_column:
        return image, [], _named(features, options.label_column, "label", origin)
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
        raise ClipScratchError(
            f"{origin}: neither captions nor a label among the columns {', '.join(features)}; name one with "
            "--caption_column or --label_column."
        )
    candidates = [column for group in captions.values() for column in group] + labels
    raise ClipScratchError(
        f"{origin}: columns {', '.join(candidates)} could all be the captions or the label; choose one with "
        "--caption_column or --label_column."
    )


def _image_column(features: datasets.Features, named: str | None, origin: str) -> str:
    if named:
        image = _named(features, named, "image", origin)
        if not (_is_picture(features[image]) or _may_be_picture(features[image])):
            raise ClipScratchError(
                f"{origin}: image_column={image!r} holds {features[image]}, neither pictures nor paths."
            )
        return image
    pictures = [column for column, feature in features.items() if _is_picture(feature)]
    if len(pictures) == 1:
        return pictures[0]
    possible = pictures or [column for column, feature in features.items() if _may_be_picture(feature)]
    candidates = [column for column in possible if column.lower() in _IMAGE_NAMES]
    if len(candidates) == 1:
        return candidates[0]
    if candidates or pictures:
        raise ClipScratchError(
            f"{origin}: columns {', '.join(candidates or pictures)} could all be the picture; choose one with "
            "--image_column."
        )
    raise ClipScratchError(
        f"{origin}: no picture among the columns {', '.join(features)}; name the one that holds pictures or their "
        "paths with --image_column."
    )


def _named(features: datasets.Features, column: str, what: str, origin: str) -> str:
    if column in features:
        return column
    near = difflib.get_close_matches(column, features, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise ClipScratchError(
        f"{origin}: {what}_column={column!r} is not there; the columns are {', '.join(features)}{hint}"
    )


def known_classes(feature, options: DataOptions, *, column: str, origin: str) -> list[str] | None:
    """The class names of a label column by `options` or by its type; `None` where neither has them.

    Raises: ClipScratchError if the column holds no labels.
    """
    if isinstance(feature, datasets.ClassLabel):
        return list(options.class_names or map(readable_class, feature.names))
    if not is_text_or_number(feature):
        raise ClipScratchError(f"{origin}: label column {column!r} holds {feature}; labels are whole numbers or words.")
    return list(options.class_names) if options.class_names else None


def read_labels(
    table: datasets.Dataset,
    column: str,
    options: DataOptions,
    *,
    train: Callable[[], datasets.Dataset] | None,
    origin: str,
) -> tuple[list[int | None], list[str]]:
    """Labels as numbers, `None` where a row has none, and the classes' names.

    Args:
        options: `class_names` are the user's names, in label order; without them the table's own are taken.
        train: opens the training split of the same data, where this is another: classes written as words are numbered
            by train, so that all splits number them alike.
    """
    feature, values = table.features[column], _stripped(table[column][:])
    names = known_classes(feature, options, column=column, origin=origin)
    if is_text(feature):
        if not names:
            first = _classes(train(), column) if train else []
            names = list(dict.fromkeys([*first, *class_order(first, {*values} - {None, ""})]))
        numbers = {name: number for number, name in enumerate(names)}
        strange = next((value for value in values if value and value not in numbers), None)
        if strange is not None:
            raise ClipScratchError(
                f"{origin}: label {strange!r} is not among the {len(names)} class names; add it to them."
            )
        return [numbers[value] if value else None for value in values], names
    if names is None:
        raise ClipScratchError(
            f"{origin}: the labels in column {column!r} are numbers without names; give the classes' names in label "
            "order (class_names), since captions are made of them."
        )
    return values, names


def _classes(train: datasets.Dataset, column: str) -> list[str]:
    """The training split's class names, in the order of their numbers."""
    column = column if column in train.features else "label"  # as `prepare_dataset` calls it
    if column not in train.features:
        return []
    if isinstance(train.features[column], datasets.ClassLabel):
        return [readable_class(name) for name in train.features[column].names]
    return sorted({*_stripped(train[column][:])} - {None, ""}, key=_by_number)


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


def written_lists(values: Sequence) -> Sequence:
    """The cells of a column of captions, where all that are not empty are lists written as text, as these lists.

    >>> written_lists(["['a dog', 'a cat']", '["a cow"]', None]), written_lists(["[a dog]", "['a cat']"])
    ([['a dog', 'a cat'], ['a cow'], []], ['[a dog]', "['a cat']"])
    """
    lists = []
    for value in values:
        if (texts := _written_list(value)) is None:
            return values
        lists.append(texts)
    return lists


def _written_list(value) -> list[str] | None:
    text = value.strip() if isinstance(value, str) else ("" if value is None else "?")
    if not text:
        return []
    if not (text.startswith("[") and text.endswith("]")):
        return None
    # NumPy writes no commas, and Python takes texts side by side for one.
    for read in (json.loads, lambda text: ast.literal_eval(re.sub(r"""(?<=['"])\s+(?=['"])""", ", ", text))):
        try:
            texts = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None
    return None


def cell_texts(values: tuple) -> list[str]:
    """The captions of a row, whose cells hold a text or a list of them each; empty ones are left out.

    >>> cell_texts((["a dog ", ""], "a cat", None))
    ['a dog', 'a cat']
    """
    flat = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return [str(text).strip() for text in flat if text is not None and str(text).strip()]
