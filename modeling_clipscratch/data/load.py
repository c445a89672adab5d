"""Load data by name: a built-in dataset, a local path or an id of the Hub becomes a `datasets.DatasetDict`."""

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import datasets

from ..hub.errors_clipscratch import ClipScratchError
from ..utils.names import on_one_line
from .batches.stream_batches import StreamedRows, with_features
from .columns import DataOptions, check_no_columns
from .dataset import class_names, is_class_data, is_prepared, labels_of, prepare_dataset, title
from .sources.digits import digits_source
from .sources.hub import hub_source
from .sources.local import local_source
from .sources.scenes import scenes_source
from .splits import NoSuchSplitError, Source, Split, canonical_split, carve_out
from .templates import DEFAULT_TEMPLATES

logger = logging.getLogger(__name__)

_SHOWN = 10  # class names in the log


class ImageTextData(datasets.DatasetDict):
    """A `DatasetDict` of prepared datasets, with what travels beside them.

    Attributes:
        templates: prompts of class data, `{}` stands for the class; `None` for caption data.
        origin: split -> where its rows come from: files, or an id with its revision.
    """

    templates: Sequence[str] | None = None
    origin: Mapping[str, str]


class ImageTextStream(datasets.IterableDatasetDict):
    """`ImageTextData` of datasets that are read as they are needed."""

    templates: Sequence[str] | None = None
    origin: Mapping[str, str]


def load_data(
    name_or_path: str | Path,
    *,
    splits: Sequence[str] | None = None,
    streaming: bool = False,
    validation_fraction: float = 0.1,
    seed: int = 0,
    **options: str | Sequence[str] | None,
) -> ImageTextData | ImageTextStream:
    """Load a dataset of images with classes or captions, whatever its form. No image is decoded.

    1. `digits` and `scenes` are built in; a local folder of such a name is `./digits`.
    2. A path is a folder of tars (CLIP_benchmark's or img2dataset's layout), of images with a `metadata.csv`, `.jsonl`
       or `.parquet`, of images with one sub-folder a class, of images with a text file beside each, COCO's layout,
       a folder of tables, one table (parquet, CSV, JSON lines), or what `save_to_disk` wrote.
    3. Anything else is an id of the Hub, as tars in that layout or as `datasets.load_dataset` reads it.

    Args:
        name_or_path: what to load.
        splits: names of the splits to load. Default: all that there are. Where there is no `validation`, it is taken
            from `train`, and `train` is the rest.
        streaming: read rows as they are needed (tars and parquet); then nothing is taken from `train`.
        validation_fraction: share of `train`, in [0, 1), that validation gets; 0 takes none.
        seed: of that choice, which depends on (seed, key) alone.
        options: as `DataOptions` takes them (`image_column`, `class_names`, `revision`, ...).

    Returns: {split: dataset}, each with the columns `image` (undecoded), `label` or `captions`, and `key`; the
        attributes `templates` and `origin` travel beside them.

    Raises:
        NoSuchSplitError: if a split of `splits` is not there.
        ClipScratchError: one sentence, where the data cannot be found, lack columns, can be read in two ways or are
            damaged.

    >>> data = load_data("digits")
    >>> {split: len(part) for split, part in data.items()}
    {'train': 1257, 'validation': 180, 'test': 360}
    >>> sorted(data["train"].features), data.templates[0]
    (['image', 'key', 'label'], 'a photo of the digit {}.')
    """
    options = DataOptions(**options)
    source = open_source(str(name_or_path), options)
    part = {"validation_fraction": validation_fraction, "seed": seed}
    return load_splits(source, str(name_or_path), options, splits=splits, streaming=streaming, **part)


def open_source(name: str, options: DataOptions) -> Source:
    """Find the splits of a dataset; only what tells them is read. Args, Raises: as of `load_data`."""
    built_in = {"digits": digits_source, "scenes": scenes_source}
    if name in built_in:
        check_no_columns(name, options)
        return built_in[name](options)
    return local_source(name, options) or hub_source(name, options)


