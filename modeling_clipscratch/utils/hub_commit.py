"""Files and a repository of the Hub go in; one commit of them all, or one sentence that says why not, comes out."""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import parse_ratelimit_headers, validate_repo_id

from ..hub.errors_clipscratch import ClipScratchError

logger = logging.getLogger(__name__)

_WAITS = (1, 2, 4, 8)  # seconds before each further try
_LONGEST_WAIT = 120  # seconds; a Hub that asks for more is not waited for
_TOKENS = "https://huggingface.co/settings/tokens"


def open_repository(
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    create: bool = True,
) -> str:
    """Makes sure, before anything long begins, that a model repository can be written to.

    Args:
        repo_id: `you/name`; `name` alone is a repository of the token's owner.
        private: for one that is made now. `True` refuses one that is there and public.
        revision: branch, made where it is not there.
        token: default: the one that `hf auth login` or `HF_TOKEN` set.
        create: make the repository where it is not there.
    Returns: the whole id.
    Raises: ClipScratchError or OSError with one sentence if that cannot be.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ClipScratchError(
            f"repo_id={repo_id!r} is no name of a repository; give you/name, of letters, digits, '-', '_' and '.'."
        ) from error
    if token is None and get_token() is None:
        raise ClipScratchError(f"pushing needs a token; make one that may write at {_TOKENS}, then `hf auth login`.")
    api = HfApi(token=token)
    if create:
        repo_id = _ask(repo_id, lambda: api.create_repo(repo_id, private=private, exist_ok=True)).repo_id
    elif "/" not in repo_id:
        repo_id = f"{_ask(repo_id, api.whoami)['name']}/{repo_id}"
    _ask(repo_id, lambda: api.auth_check(repo_id, write=True))  # one of others is found without a word by create_repo
    if private and not _ask(repo_id, lambda: api.repo_info(repo_id)).private:
        raise ClipScratchError(
            f"{repo_id} is there and public, so what is pushed would be seen by all; make it private in its settings, "
            "choose another name, or leave private out."
        )
    if revision is not None and not revision.startswith("refs/pr/"):
        _ask(repo_id, lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
    return repo_id


def commit_files(
    files: Mapping[str, Path],
    repo_id: str,
    *,
    message: str,
    revision: str | None = None,
    token: str | None = None,
    stale: Callable[[str], bool] = lambda path: False,
) -> str:
    """Publishes files in one commit, so that a reader sees all of them or none.

    What passes (a lost connection, 429, a server's error) is tried again a few times. A try after an answer that was
    lost finds its files there and adds nothing.

    Args:
        files: path in the repository -> file.
        repo_id, revision, token: as `open_repository` took them; it comes first.
        stale: whether a file of the repository that is not among `files` is to go, in the same commit.
    Returns: the commit's address.
    Raises: OSError with one sentence.
    """
    # Not upload_folder: over Xet that makes several commits of what is large or slow.
    api, parents = HfApi(token=token), []

    def commit():
        there = api.repo_info(repo_id, revision=revision)
        parents.append(there.sha)
        gone = [item.rfilename for item in there.siblings if item.rfilename not in files and stale(item.rfilename)]
        operations = [CommitOperationDelete(path, is_folder=False) for path in gone]
        operations += [CommitOperationAdd(path, str(file)) for path, file in sorted(files.items())]
        return api.create_commit(
            repo_id, operations, commit_message=message, revision=revision, parent_commit=parents[0]
        )

    return _ask(repo_id, commit).commit_url


def _ask(repo_id, question):
    """The answer to a question to the Hub, asked again where that may help; what it refuses, in a sentence."""
    for wait in (*_WAITS, None):
        try:
            return question()
        except (HTTPError, RuntimeError, OSError, ValueError) as error:
            cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of an upload
            wait = None if wait is None or not _may_pass(cause) else max(wait, _asked_to_wait(cause))
            if wait is None or wait > _LONGEST_WAIT:
                raise OSError(_sentence(cause, repo_id)) from error
            logger.warning("%s; trying again in %d s", _what_happened(cause), wait)
            time.sleep(wait)


def _status(error):
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def _may_pass(error):
    status = _status(error)
    lost = isinstance(error, HTTPError) and status is None
    return lost or status is not None and (status in (408, 429) or status >= 500)


def _asked_to_wait(error):
    if _status(error) != 429:
        return 0
    asked = error.response.headers.get("Retry-After", "")
    limits = parse_ratelimit_headers(error.response.headers)
    return int(asked) if asked.isdigit() else limits.reset_in_seconds if limits else 0


def _what_happened(error):
    status = _status(error)
    return f"the Hub answered {status}" if status else f"the connection to the Hub was lost ({_brief(error)})"


def _brief(error):
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    return " ".join(said.split()).rstrip(".")


def _sentence(error, repo_id):
    """What went wrong, and what to do; to whoever pushed."""
    status, said, page = _status(error), _brief(error), f"{constants.ENDPOINT}/{repo_id}"
    no_room = any(word in said.lower() for word in ("storage limit", "quota", "too large", "lfs batch api"))
    outcome = " Nothing was published."
    if isinstance(error, OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set; unset it to push"
    elif status == 401:
        why = f"the Hub does not know this token ({said}); make one that may write at {_TOKENS}, then `hf auth login`"
    elif status in (402, 413, 507) or no_room:
        why = f"the Hub takes no more or no such large file ({said}); free space, push less, or ask for a larger quota"
    elif isinstance(error, GatedRepoError):
        why = f"it is gated and your account not on its list; ask for access at {page}, or push to a name of your own"
    elif status == 403:
        why = f"this token may not write there ({said}); take one that may, from {_TOKENS}, or a name of your own"
    elif isinstance(error, RepositoryNotFoundError):
        why = "there is no such repository, or this token may not see it; check the spelling, or push the model first"
    elif isinstance(error, RevisionNotFoundError):
        why = "it has no such revision; give a branch"
    elif status in (409, 412):
        why = f"someone else committed to it meanwhile; look at {page}/commits, then push again"
    elif status == 429:
        wait = _asked_to_wait(error)
        why = f"the Hub asks for fewer requests (429); push again in {f'{wait} s' if wait else 'a few minutes'}"
    elif status is not None and status >= 500:
        why = f"the Hub has trouble of its own ({status}: {said}); see https://status.huggingface.co, push again later"
        outcome = ""  # the answer is lost, not always what was asked
    elif isinstance(error, HTTPError) and status is None:
        why = f"the Hub ({constants.ENDPOINT}) cannot be reached ({said}); check the connection, push again"
        outcome = ""
    else:
        why = f"{type(error).__name__}: {said}"
    return f"pushing to {repo_id} failed: {why}.{outcome}"
