"""What the user calls a data set goes in (a built-in name, a path, a Hub id); the rows of one split come out."""

import os
import re
from functools import cache, partial
from itertools import chain
from pathlib import Path

import datasets
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from .columns import Columns
from .digits import digits_readers
from .folders import class_folder_readers, metadata_readers
from .hub_errors import hub_error, hub_switch
from .rows import Rows
from .scenes import scenes_readers
from .splits import Readers, by_split, canonical_split, is_split_name, read_split
from .tables import file_readers, is_table, rows_from_table, table_files, table_readers
from .webdataset import METADATA_FILES, loose_shards, tar_split_folders, webdataset_readers

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def load_rows(
    dataset: str,
    split: str,
    *,
    validation_fraction: float = 0.1,
    seed: int = 0,
    **options: str | list[str] | None,
) -> Rows:
    """Opens one split of a data set, whatever its form: labels and captions now, pictures as they are asked for.

    Args:
        split: `train`, `validation`, `test` or one of their other names (`val`, `dev`, ...), or a split of the set's
            own. Where a set has no validation split, one is taken from train, and train is the rest.
        validation_fraction: share of train, in [0, 1), for sets without a validation split; 0 takes none.
        seed: of that choice, which depends on (seed, key) alone.
        dataset, options: as `open_splits` takes them (`image_column`, `class_names`, `templates`, `revision`, ...).

    Raises:
        ValueError: one sentence, where the set cannot be found, lacks the split or columns, or is damaged.

    >>> rows = load_rows("digits", "test")
    >>> len(rows), rows.kind, rows[0]["key"]
    (360, 'class', 'digits-0005')
    """
    readers = open_splits(dataset, **options)
    return read_split(readers, split, dataset=dataset, validation_fraction=validation_fraction, seed=seed)


def open_splits(
    dataset: str,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    label_column: str | None = None,
    class_names: list[str] | None = None,
    templates: list[str] | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
) -> Readers:
    """The splits that a data set has of its own, each with what reads it, once however often it is called.

    1. `digits` and `scenes` are built in; a local set of such a name is `./digits`.
    2. A path is a folder of tar shards (`<split>/0.tar` as CLIP_benchmark has them, or all in one folder), a folder of
       pictures with a `metadata.csv` or `metadata.jsonl`, a folder with tables or one table (parquet, CSV, JSON lines),
       or a folder of pictures with one sub-folder a class; the last two may be parted into split folders.
    3. Anything else is a data set of the Hub, as tar shards in that layout or as `datasets.load_dataset` reads it.

    Args:
        image_column, caption_column, label_column: columns of a table, where they cannot be told.
        class_names: in label order, where the set has none, or instead of them; or one `.txt` with a name a line.
        templates: prompts for class data, `{}` stands for the class; or the name of a published list (`cifar10`,
            `cifar100`, `imagenet`), or one `.txt` with a prompt a line.
        revision: branch, tag or commit of a Hub data set.
        cache_dir: where the Hub's files and the tables' Arrow copies are kept, if not where `datasets` keeps them.

    Raises:
        ValueError: one sentence, where the set cannot be found or lacks columns; a reader raises it where the split is
            damaged.

    >>> sorted(open_splits("digits"))
    ['test', 'train', 'validation']
    """
    columns = Columns(
        image=image_column,
        caption=caption_column,
        label=label_column,
        class_names=class_names,
        templates=templates,
    )
    readers = _readers(dataset, columns, revision, cache_dir)
    return {split: cache(partial(_read, reader, dataset, columns)) for split, reader in readers.items()}


def _read(reader, dataset, columns):
    rows = reader()
    if rows.kind == "caption" and (columns.class_names or columns.templates):
        given = "class_names" if columns.class_names else "templates"
        raise ValueError(f"{dataset} has captions of its own, so {given} has no use; leave it out.")
    return rows


def _readers(dataset: str, columns: Columns, revision: str | None, cache_dir: str | None) -> Readers:
    words = {"class_names": columns.class_names, "templates": columns.templates}
    if dataset == "digits":
        return without_columns(digits_readers(**words), dataset, columns)
    if dataset == "scenes":
        return without_columns(scenes_readers(), dataset, columns)
    path = Path(dataset or "?").expanduser()  # Path("") would be the current folder
    if path.is_dir():
        return _folder_readers(path, dataset, columns, cache_dir)
    if path.exists():
        if not is_table(path):
            known = (
                "the folder that holds the shards"
                if path.suffix == ".tar"
                else "a folder, or a .parquet, .csv or .jsonl"
            )
            raise ValueError(f"{dataset}: is a file of no known kind; give {known}.")
        return file_readers(path, name=dataset, columns=columns, cache_dir=cache_dir)
    if dataset.startswith((".", "~")) or path.is_absolute() or dataset.count(os.sep) > 1 or is_table(path):
        raise ValueError(f"{dataset}: there is no such file or folder; check the path (seen from {Path.cwd()}).")
    if not HUB_ID.fullmatch(dataset):
        raise ValueError(f"{dataset!r} is neither a path nor a Hub id (owner/name); also built in: digits, scenes.")
    return _hub_readers(dataset, columns, revision, cache_dir)


def without_columns(readers: Readers, dataset: str, columns: Columns) -> Readers:
    """The readers as they are. Raises: ValueError if columns were named, which only tables have."""
    named = {"image_column": columns.image, "caption_column": columns.caption, "label_column": columns.label}
    wrong = next((option for option, column in named.items() if column), None)
    if wrong:
        raise ValueError(f"{wrong}={named[wrong]!r}: {dataset} is no table and has no columns; leave the option out.")
    return readers


