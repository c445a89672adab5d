"""Find the splits of a dataset on this machine: a folder or a file."""

import os
from functools import partial
from pathlib import Path

import datasets

from ...utils.errors import ClipScratchError
from ...utils.local_files import list_files, read_json, walk_files
from ...utils.names import first_line
from ..columns import DataOptions, split_column
from ..images.decode import warn_of_unread
from ..splits import KEYWORDS, Source, Split, by_split, canonical_split
from .folders import image_folder_source
from .table_files import by_rows, is_table, metadata_source, table_file_source, table_source
from .tars import tar_source


def local_source(name: str, options: DataOptions) -> Source | None:
    """Return the splits of a local folder or file; `None` if the name is not a path."""
    path = Path(name or "?").expanduser()  # Path("") would be the current folder
    if path.is_dir():
        source = _folder_source(path, name, options)
        return {split: source[split] for split in sorted(source, key=lambda s: ([*KEYWORDS, s].index(s), s))}
    if path.exists():
        if is_table(path):
            return table_file_source(path, options)
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
    if (folder / "dataset_dict.json").exists():
        splits = read_json(folder / "dataset_dict.json").get("splits", [])
        folders = {split: folder / own for split, own in by_split(splits, name).items()}
    elif (folder / "state.json").exists() and (folder / "dataset_info.json").exists():
        folders = {canonical_split(read_json(folder / "state.json").get("_split") or "train"): folder}
    else:
        return None
    source = {split: Split(partial(_load_saved, path), str(path)) for split, path in folders.items()}
    tables = {split: part.open() for split, part in source.items()}
    column = split_column(next(iter(tables.values())).column_names, options, name)
    return by_rows(source, {split: table[column][:] for split, table in tables.items()} if column else {}, column)


def _load_saved(folder: Path) -> datasets.Dataset:
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:
        raise ClipScratchError(
            f"{folder}: save_to_disk's files cannot be read ({first_line(error)}); save it again."
        ) from error
