"""What the user calls a data set goes in; its train split as a stream, and readers of its other splits, come out."""

import os
import re
from functools import partial
from itertools import chain
from pathlib import Path

import datasets
from huggingface_hub import HfApi, snapshot_download

from .columns import Columns, find_columns, is_text, is_whole_number, readable_class
from .hub_errors import hub_error, hub_switch
from .load import HUB_ID, hub_tar_readers, without_columns
from .rows import DEFAULT_TEMPLATES
from .shards import shard_files, shard_names
from .splits import Readers, by_split, canonical_split, is_split_name
from .streamed_rows import StreamSource, tar_sample
from .streamed_shards import Shards, parquet_shards, tar_shards
from .tables import file_readers, rows_from_table, table_files, table_readers
from .webdataset import (
    METADATA_FILES,
    loose_shards,
    read_class_names,
    read_templates,
    sample_kind,
    tar_split_folders,
    webdataset_readers,
)


def open_stream(
    dataset: str, columns: Columns, *, revision: str | None = None, cache_dir: str | None = None
) -> tuple[StreamSource, Readers]:
    """Opens the train split of tar shards (CLIP_benchmark's layout) or parquet files, local or of the Hub.

    Args: as for `load_rows`.
    Returns: the stream, and readers of the set's other splits, which are small and read as ever.
    Raises: ValueError, one sentence, where the set cannot be found or is of a form that is not streamed.
    """
    path = Path(dataset or "?").expanduser()
    if path.is_dir():
        folders = tar_split_folders(path)
        if any(map(is_split_name, folders)):
            words = {"class_names": columns.class_names, "templates": columns.templates}
            readers = without_columns(webdataset_readers(path, name=dataset, **words), dataset, columns)
            files = [str(file) for file in shard_files(folders[_train(folders, dataset)])]
            return _tar_source(dataset, path, files, columns), _without_train(readers)
        tables = table_files(path)
        if loose := loose_shards(path, chain(*tables.values())):
            without_columns({}, dataset, columns)
            return _tar_source(dataset, path, [str(file) for file in shard_files(loose["train"])], columns), {}
        _check_parquet(dataset, [str(file) for files in tables.values() for file in files])
        readers = table_readers(tables, dataset, columns, cache_dir, folder=path)
        files = [str(file) for file in tables[_train(tables, dataset)]]
        return _parquet_source(dataset, files, columns), _without_train(readers)
    if path.is_file():
        _check_parquet(dataset, [str(path)])
        readers = file_readers(path, name=dataset, columns=columns, cache_dir=cache_dir)
        _train(readers, dataset)
        return _parquet_source(dataset, [str(path)], columns), {}
    if dataset in ("digits", "scenes"):
        _check_parquet(dataset, [])
    if path.is_absolute() or dataset.startswith((".", "~")) or dataset.count(os.sep) > 1 or path.suffix == ".parquet":
        raise ValueError(f"{dataset}: there is no such file or folder; check the path (seen from {Path.cwd()}).")
    if not HUB_ID.fullmatch(dataset):
        raise ValueError(f"{dataset!r} is neither a path nor a Hub id (owner/name).")
    return _open_on_hub(dataset, columns, revision, cache_dir)


