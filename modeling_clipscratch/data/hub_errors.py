"""What goes wrong while a data set of the Hub is read goes in; one sentence on why, and what to do, comes out."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


@contextmanager
def hub_switch(dataset: str, revision: str | None, offline: bool) -> Iterator[None]:
    """Inside, what `datasets` raises about a Hub data set becomes one sentence, and it asks no network if so wanted."""
    before = datasets.config.HF_HUB_OFFLINE
    # Known to be out of reach: without this, `datasets` tries for half a minute before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    except Exception as error:  # from the network, the Hub, the file format or the builder
        raise hub_error(dataset, revision, error) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def hub_error(dataset: str, revision: str | None, error: Exception) -> ValueError:
    """Why a Hub data set cannot be had, and what to do about it, as an error to raise."""
    reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if isinstance(error, GatedRepoError):
        return ValueError(f"{dataset}: the Hub asks for an agreement first; accept it there, then `hf auth login`.")
    if isinstance(error, RevisionNotFoundError):
        return ValueError(f"{dataset}: has no revision {revision!r} on the Hub; give a branch, tag or commit of it.")
    if isinstance(error, RepositoryNotFoundError | HFValidationError | datasets.exceptions.DatasetNotFoundError):
        return ValueError(
            f"{dataset}: there is no such local folder, and the Hub ({constants.ENDPOINT}) has no such data set; check "
            "the spelling, `hf auth login` for a private one, or give a local folder."
        )
    if isinstance(error, ConnectionError | TimeoutError | LocalEntryNotFoundError) or "httpx" in type(error).__module__:
        return ValueError(
            f"{dataset}: there is no such local folder, the Hub ({constants.ENDPOINT}) cannot be reached ({reason}) "
            f"and its cache ({constants.HF_HUB_CACHE}) does not hold it; connect, give a local folder, or set HF_HOME "
            "to where it is kept."
        )
    return ValueError(f"{dataset}: `datasets` cannot read it ({reason}); give a local copy in one of the known forms.")
