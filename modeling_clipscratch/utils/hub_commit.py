"""Commit files to a repository of the Hub at once, and check beforehand that this will be possible."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from .errors import ClipScratchError
from .names import on_one_line


def open_repository(
    repo_id: str, *, private: bool | None = None, revision: str | None = None, token: str | None = None
) -> str:
    """Check, before anything long begins, that a model repository can be written to, and return its full id.

    Args:
        repo_id: `you/name`, or `name` for a repository of the token's owner.
        private: Visibility of a repository that is created now. With `True` an existing public one is refused.
        revision: Branch; created if it is missing.
        token: Default: the one that `hf auth login` or `HF_TOKEN` set.

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
    with _explaining_refusals(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.auth_check(repo_id, write=True)  # `create_repo` succeeds for one of somebody else
        public = private and not api.repo_info(repo_id).private
        if revision is not None and not revision.startswith("refs/pr/") and not public:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
    if public:
        raise ClipScratchError(
            f"{repo_id} exists and is public, so everyone would see the push; make it private in its settings, choose "
            "another name, or leave private out."
        )
    return repo_id


def commit_files(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    stale: Callable[[str], bool] = lambda path: False,
) -> str:
    """Publish {path in the repository: file, or its content} in one commit, and return its address.

    The commit deletes what is `stale` of the repository's other files. `open_repository` must be called first. A
    refusal raises `OSError`.
    """
    # Not `upload_folder`: over Xet it makes several commits of large files.
    api = HfApi(token=token)
    with _explaining_refusals(repo_id):
        info = api.repo_info(repo_id, revision=revision)
        gone = [item.rfilename for item in info.siblings if item.rfilename not in files and stale(item.rfilename)]
        operations = [CommitOperationDelete(path, is_folder=False) for path in gone]
        operations += [CommitOperationAdd(path, file) for path, file in sorted(files.items())]
        commit = api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, parent_commit=info.sha
        )
    return commit.commit_url


@contextmanager
def _explaining_refusals(repo_id: str) -> Iterator[None]:
    """Raise `OSError` with the library's message."""
    try:
        yield
    except (HTTPError, RuntimeError, OSError, ValueError) as error:
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
        raise OSError(f"pushing to {repo_id} failed: {on_one_line(str(cause)) or type(cause).__name__}") from error
