"""Load a built-in dataset, a local path or a dataset of the Hub as a `datasets.DatasetDict` of prepared splits."""

import os
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import datasets

from ..utils.errors import ClipScratchError
from ..utils.local_files import list_files, walk_files
from ..utils.names import on_one_line
from .columns import DEFAULT_OPTIONS, DataOptions, check_no_columns, find_columns, split_column
from .dataset import class_names, is_prepared, labels_of, prepare_dataset, title
from .images.decode import warn_of_unread
from .sources.built_in import digits_source, scenes_source
from .sources.folders import image_folder_source
from .sources.hub import hub_source
from .sources.streams import prepare_stream, with_features
from .sources.table_files import by_rows, is_table, metadata_source, naming_errors, table_file_source, table_source
from .sources.tars import tar_source
from .splits import KEYWORDS, NoSuchSplitError, Source, Split, by_split, canonical_split, carve_out
from .templates import DEFAULT_TEMPLATES


class ImageTextData(datasets.DatasetDict):
    """A `DatasetDict` of prepared datasets, with what travels beside them."""

    templates: Sequence[str] | None  # prompts of class data, `{}` stands for the class
    origin: Mapping[str, str]  # split -> where its rows come from: files, or an id with its revision


def load_data(
    name_or_path: str | Path,
    *,
    splits: Sequence[str] | None = None,
    streaming: bool = False,
    validation_fraction: float = 0.1,
    seed: int = 0,
    **options: str | Sequence[str] | None,
) -> ImageTextData | datasets.IterableDatasetDict:
    """Load a dataset of images with classes or captions, whatever its form. No image is decoded.

    1. `digits` and `scenes` are built in; a local folder of such a name is `./digits`.
    2. A path is a folder of tars (CLIP_benchmark's or img2dataset's layout), of images with a `metadata.csv`, `.jsonl`
       or `.parquet`, of images with one sub-folder a class, of images with a text file beside each, COCO's layout,
       a folder of tables, one table (parquet, CSV, JSON lines), or what `save_to_disk` wrote.
    3. Anything else is an id of the Hub, as tars in that layout or as `datasets.load_dataset` reads it.

    Args:
        name_or_path: What to load.
        splits: Names of the splits to load. Default: all. Without a `validation` split of its own, the dataset gives a
            part of `train` for it, and `train` is the rest.
        streaming: Read rows when they are needed (tars and parquet). Then nothing is taken from `train`.
        validation_fraction: Share of `train`, in [0, 1), that validation gets; 0 takes none.
        seed: Seed of that choice, which depends on (seed, key) alone.
        options: Fields of `DataOptions` (`image_column`, `class_names`, `revision`, ...).

    Returns:
        {split: dataset}, each with the columns `image` (undecoded), `label` or `captions`, and `key`; the attributes
        `templates` and `origin` travel beside them.

    Raises:
        NoSuchSplitError: If a split of `splits` is missing.
        ClipScratchError: If the data cannot be found, lack columns, can be read in two ways or are damaged.

    >>> data = load_data("digits")
    >>> {split: len(part) for split, part in data.items()}
    {'train': 1257, 'validation': 180, 'test': 360}
    >>> sorted(data["train"].features), data.templates[0]
    (['image', 'key', 'label'], 'a photo of the digit {}.')
    """
    options, name = DataOptions(**options), str(name_or_path)
    validation = {"validation_fraction": validation_fraction, "seed": seed}
    return load_splits(open_source(name, options), name, options, splits=splits, streaming=streaming, **validation)


def open_source(name: str, options: DataOptions) -> Source:
    """Find the splits of a dataset without reading more than that takes."""
    if name in ("digits", "scenes"):
        check_no_columns(name, options)
        return digits_source(options) if name == "digits" else scenes_source()
    return _local_source(name, options) or hub_source(name, options)


def _local_source(name: str, options: DataOptions) -> Source | None:
    """Return the splits of a local folder or file; `None` if the name is not a path."""
    path = Path(name or "?").expanduser()  # Path("") would be the current folder
    if path.is_dir():
        source = _folder_source(path, name, options)
        return {split: source[split] for split in sorted(source, key=lambda s: ([*KEYWORDS, s].index(s), s))}
    if path.exists() and is_table(path):
        return table_file_source(path, options)
    if path.exists():
        raise ClipScratchError(f"{name}: is a file of an unknown kind; give its folder, or a .parquet, .csv or .jsonl.")
    if name.startswith((".", "~")) or path.is_absolute() or name.count(os.sep) > 1 or is_table(path):
        raise ClipScratchError(f"{name}: there is no such file or folder; check the path (seen from {Path.cwd()}).")
    return None


def _folder_source(folder: Path, name: str, options: DataOptions) -> Source:
    folder /= options.dataset_config or ""
    if source := _saved_source(folder, name, options):
        return source
    listing = dict(walk_files(folder))
    warn_of_unread(f"{folder}/{file}" for file in list_files(listing))
    of_texts = (metadata_source, table_source) if options.folder_names != "classes" else ()
    for find in (tar_source, *of_texts, image_folder_source):
        if source := find(folder, listing, name, options):
            return source
    raise ClipScratchError(
        f"{folder}: holds none of the known forms: tar shards (<split>/0.tar), tables (.parquet, .csv, .jsonl), images "
        "with a metadata.csv, with a text file beside each, or in one sub-folder a class."
    )