def load_splits(
    source: Source,
    name: str,
    options: DataOptions,
    *,
    splits: Sequence[str] | None = None,
    streaming: bool = False,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> ImageTextData | ImageTextStream:
    """Load splits of a source that `open_source` found. Args, Returns, Raises: as of `load_data`."""
    if not 0 <= validation_fraction < 1:
        raise ClipScratchError(
            f"validation_fraction={validation_fraction} is not in [0, 1); choose the share of train that validation "
            "gets, such as 0.1, or 0 for no validation."
        )
    carves = "train" in source and "validation" not in source and validation_fraction > 0 and not streaming
    there = [*source, *(["validation"] if carves else [])]
    names = list(dict.fromkeys(map(canonical_split, there if splits is None else splits)))
    for split in names:
        if split not in there:
            raise NoSuchSplitError(_no_such_split(name, there, split, carves, streaming))
    data = (ImageTextStream if streaming else ImageTextData)()
    data.origin = {split: source[split if split in source else "train"].origin for split in names}
    if streaming:
        data.update({split: _stream(source[split], name, options) for split in names})
    else:
        tables = {split: cache(part.open) for split, part in source.items()}
        needed = dict.fromkeys("train" if carves and split == "validation" else split for split in names)
        parts = {split: _prepared(source[split], name, split, options, tables) for split in needed}
        if carves and "train" in needed:
            parts |= _carved(name, parts["train"], validation_fraction, seed)
        data.update({split: parts[split] for split in names})
    kinds = {split: "labels" if is_class_data(part) else "captions" for split, part in data.items()}
    _check_kind(name, kinds, options)
    if "labels" in kinds.values():
        own = next((source[split].templates for split in source if source[split].templates), None)
        data.templates = list(options.templates or own or DEFAULT_TEMPLATES)
    return data


def _prepared(part: Split, name, split, options, tables):
    own = {"name": name, "split": split, "root": part.root, "inside": part.inside}
    train = None if split == "train" else tables.get("train")
    prepared = prepare_dataset(tables[split](), options, train=train, **own)
    prepared.info.description = part.origin
    return prepared


def _stream(part: Split, name, options):
    if part.stream is None:
        raise ClipScratchError(
            f"{name}: {part.origin} is of a form that is not streamed; leave streaming out, or give tars or parquet "
            "files."
        )
    stream = with_features(part.stream())
    stream.info.dataset_name = name
    if not is_prepared(stream):
        stream = StreamedRows(stream, options).prepared(options.on_bad_row, part.root or "", part.inside)
    stream.info.description = part.origin
    return stream


def _carved(name, train, fraction, seed):
    rest, held = carve_out(train["key"][:], labels=labels_of(train), fraction=fraction, seed=seed)
    if len(held) == 0 or len(rest) == 0:
        raise ClipScratchError(
            f"{name}: {len(train)} rows are too few to take {fraction:g} of them for validation; give more rows, a "
            "validation split, or validation_fraction 0 (to train: with eval_strategy no)."
        )
    validation = train.select(held)
    validation = prepare_dataset(validation, name=name, split="validation")
    return {"train": train.select(rest), "validation": validation}


def _check_kind(name, kinds, options):
    if len({*kinds.values()}) > 1:
        listed = " and ".join(f"{split} has {kind}" for split, kind in kinds.items())
        raise ClipScratchError(f"{name}: {listed}; name one with --caption_column or --label_column.")
    if "captions" in kinds.values() and (options.class_names or options.templates):
        option = "class_names" if options.class_names else "templates"
        raise ClipScratchError(f"{name} has captions of its own, so {option} has no use; leave it out.")


def _no_such_split(name, there, split, carves, streaming):
    listed = ", ".join([*there[:-1], "validation (taken from train)"] if carves else there)
    remedy = "choose one of these"
    if split == "test":
        remedy += ", or add a test split"
        if "train" in there:
            remedy += "; split train with validation_fraction 0 gives every row"
    if split == "validation" and "train" in there:
        remedy += ", or give validation_fraction a value above 0 (to train without: eval_strategy no)"
        if streaming:
            remedy = "none is taken from a stream; --eval_strategy no does without"
    return f"{name} has no split {split!r}; it has: {listed}. To go on, {remedy}."


def describe_data(data: Mapping[str, datasets.Dataset | datasets.IterableDataset]) -> list[str]:
    """The lines of a short table: split, rows, kind, classes or a sample caption, and where the rows come from."""
    lines = []
    for split, part in data.items():
        rows = f"{len(part):,} rows" if isinstance(part, datasets.Dataset) else "streamed"
        if (names := class_names(part)) is not None:
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            kind = f"{len(names)} classes: {shown}"
        else:
            kind = "captions"
            if isinstance(part, datasets.Dataset):
                kind += f", such as {part[0]['captions'][0][:60]!r}"
        lines.append(on_one_line(f"{split}: {rows}, {kind} (from {part.info.description or title(part)})"))
    return lines
