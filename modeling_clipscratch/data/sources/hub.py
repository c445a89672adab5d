"""Find the splits of a dataset of the Hub."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    where = {"repo_type": "dataset", "cache_dir": options.cache_dir}
    fetch = partial(snapshot_download, name, allow_patterns=[CLASSES_FILE, TEMPLATES_FILE], **where)
    files, address, unreachable = [], None, None
    with _naming_errors(name):
        try:
            info = HfApi().dataset_info(name, revision=options.revision)
            files, address = [file.rfilename for file in info.siblings], f"hf://datasets/{name}@{info.sha}/{{}}".format
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise
        except Exception as error:
            unreachable = error
            datasets.config.HF_HUB_OFFLINE = True  # else `datasets` tries for half a minute before it reads its cache
            fetch.keywords["local_files_only"] = True
            with suppress(LocalEntryNotFoundError):  # it may be in the other cache
                folder = Path(fetch(revision=options.revision))
                files, address = list_files(dict(walk_files(folder))), lambda tar: str(folder / tar)
    config = f"{options.dataset_config}/" if options.dataset_config else ""
    with _naming_errors(name, unreachable):
        splits = tar_splits([file for file in files if file.startswith(config)], name)
        if not splits:
            return _table_source(name, options, streams=any(file.endswith(".parquet") for file in files))
        folder = Path(fetch(revision=options.revision))

    def fetch_tars(tars):
        with _naming_errors(name):
            fetch(revision=folder.name, allow_patterns=[*map(glob.escape, tars)])

    origin = f"{name} at revision {folder.name}"
    return open_tars(splits, folder, name, options, address, fetch=fetch_tars, origin=origin)


def _table_source(name, options, *, streams):
    where = {"revision": options.revision, "cache_dir": options.cache_dir}
    names = datasets.get_dataset_split_names(name, options.dataset_config, **where)
    origin = f"{name} on the Hub" + (f", {options.dataset_config}" if options.dataset_config else "")
    origin += f" at revision {options.revision}" if options.revision else ""

    def load(split, **streaming):
        with _naming_errors(name):
            return datasets.load_dataset(name, options.dataset_config, split=split, **where, **streaming)

    source = {
        split: Split(partial(load, of), origin, partial(load, of, streaming=True) if streams else None)
        for split, of in by_split(names, name).items()
    }
    if len(source) > 1:
        return source
    ((split, part),) = source.items()
    table = with_features(part.stream()) if streams else part.open()
    column = split_column(table.features, options, origin)
    return by_rows(source, {split: part.open()[column][:]}, column) if column else source


@contextmanager
def _naming_errors(name: str, cause: Exception | None = None) -> Iterator[None]:
    """Raise errors of the Hub and of `datasets` as one sentence, about their cause if it is known."""
    try:
        yield
    except ClipScratchError:
        raise
    except Exception as error:  # of the network, the Hub, the file format or the builder
        reason = on_one_line(str(cause or error)).rstrip(".") or type(cause or error).__name__
        answer = f"cannot be reached ({reason}), nor does its cache hold it; set HF_HOME to where it is kept"
        if cause is None:
            answer = f"answers: {reason}. Check the spelling, --dataset_config and the revision, and use `hf auth "
            answer += "login` for a private or gated dataset"
        raise ClipScratchError(
            f"{name}: is not a local folder, and the Hub ({constants.ENDPOINT}) {answer}, or give a local folder."
        ) from error
