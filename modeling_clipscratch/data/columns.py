"""Find the image, caption and label columns of a table, and read captions and labels from their cells."""

import ast
import dataclasses
import difflib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import datasets

from ..utils.errors import ClipScratchError
from .templates import check_class_names, class_names_from, templates_from

_IMAGE_NAMES = ("image", "images", "img", "picture", "photo", "file_name", "filename", "filepath", "file_path", "path")
_IMAGE_NAMES += ("image_name", "image_path", "image_file")
_IMAGE_NAMES += ("jpg", "jpeg", "png", "webp")  # how `datasets` names the members of tar shards
_CAPTION_NAME = re.compile(r"(caption|text|sentence|description|comment|txt)s?(_?\d+)?")
_LABEL_NAMES = ("label", "labels", "fine_label", "class", "class_name", "cls", "target")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How to read a dataset whose files leave it open.

    Args:
        image_column, caption_column, label_column: Columns of a table.
        class_names: Names in label order, which replace those of the data; or one `.txt` file with a name a line.
        templates: Prompts for class data, `{}` stands for the class; or the name of a published list (`cifar10`,
            `cifar100`, `imagenet`), or one `.txt` file with a prompt a line.
        split_column: Column that names the split of a row. Default: one called `split`. `none` ignores it.
        image_root: Folder that paths in a table are relative to. Default: the table's own.
        folder_names: `classes` or `splits`: what the names of sub-folders mean, where both are possible.
        caption_lines: `split` or `join`: whether the lines of a text file are several captions or one.
        on_bad_row: `raise`, or `skip` to leave out rows without caption or label and images that cannot be read.
        dataset_config: Configuration of a dataset of the Hub, or sub-folder, where there are several.
        revision: Branch, tag or commit of a dataset of the Hub.
        cache_dir: Folder for files of the Hub and Arrow copies of tables. Default: that of `datasets`.

    Raises:
        ClipScratchError: If class names or templates are invalid, or a caption and a label column are both named.

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
        # The name of a list or a file becomes the list itself.
        if self.class_names:
            object.__setattr__(self, "class_names", class_names_from(self.class_names))
        if self.templates:
            object.__setattr__(self, "templates", templates_from(self.templates))
        if self.caption_column and self.label_column:
            raise ClipScratchError(
                f"caption_column={self.caption_column!r} and label_column={self.label_column!r} are both named; name "
                "captions for caption data or a label for class data."
            )


# Option of a command line -> field of `DataOptions`.
DATA_OPTIONS = {
    {"revision": "dataset_revision"}.get(field.name, field.name): field for field in dataclasses.fields(DataOptions)
}
DEFAULT_OPTIONS = DataOptions()


def check_no_columns(name: str, options: DataOptions) -> None:
    """Raise `ClipScratchError` if an option for tables is set, and the data are no table."""
    for option in ("image_column", "caption_column", "label_column", "split_column", "image_root"):
        if (value := getattr(options, option)) not in (None, "none"):
            raise ClipScratchError(f"{option}={value!r}: {name} is not a table and has no columns; leave it out.")


def is_text(feature) -> bool:
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def is_text_or_number(feature) -> bool:
    return is_text(feature) or (isinstance(feature, datasets.Value) and "int" in feature.dtype)


def _is_texts(feature) -> bool:
    return is_text(feature) or (isinstance(feature, datasets.List | datasets.LargeList) and is_text(feature.feature))


def _is_image(feature) -> bool:
    is_struct = isinstance(feature, dict) and ({"bytes", "path"} <= {*feature} or {"shard", "member"} <= {*feature})
    return is_struct or isinstance(feature, datasets.Image)


def _may_be_image(feature) -> bool:  # also a path or the bytes of a file
    return _is_image(feature) or is_text(feature) or getattr(feature, "dtype", "") in ("binary", "large_binary")