def _saved_source(folder: Path, name: str, options: DataOptions) -> Source | None:
    """Return the splits that `save_to_disk` wrote."""
    is_one = (folder / "state.json").exists() and (folder / "dataset_info.json").exists()
    if not is_one and not (folder / "dataset_dict.json").exists():
        return None
    with naming_errors(folder):
        saved = datasets.load_from_disk(str(folder))
    saved = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    tables = {split: saved[own] for split, own in by_split(saved, name).items()}
    source = {split: Split(partial(lambda table: table, own), str(folder)) for split, own in tables.items()}
    column = split_column(next(iter(tables.values())).column_names, options, name)
    return by_rows(source, {split: table[column][:] for split, table in tables.items()} if column else {}, column)


def load_splits(
    source: Source,
    name: str,
    options: DataOptions,
    *,
    splits: Sequence[str] | None = None,
    streaming: bool = False,
    validation_fraction: float = 0.1,
    seed: int = 0,
) -> ImageTextData | datasets.IterableDatasetDict:
    """Load splits of a source of `open_source`; the arguments are those of `load_data`."""
    if not 0 <= validation_fraction < 1:
        raise ClipScratchError(f"validation_fraction={validation_fraction} is not in [0, 1); choose 0.1, or 0.")
    carves = "train" in source and "validation" not in source and validation_fraction > 0 and not streaming
    available = [*source, *(["validation"] if carves else [])]
    names = list(dict.fromkeys(map(canonical_split, available if splits is None else splits)))
    for split in names:
        if split not in available:
            raise NoSuchSplitError(
                f"{name} has no split {split!r}; it has: {', '.join(available)}. Choose or add one. Validation is "
                "taken from train by a validation_fraction above 0 (not of a stream), or left out: --eval_strategy no."
            )
    needed = [split for split in names if split in source]
    needed += ["train"] if carves and "validation" in names and "train" not in names else []
    opened = {split: cache(partial(_stream, part, name) if streaming else part.open) for split, part in source.items()}
    # All columns before any row: a table with a caption a row is read for equal images when it is prepared.
    has_labels = {}
    for split in needed:
        table = opened[split]()
        named = DEFAULT_OPTIONS if is_prepared(table) else options
        has_labels[split] = find_columns(table.features, named, origin=f"{name}, split {split}")[2] is not None
    if len({*has_labels.values()}) > 1:
        listed = " and ".join(f"{split} has {'labels' if has else 'captions'}" for split, has in has_labels.items())
        raise ClipScratchError(f"{name}: {listed}; name one with --caption_column or --label_column.")
    if not all(has_labels.values()) and (options.class_names or options.templates):
        option = "class_names" if options.class_names else "templates"
        raise ClipScratchError(f"{name} has captions of its own, so {option} has no use; leave it out.")
    data = datasets.IterableDatasetDict() if streaming else ImageTextData()
    data.origin = {split: source[split if split in source else "train"].origin for split in names}
    parts = {split: _prepared(source[split], name, split, options, opened) for split in needed}
    if carves and "train" in parts:
        parts |= _carved(name, parts["train"], validation_fraction, seed)
    data.update({split: parts[split] for split in names})
    own = next((part.templates for part in source.values() if part.templates), None)
    data.templates = list(options.templates or own or DEFAULT_TEMPLATES) if any(has_labels.values()) else None
    return data


def _stream(part: Split, name):
    if part.stream is None:
        raise ClipScratchError(
            f"{name}: {part.origin} is not streamed; leave streaming out, or give tars or parquet files."
        )
    stream = with_features(part.stream())
    stream.info.dataset_name = name
    return stream


def _prepared(part: Split, name, split, options, opened):
    table = opened[split]()
    if isinstance(table, datasets.IterableDataset):
        prepared = prepare_stream(table, options, root=part.root)
    else:
        train = None if split == "train" else opened.get("train")
        prepared = prepare_dataset(table, options, train=train, name=name, split=split, root=part.root)
    prepared.info.description = part.origin
    return prepared


def _carved(name, train, fraction, seed):
    rest, held = carve_out(train["key"][:], labels=labels_of(train), fraction=fraction, seed=seed)
    if len(held) == 0 or len(rest) == 0:
        raise ClipScratchError(
            f"{name}: {len(train)} rows are too few to take {fraction:g} of them for validation; give more rows, a "
            "validation split, or validation_fraction 0 (to train: with eval_strategy no)."
        )
    validation = prepare_dataset(train.select(held), name=name, split="validation")
    return {"train": train.select(rest), "validation": validation}


def describe_data(data: Mapping[str, datasets.Dataset | datasets.IterableDataset]) -> list[str]:
    """Return a line for each split: rows, kind, classes or a caption, and where the rows come from."""
    lines = []
    for split, part in data.items():
        names, whole = class_names(part), isinstance(part, datasets.Dataset)
        kind = f"captions, such as {part[0]['captions'][0][:60]!r}" if whole and names is None else "captions"
        if names is not None:
            kind = f"{len(names)} classes: {', '.join([*names[:10], '...'][: len(names)])}"
        rows = f"{len(part):,} rows" if whole else "streamed"
        lines.append(on_one_line(f"{split}: {rows}, {kind} (from {part.info.description or title(part)})"))
    return lines