def _open_on_hub(dataset, columns, revision, cache_dir):
    with hub_switch(dataset, revision, False):
        info = HfApi().dataset_info(dataset, revision=revision)
    files = [file.rfilename for file in info.siblings or []]
    tars = [file for file in files if re.fullmatch(r"[^/]+/[^/]+\.tar", file)]
    folders = sorted({file.split("/")[0] for file in tars})
    if any(map(is_split_name, folders)):
        folders = by_split(folders, dataset)
        train = folders[_train(folders, dataset)]
        patterns = [*METADATA_FILES, f"{train}/nshards.txt"]
        try:
            where = {"repo_type": "dataset", "revision": info.sha, "cache_dir": cache_dir}
            snapshot = Path(snapshot_download(dataset, allow_patterns=patterns, **where))
        except Exception as error:
            raise hub_error(dataset, revision, error) from error
        names = [file.split("/")[1] for file in tars if file.startswith(f"{train}/")]
        names = shard_names(names, snapshot / train / "nshards.txt")
        addresses = [f"hf://datasets/{dataset}@{info.sha}/{train}/{name}" for name in names]
        readers = hub_tar_readers(dataset, set(folders.values()), columns, revision, cache_dir)
        return _tar_source(dataset, snapshot, addresses, columns), _without_train(readers)
    with hub_switch(dataset, revision, False):
        builder = datasets.load_dataset_builder(dataset, revision=info.sha, cache_dir=cache_dir)
        own = {canonical_split(str(split)): list(paths) for split, paths in (builder.config.data_files or {}).items()}
    _check_parquet(dataset, [file for paths in own.values() for file in paths])
    source = _parquet_source(dataset, own[_train(own, dataset)], columns, builder.info.features)
    # Not load_dataset(..., split="test"): that would fetch the train split, too.
    opened = {
        split: partial(_open_parquet, dataset, revision, paths, builder.info.features, cache_dir)
        for split, paths in own.items()
    }
    words = {"name": dataset, "columns": columns, "origin": f"{dataset} on the Hub at revision {info.sha}"}
    readers = {split: partial(rows_from_table, opened, split=split, **words) for split in own}
    return source, _without_train(readers)


def _open_parquet(dataset, revision, files, features, cache_dir):
    with hub_switch(dataset, revision, False):
        return datasets.Dataset.from_parquet(files, features=features, cache_dir=cache_dir)


def _train(splits, dataset):
    if "train" not in splits:
        raise ValueError(f"{dataset} has no split 'train' to stream; it has: {', '.join(splits)}.")
    return "train"


def _without_train(readers):
    return {split: reader for split, reader in readers.items() if split != "train"}


def _check_parquet(dataset, files):
    odd = next((file for file in files if not file.endswith(".parquet")), None)
    if odd or not files:
        raise ValueError(
            f"{dataset}: {f'holds {odd}, which' if odd else 'is of a form that'} is not streamed; leave streaming out, "
            "or give tar shards (<split>/0.tar) or parquet files."
        )


def _tar_source(dataset, folder, files, columns):
    shards = tar_shards(files)
    first = next(((file, raw) for shard, file in enumerate(files) for _, raw in shards.rows(shard)), None)
    if first is None:
        raise ValueError(f"{dataset}: the shards of its train split hold no pictures; check how they were written.")
    if sample_kind(folder, tar_sample(first[1]), f"{first[0]}: {first[1]['member']}") == "caption":
        return _caption_source(dataset, columns, shards=shards)
    return StreamSource(
        name=dataset,
        kind="class",
        shards=shards,
        class_names=list(columns.class_names or read_class_names(folder)),
        templates=list(columns.templates or read_templates(folder)),
    )


def _parquet_source(dataset, files, columns, features=None):
    shards = parquet_shards(files, features)
    features = shards.stream.features
    image, captions, label = found = find_columns(features, columns, origin=dataset)
    if is_text(features[image]):
        raise ValueError(
            f"{dataset}: column {image!r} holds paths; a stream needs the pictures themselves in the parquet files: "
            "leave streaming out, or write them there."
        )
    shards = Shards(files=files, stream=shards.stream.select_columns([image, *captions, *([label] if label else [])]))
    if label is None:
        return _caption_source(dataset, columns, shards=shards, columns=found)
    names, feature = columns.class_names, features[label]
    if isinstance(feature, datasets.ClassLabel):
        names = names or list(map(readable_class, feature.names))
    elif not (is_text(feature) or is_whole_number(feature)):
        raise ValueError(f"{dataset}: label column {label!r} holds {feature}; labels are whole numbers or words.")
    if not names:
        raise ValueError(
            f"{dataset}: the classes in column {label!r} are not known before all rows are read; give their names in "
            "label order (class_names)."
        )
    return StreamSource(
        name=dataset,
        kind="class",
        shards=shards,
        columns=found,
        class_names=list(names),
        templates=list(columns.templates or DEFAULT_TEMPLATES),
        numbers={name: number for number, name in enumerate(names)} if is_text(feature) else None,
    )


def _caption_source(dataset, said, **parts):
    if said.class_names or said.templates:
        given = "class_names" if said.class_names else "templates"
        raise ValueError(f"{dataset} has captions of its own, so {given} has no use; leave it out.")
    return StreamSource(name=dataset, kind="caption", **parts)