def find_columns(
    features: datasets.Features, options: DataOptions, *, origin: str
) -> tuple[str, list[str], str | None]:
    """Return the image column, the caption columns (none for class data) and the label column (`None` for captions)."""
    images = [column for column, feature in features.items() if _is_image(feature)]
    if len(images) != 1:
        possible = images or [column for column, feature in features.items() if _may_be_image(feature)]
        images = [column for column in possible if column.lower() in _IMAGE_NAMES] or images
    if options.image_column:
        images = [_named(features, options, "image_column", origin, _may_be_image, "images or paths")]
    image = _only(images, features, "image", "--image_column", origin)
    if options.caption_column:
        return image, [_named(features, options, "caption_column", origin, _is_texts, "text")], None
    if options.label_column:
        return image, [], _named(features, options, "label_column", origin)
    captions: dict[str, list[str]] = {}  # `caption_0` and `caption_1` belong together
    for column, feature in features.items():
        if column != image and _is_texts(feature) and (match := _CAPTION_NAME.fullmatch(column.lower())):
            captions.setdefault(match.group(1), []).append(column)
    labels = [column for column, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(labels) != 1:
        labels = [c for c in labels or features if c.lower() in _LABEL_NAMES and c != image] or labels
    if len(captions) == 1 and not labels:
        return image, *captions.values(), None
    candidates = [column for group in captions.values() for column in group] + labels
    label = _only(candidates, features, "captions or label", "--caption_column or --label_column", origin)
    return image, [], label


def _only(candidates, features, what, options, origin):
    if len(candidates) == 1:
        return candidates[0]
    problem = f"no {what} among the columns {', '.join(features)}"
    if candidates:
        problem = f"columns {', '.join(candidates)} could all be the {what}"
    raise ClipScratchError(f"{origin}: {problem}; choose one with {options}.")


def _named(features, options, option, origin, fits=None, kind=""):
    column = getattr(options, option)
    if column not in features:
        near = difflib.get_close_matches(column, features, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ClipScratchError(f"{origin}: {option}={column!r} is missing; the columns are {', '.join(features)}{hint}")
    if fits is not None and not fits(features[column]):
        raise ClipScratchError(f"{origin}: {option}={column!r} holds {features[column]}, not {kind}; name another.")
    return column


def split_column(columns: Iterable[str], options: DataOptions, origin: str) -> str | None:
    """Return the column that names the split of a row; `None` if there is none or it is to be ignored."""
    if options.split_column in (None, "none"):
        return "split" if options.split_column is None and "split" in columns else None
    return _named(columns, options, "split_column", origin)


def known_classes(feature, options: DataOptions, *, column: str, origin: str) -> list[str] | None:
    """Return the class names of a label column by `options` or by its type; `None` if neither has them."""
    if not isinstance(feature, datasets.ClassLabel) and not is_text_or_number(feature):
        raise ClipScratchError(f"{origin}: label column {column!r} holds {feature}; labels are whole numbers or words.")
    names = list(options.class_names or map(readable_class, getattr(feature, "names", ())))
    check_class_names(names)
    return names or None


def read_labels(
    table: datasets.Dataset,
    column: str,
    options: DataOptions,
    *,
    train: Callable[[], datasets.Dataset] | None,
    origin: str,
) -> tuple[list[int | None], list[str]]:
    """Return (N,) labels, `None` where a row has none, and (C,) names of their classes.

    Classes written as words are numbered as in `train`, which opens the training split if this is another one.
    """
    feature, values = table.features[column], _stripped(table[column][:])
    names = known_classes(feature, options, column=column, origin=origin)
    if is_text(feature):
        if not names:
            first = _train_classes(train(), column) if train else []
            names = list(dict.fromkeys([*first, *class_order(first, {*values} - {None, ""})]))
        numbers = {name: number for number, name in enumerate(names)}
        if unknown := {*values} - {None, "", *names}:
            raise ClipScratchError(
                f"{origin}: label {min(unknown)!r} is not among the {len(names)} class names; add it to them."
            )
        return [numbers.get(value) for value in values], names
    if names is None:
        raise ClipScratchError(
            f"{origin}: the labels in column {column!r} are numbers without names; give the names of the classes in "
            "label order (class_names), because captions are made of them."
        )
    return values, names


def _train_classes(train: datasets.Dataset, column: str) -> list[str]:
    """Return the class names of the training split, prepared or not, in the order of their numbers."""
    column = column if column in train.features else "label"
    if isinstance(feature := train.features.get(column), datasets.ClassLabel):
        return [*map(readable_class, feature.names)]
    return class_order({*_stripped(train[column][:])} - {None, ""}, ()) if feature else []


def _stripped(values):
    return [value.strip() if isinstance(value, str) else value for value in values]


def class_order(train: Iterable[str], others: Iterable[str]) -> list[str]:
    """Order class names, numbers by value: first those of train, then those of other splits alone."""

    def by_number(name):
        return (0, int(name), name) if name.isdecimal() else (1, 0, name)

    train = set(train)
    return [*sorted(train, key=by_number), *sorted(set(others) - train, key=by_number)]


def readable_class(name: str) -> str:
    """Return the name of a class as prompts have it: `maple tree` for `maple_tree`."""
    return name.replace("_", " ")


def written_lists(values: Sequence) -> Sequence:
    """Parse a caption column whose non-empty cells are all lists written as text; return any other as it is."""
    lists = []
    for value in values:
        if not isinstance(value, str | None) or not (text := (value or "").strip() or "[]").startswith("["):
            return values
        try:
            texts = _parsed(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return values
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return values
        lists.append(texts)
    return lists


def _parsed(text: str):
    try:
        return json.loads(text)
    except ValueError:  # NumPy writes no commas between texts, and Python would join these
        return ast.literal_eval(re.sub(r"""(?<=['"])\s+(?=['"])""", ", ", text))


def cell_texts(values: tuple) -> list[str]:
    """Return the captions of a row, of whose cells each holds a text or a list of texts. Empty ones are left out."""
    flat = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return [str(text).strip() for text in flat if text is not None and str(text).strip()]