def _folder_readers(folder: Path, dataset: str, columns: Columns, cache_dir: str | None) -> Readers:
    words = {"class_names": columns.class_names, "templates": columns.templates}
    tars = tar_split_folders(folder)
    if any(map(is_split_name, tars)):  # other folders with tars may be what was downloaded
        return without_columns(webdataset_readers(folder, name=dataset, **words), dataset, columns)
    if readers := metadata_readers(folder, name=dataset, columns=columns, cache_dir=cache_dir):
        return readers
    files = table_files(folder)
    loose = loose_shards(folder, chain(*files.values()))
    if files and not loose:
        return table_readers(files, dataset, columns, cache_dir, folder=folder)
    if readers := class_folder_readers(folder, name=dataset, **words):
        return without_columns(readers, dataset, columns)
    if tars := tars or loose:
        return without_columns(webdataset_readers(folder, name=dataset, splits=tars, **words), dataset, columns)
    raise ValueError(
        f"{dataset}: holds none of the known forms: tar shards (<split>/0.tar), pictures with a metadata.csv or "
        "metadata.jsonl, tables (.parquet, .csv, .jsonl), or pictures in one sub-folder a class."
    )


def _hub_readers(dataset: str, columns: Columns, revision: str | None, cache_dir: str | None) -> Readers:
    try:
        info = HfApi().dataset_info(dataset, revision=revision)
    except Exception as error:
        if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError):
            raise hub_error(dataset, revision, error) from error
        return _cached_readers(dataset, columns, revision, cache_dir, cause=error)
    files = [file.rfilename for file in info.siblings or []]
    folders = {file.split("/")[0] for file in files if re.fullmatch(r"[^/]+/[^/]+\.tar", file)}
    if any(map(is_split_name, folders)):
        return hub_tar_readers(dataset, folders, columns, revision, cache_dir)
    return _hub_table_readers(dataset, columns, revision, cache_dir)


def _cached_readers(
    dataset: str, columns: Columns, revision: str | None, cache_dir: str | None, *, cause: Exception
) -> Readers:
    """Without the Hub: what an earlier run left in the caches of `huggingface_hub` or `datasets`."""
    where = {"repo_type": "dataset", "revision": revision, "cache_dir": cache_dir}
    try:  # the small files came with every split, so asking for them finds the folder however many splits it holds
        snapshot = snapshot_download(dataset, allow_patterns=METADATA_FILES, local_files_only=True, **where)
        folders = {path.name for path in tar_split_folders(Path(snapshot)).values()}
    except Exception:  # not in this cache; the other one has the last word
        folders = set()
    if folders:
        return hub_tar_readers(dataset, folders, columns, revision, cache_dir)
    try:
        return _hub_table_readers(dataset, columns, revision, cache_dir, offline=True)
    except ValueError:
        raise hub_error(dataset, revision, cause) from cause


def hub_tar_readers(
    dataset: str, folders: set[str], columns: Columns, revision: str | None, cache_dir: str | None
) -> Readers:
    """Readers of the split folders of a Hub data set in tar shards; a split is fetched when it is read."""
    where = {"columns": columns, "revision": revision, "cache_dir": cache_dir}
    own = by_split(sorted(folders), dataset)
    readers = {split: partial(_read_hub_tars, dataset, folder, **where) for split, folder in own.items()}
    return without_columns(readers, dataset, columns)


def _read_hub_tars(dataset: str, folder: str, *, columns: Columns, revision: str | None, cache_dir: str | None) -> Rows:
    """Fetches one split, or takes it from the cache if the Hub is out of reach and the cache has all of it."""
    patterns = [f"{folder}/*.tar", f"{folder}/nshards.txt", *METADATA_FILES]
    where = {"repo_type": "dataset", "revision": revision, "cache_dir": cache_dir}
    try:
        snapshot = Path(snapshot_download(dataset, allow_patterns=patterns, **where))
    except Exception as error:
        raise hub_error(dataset, revision, error) from error
    readers = webdataset_readers(
        snapshot,
        name=dataset,
        origin=f"{dataset} at revision {snapshot.name}",  # the folder is named by its commit
        fingerprint=f"{dataset}@{snapshot.name}",
        class_names=columns.class_names,
        templates=columns.templates,
    )
    return readers[canonical_split(folder)]()


def _hub_table_readers(
    dataset: str, columns: Columns, revision: str | None, cache_dir: str | None, *, offline: bool = False
) -> Readers:
    where = {"revision": revision, "cache_dir": cache_dir}
    with hub_switch(dataset, revision, offline):
        splits = datasets.get_dataset_split_names(dataset, **where)
    own = by_split(splits, dataset)
    tables = {split: partial(_open_hub_table, dataset, own[split], offline, **where) for split in own}
    origin = f"{dataset} on the Hub" + (f" at revision {revision}" if revision else "")
    return {
        split: partial(rows_from_table, tables, split=split, name=dataset, columns=columns, origin=origin)
        for split in tables
    }


def _open_hub_table(dataset: str, own_split: str, offline: bool, **where) -> datasets.Dataset:
    with hub_switch(dataset, where["revision"], offline):
        return datasets.load_dataset(dataset, split=own_split, **where)
