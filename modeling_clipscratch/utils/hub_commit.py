"""Commit files to a repository of the Hub at once, and check beforehand that this will be possible."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from .errors import ClipScratchError
from .names import on_one_line

logger = logging.getLogger(__name__)

_WAITS = (1, 2, 4, 8)  # seconds before each further try


def open_repository(
    repo_id: str, *, private: bool | None = None, revision: str | None = None, token: str | None = None
) -> str:
    """Check, before anything long begins, that a model repository can be written to; create it if it is missing.

    Args:
        repo_id: `you/name`, or `name` for a repository of the token's owner.
        private: Visibility of a repository that is created now. With `True` an existing public one is refused.
        revision: Branch; created if it is missing.
        token: Default: the one that `hf auth login` or `HF_TOKEN` set.

    Returns:
        The full id.

    Raises:
        ClipScratchError: If the id is malformed, there is no token, or the repository is public against `private`.
        OSError: If the Hub refuses.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ClipScratchError(f"repo_id={repo_id!r} is malformed: {on_one_line(str(error))}") from error
    if token is None and get_token() is None:
        raise ClipScratchError(
            "pushing needs a token; create one with write access at https://huggingface.co/settings/tokens, then run "
            "`hf auth login`."
        )
    api = HfApi(token=token)
    repo_id = _ask(repo_id, lambda: api.create_repo(repo_id, private=private, exist_ok=True)).repo_id
    _ask(repo_id, lambda: api.auth_check(repo_id, write=True))  # `create_repo` succeeds for one of somebody else
    if private and not _ask(repo_id, lambda: api.repo_info(repo_id)).private:
        raise ClipScratchError(
            f"{repo_id} exists and is public, so everyone would see the push; make it private in its settings, choose "
            "another name, or leave private out."
        )
    if revision is not None and not revision.startswith("refs/pr/"):
        _ask(repo_id, lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    return repo_id


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    stale: Callable[[str], bool] = lambda path: False,
) -> None:
    """Publish files in one commit, so that a reader sees all of them or none.

    A lost connection, a request to wait (429) and a server error are tried again. If only the answer was lost, the
    next try finds its files there and adds nothing; if somebody else committed meanwhile, the commit is refused.

    Args:
        files: {path in the repository: file, or its content}.
        repo_id, revision, token: As for `open_repository`, which must be called first.
        stale: Whether a file of the repository that is not among `files` is deleted by the same commit.

    Raises:
        OSError: If the Hub refuses.
    """
    # Not `upload_folder`: over Xet it makes several commits of large files.
    api, parents = HfApi(token=token), []

    def commit():
        info = api.repo_info(repo_id, revision=revision)
        parents.append(info.sha)
        gone = [item.rfilename for item in info.siblings if item.rfilename not in files and stale(item.rfilename)]
        operations = [CommitOperationDelete(path, is_folder=False) for path in gone]
        operations += [CommitOperationAdd(path, file) for path, file in sorted(files.items())]
        api.create_commit(repo_id, operations, commit_message=message, revision=revision, parent_commit=parents[0])

    _ask(repo_id, commit)


def _ask(repo_id, call):
    """Return what `call()` returns; call again where that may help, and raise `OSError` with the library's message."""
    for wait in (*_WAITS, None):
        try:
            return call()
        except (HTTPError, RuntimeError, OSError, ValueError) as error:
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
            message = on_one_line(str(cause)) or type(cause).__name__
            if isinstance(cause, HfHubHTTPError) and cause.response is not None:
                passes = cause.response.status_code in (408, 429) or cause.response.status_code >= 500
            else:
                passes = isinstance(cause, HTTPError)
            if not passes or wait is None:
                raise OSError(f"pushing to {repo_id} failed: {message}") from error
            logger.warning("%s; trying again in %d s", message, wait)
            time.sleep(wait)
