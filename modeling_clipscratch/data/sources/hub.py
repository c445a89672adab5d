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
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ...hub.errors_clipscratch import ClipScratchError
from ...utils.local_files import list_files, walk_files
from ...utils.names import first_line
from ..columns import DataOptions
from ..splits import Source, Split, by_split
from .table_files import by_split_column, split_column
from .tars import SMALL_FILES, open_tars, tar_splits

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def hub_source(name: str, options: DataOptions) -> Source:
    """The splits of a dataset of the Hub; a split is fetched when it is opened.

    Where the Hub is out of reach: what an earlier run left in the caches of `huggingface_hub` or `datasets`.

    Raises: ClipScratchError, one sentence, if it cannot be had or has several configurations of which none is chosen.
    """
    if not HUB_ID.fullmatch(name):
        raise ClipScratchError(f"{name!r} is neither a path nor a Hub id (owner/name); also built in: digits, scenes.")
    try:
        info = HfApi().dataset_info(name, revision=options.revision)
    except Exception as error:
        if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError | HFValidationError):
            raise _hub_error(name, options, error) from error
        return _cached_source(name, options, cause=error)
    files = [file.rfilename for file in info.siblings or []]
    if splits := tar_splits(_of_config(files, options), name):
        folder = Path(_fetch(name, options, SMALL_FILES))
        address = f"hf://datasets/{name}@{info.sha}/{{}}".format
        return _tar_source(splits, folder, name, options, address)
    return _table_source(name, options, streams=any(file.endswith(".parquet") for file in files))


def _of_config(files, options):
    config = f"{options.dataset_config}/"
    return [file for file in files if file.startswith(config)] if options.dataset_config else files


def _tar_source(splits, folder, name, options, address):
    at_commit = replace(options, revision=folder.name)

    def fetch(tars):
        _fetch(name, at_commit, [*map(glob.escape, tars)])

    return open_tars(splits, folder, name, options, address, fetch=fetch, origin=f"{name} at revision {folder.name}")


def _fetch(name, options, patterns: Sequence[str], *, local_files_only: bool = False) -> str:
    where = {"repo_type": "dataset", "revision": options.revision, "cache_dir": options.cache_dir}
    try:
        return snapshot_download(name, allow_patterns=list(patterns), local_files_only=local_files_only, **where)
    except Exception as error:
        raise _hub_error(name, options, error) from error


def _cached_source(name, options, *, cause):
    try:
        folder = Path(_fetch(name, options, SMALL_FILES, local_files_only=True))
        splits = tar_splits(_of_config(list_files(dict(walk_files(folder))), options), name)
    except ValueError:  # not in this cache; the other one has the last word
        splits = {}
    if splits:
        return _tar_source(splits, folder, name, options, lambda tar: str(folder / tar))
    try:
        return _table_source(name, options, offline=True)
    except ValueError:
        raise _hub_error(name, options, cause) from cause


def _table_source(name, options, *, streams=False, offline=False):
    where = {"revision": options.revision, "cache_dir": options.cache_dir}
    config = options.dataset_config
    with _one_sentence(name, options, offline):
        names = datasets.get_dataset_config_names(name, **where)
        if config is None and len(names) > 1:
            config = datasets.get_dataset_default_config_name(name, **where)
    if len(names) > 1 and config not in names:
        problem = f"has no configuration {config!r}" if config else "has several configurations"
        raise ClipScratchError(f"{name}: {problem}; choose one with --dataset_config: {', '.join(names)}.")
    with _one_sentence(name, options, offline):
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
    with _one_sentence(name, options, offline):
        dataset = datasets.load_dataset(name, config, split=split, **where, **streaming)
        return dataset.decode(False) if streaming and dataset.features else dataset


def _cells(load, split, column):
    """The split column of a parquet table alone, without its images."""
    rows = load(split, streaming=True, columns=[column])
    return datasets.Dataset.from_dict({column: [row[column] for row in rows]})


@contextmanager
def _one_sentence(name: str, options: DataOptions, offline: bool) -> Iterator[None]:
    """Inside, what `datasets` raises about a dataset becomes one sentence, and `offline` keeps it off the network."""
    before = datasets.config.HF_HUB_OFFLINE
    # Known to be out of reach: without this, `datasets` tries for half a minute before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    except Exception as error:  # from the network, the Hub, the file format or the builder
        raise _hub_error(name, options, error) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _hub_error(name: str, options: DataOptions, error: Exception) -> ClipScratchError:
    reason = first_line(error)
    if isinstance(error, GatedRepoError):
        return ClipScratchError(f"{name}: the Hub asks for an agreement first; accept it there, then `hf auth login`.")
    if isinstance(error, RevisionNotFoundError):
        revision = options.revision
        return ClipScratchError(f"{name}: has no revision {revision!r} on the Hub; give a branch, tag or commit of it.")
    if isinstance(error, RepositoryNotFoundError | HFValidationError | datasets.exceptions.DatasetNotFoundError):
        return ClipScratchError(
            f"{name}: there is no such local folder, and the Hub ({constants.ENDPOINT}) has no such dataset; check "
            "the spelling, `hf auth login` for a private one, or give a local folder."
        )
    if isinstance(error, ConnectionError | TimeoutError | LocalEntryNotFoundError) or "httpx" in type(error).__module__:
        return ClipScratchError(
            f"{name}: there is no such local folder, the Hub ({constants.ENDPOINT}) cannot be reached ({reason}) "
            f"and its cache ({constants.HF_HUB_CACHE}) does not hold it; connect, give a local folder, or set HF_HOME "
            "to where it is kept."
        )
    return ClipScratchError(
        f"{name}: `datasets` cannot read it ({reason}); give a local copy in one of the known forms."
    )
