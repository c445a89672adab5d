"""Commit files to a repository of the Hub at once, and check beforehand that this will be possible."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HTTPError

from .errors import ClipScratchError
from .names import on_one_line


def open_repository(
    repo_id: str, *, private: bool | None = None, revision: str | None = None, token: str | None = None
) -> str:
    """Create a model repository and its branch if they are missing, check write access, and return the full id."""
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
) -> None:
    """Publish {path in the repository: file, or its content}, and delete `stale` other files, in one commit."""
    # Not `upload_folder`: over Xet it makes several commits of large files.
    api = HfApi(token=token)
    with _explaining_refusals(repo_id):
        info = api.repo_info(repo_id, revision=revision)
        gone = [item.rfilename for item in info.siblings if item.rfilename not in files and stale(item.rfilename)]
        operations = [CommitOperationDelete(path, is_folder=False) for path in gone]
        operations += [CommitOperationAdd(path, file) for path, file in sorted(files.items())]
        api.create_commit(repo_id, operations, commit_message=message, revision=revision, parent_commit=info.sha)


@contextmanager
def _explaining_refusals(repo_id: str) -> Iterator[None]:
    try:
        yield
    except (HTTPError, RuntimeError, OSError, ValueError) as error:
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
        raise OSError(f"pushing to {repo_id} failed: {on_one_line(str(cause)) or type(cause).__name__}") from error
