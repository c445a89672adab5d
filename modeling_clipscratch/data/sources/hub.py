"""Find the splits of a dataset of the Hub."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
from .streams import with_features
from .table_files import by_rows
from .tars import CLASSES_FILE, TEMPLATES_FILE, open_tars, tar_splits

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def hub_source(name: str, options: DataOptions) -> Source:
    """Return the splits of a dataset of the Hub; a split is fetched when it is opened.

    If the Hub cannot be reached, the caches of `huggingface_hub` and `datasets` are used.
    """
    if not HUB_ID.fullmatch(name):
        raise ClipScratchError(f"{name!r} is neither a path nor a Hub id (owner/name); built in are digits and scenes.")
    fetch = partial(snapshot_download, name, repo_type="dataset", cache_dir=options.cache_dir)
    with _naming_errors(name):
        files, address, unreachable = [], None, None
        try:
            info = HfApi().dataset_info(name, revision=options.revision)
            files, address = [file.rfilename for file in info.siblings], f"hf://datasets/{name}@{info.sha}/{{}}".format
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise
        except Exception as error:
            unreachable = error
            datasets.config.HF_HUB_OFFLINE = True  # else `datasets` tries for half a minute before it reads its cache
            fetch.keywords["local_files_only"] = True
            try:
                folder = Path(fetch(revision=options.revision))
                files, address = list_files(dict(walk_files(folder))), lambda tar: str(folder / tar)
            except LocalEntryNotFoundError:  # it may be in the other cache
                pass
        config = f"{options.dataset_config}/" if options.dataset_config else ""
        if splits := tar_splits([file for file in files if file.startswith(config)], name):
            folder = Path(fetch(revision=options.revision, allow_patterns=[CLASSES_FILE, TEMPLATES_FILE]))

            def fetch_tars(tars):
                with _naming_errors(name):
                    fetch(revision=folder.name, allow_patterns=[*map(glob.escape, tars)])

            origin = f"{name} at revision {folder.name}"
            return open_tars(splits, folder, name, options, address, fetch=fetch_tars, origin=origin)
    with _naming_errors(name, unreachable):
        return _table_source(name, options, streams=any(file.endswith(".parquet") for file in files))


def _table_source(name, options, *, streams):
    where = {"revision": options.revision, "cache_dir": options.cache_dir}
    names = datasets.get_dataset_config_names(name, **where)
    config = options.dataset_config
    if config is None and len(names) > 1:
        config = datasets.get_dataset_default_config_name(name, **where)
    if len(names) > 1 and config not in names:
        raise ClipScratchError(
            f"{name}: has several configurations, and dataset_config={config!r} is none of them; choose one with "
            f"--dataset_config: {', '.join(names)}."
        )
    origin = f"{name} on the Hub" + (f", {config}" if options.dataset_config else "")
    origin += f" at revision {options.revision}" if options.revision else ""
    load = partial(_load, name, config, where)
    source = {
        split: Split(partial(load, of), origin, partial(load, of, streaming=True) if streams else None)
        for split, of in by_split(datasets.get_dataset_split_names(name, config, **where), name).items()
    }
    if len(source) > 1:
        return source
    ((split, part),) = source.items()
    table = with_features(part.stream()) if streams else part.open()
    if (column := split_column(table.features, options, origin)) is None:
        return source
    rows = part.stream(columns=[column]) if streams else table.select_columns([column])
    return by_rows(source, {split: [row[column] for row in rows]}, column)


def _load(name, config, where, split, **streaming):
    with _naming_errors(name):
        return datasets.load_dataset(name, config, split=split, **where, **streaming)


@contextmanager
def _naming_errors(name: str, cause: Exception | None = None) -> Iterator[None]:
    """Raise errors of the Hub and of `datasets` as one sentence, about their cause if it is known."""
    try:
        yield
    except ClipScratchError:
        raise
    except Exception as error:  # of the network, the Hub, the file format or the builder
        raise _hub_error(name, cause or error) from error


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
