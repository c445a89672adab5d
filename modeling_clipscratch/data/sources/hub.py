"""Find the splits of a dataset of the Hub."""

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import datasets
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...utils.errors import ClipScratchError
from ...utils.local_files import list_files, walk_files
from ...utils.names import on_one_line
from ..columns import DataOptions, split_column
from ..splits import Source, Split, by_split
from .table_files import by_split_column
from .tars import SMALL_FILES, open_tars, tar_splits

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def hub_source(name: str, options: DataOptions) -> Source:
    """Return the splits of a dataset of the Hub; a split is fetched when it is opened.

    If the Hub cannot be reached, the caches of `huggingface_hub` and `datasets` are used.
    """
    if not HUB_ID.fullmatch(name):
        raise ClipScratchError(f"{name!r} is neither a path nor a Hub id (owner/name); built in are digits and scenes.")
    try:
        info = HfApi().dataset_info(name, revision=options.revision)
    except Exception as error:
        if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError):
            raise _hub_error(name, error) from error
        return _cached_source(name, options, cause=error)
    files = [file.rfilename for file in info.siblings or []]
    if splits := tar_splits(_of_config(files, options), name):
        folder = Path(_fetch(name, options, SMALL_FILES))
        address = f"hf://datasets/{name}@{info.sha}/{{}}".format
        return _tar_source(splits, folder, name, options, address)
    return _table_source(name, options, streams=any(file.endswith(".parquet") for file in files))


def _of_config(files, options):
    config = f"{options.dataset_config}/" if options.dataset_config else ""
    return [file for file in files if file.startswith(config)]


def _tar_source(splits, folder, name, options, address):
    at_commit = replace(options, revision=folder.name)

    def fetch(tars):
        _fetch(name, at_commit, [*map(glob.escape, tars)])

    return open_tars(splits, folder, name, options, address, fetch=fetch, origin=f"{name} at revision {folder.name}")


def _fetch(name, options, patterns: Sequence[str], *, local_files_only: bool = False) -> str:
    where = {"repo_type": "dataset", "revision": options.revision, "cache_dir": options.cache_dir}
    with _naming_errors(name, local_files_only):
        return snapshot_download(name, allow_patterns=list(patterns), local_files_only=local_files_only, **where)


def _cached_source(name, options, *, cause):
    try:
        folder = Path(_fetch(name, options, SMALL_FILES, local_files_only=True))
        splits = tar_splits(_of_config(list_files(dict(walk_files(folder))), options), name)
    except ClipScratchError:  # it is not in this cache, but may be in the other
        splits = {}
    if splits:
        return _tar_source(splits, folder, name, options, lambda tar: str(folder / tar))
    try:
        return _table_source(name, options, offline=True)
    except ClipScratchError:
        raise _hub_error(name, cause) from cause


def _table_source(name, options, *, streams=False, offline=False):
    where = {"revision": options.revision, "cache_dir": options.cache_dir}
    config = options.dataset_config
    with _naming_errors(name, offline):
        names = datasets.get_dataset_config_names(name, **where)
        if config is None and len(names) > 1:
            config = datasets.get_dataset_default_config_name(name, **where)
    if len(names) > 1 and config not in names:
        problem = f"has no configuration {config!r}" if config else "has several configurations"
        raise ClipScratchError(f"{name}: {problem}; choose one with --dataset_config: {', '.join(names)}.")
    with _naming_errors(name, offline):
        info = datasets.get_dataset_config_info(name, config, **where)
    own = by_split(info.splits, name)
    origin = f"{name} on the Hub" + (f", {config}" if options.dataset_config else "")
    origin += f" at revision {options.revision}" if options.revision else ""
    load = partial(_load, name, config, options, offline)
    source = {
        split: Split(partial(load, of), origin, partial(load, of, streaming=True) if streams else None)
        for split, of in own.items()
    }
    column = split_column(info.features, options, origin) if info.features else options.split_column or "split"
    if column is None or (not info.features and len(own) > 1):  # to look for the column would fetch every split
        return source
    cells = {split: partial(_cells, load, of, column) for split, of in own.items()} if streams else None
    return by_split_column(source, options, cells)


def _load(name, config, options, offline, split, **streaming):
    where = {"revision": options.revision, "cache_dir": options.cache_dir}
    with _naming_errors(name, offline):
        dataset = datasets.load_dataset(name, config, split=split, **where, **streaming)
        return dataset.decode(False) if streaming and dataset.features else dataset


def _cells(load, split, column):
    """Return the split column of a parquet table alone, without its images."""
    rows = load(split, streaming=True, columns=[column])
    return datasets.Dataset.from_dict({column: [row[column] for row in rows]})


@contextmanager
def _naming_errors(name: str, offline: bool) -> Iterator[None]:
    """Raise errors of the Hub and of `datasets` as one sentence. `offline` keeps `datasets` off the network."""
    before = datasets.config.HF_HUB_OFFLINE
    # Without this, `datasets` tries an unreachable Hub for half a minute before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    except Exception as error:  # of the network, the Hub, the file format or the builder
        raise _hub_error(name, error) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _hub_error(name: str, error: Exception) -> ClipScratchError:
    reason = on_one_line(str(error)).rstrip(".") or type(error).__name__
    unreachable = isinstance(error, ConnectionError | TimeoutError | LocalEntryNotFoundError)
    if unreachable or "httpx" in type(error).__module__:
        return ClipScratchError(
            f"{name}: there is no such local folder, the Hub ({constants.ENDPOINT}) cannot be reached ({reason}) "
            f"and its cache ({constants.HF_HUB_CACHE}) does not hold it; connect, give a local folder, or set HF_HOME "
            "to where it is kept."
        )
    return ClipScratchError(
        f"{name}: is not a local folder, and the Hub ({constants.ENDPOINT}) answers: {reason}. Check the spelling and "
        "the revision, `hf auth login` for a private or gated dataset, or give a local folder."
    )
