"""Publish a trained folder, or a report beside a model, on the Hub: each in one commit, without local paths."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HTTPError

from ..evaluation.report.metric_tables import ACCOUNT, weights_sha256
from ..training.saving.run_folder import OF_A_RUN
from ..utils.hub_commit import commit_files, open_repository
from ..utils.local_files import read_json
from ..utils.model_files import is_of_a_model
from .model_card import REPORT, check_folder, code_files, read_account, read_recipe, write_card
from .public_text import public_copies

logger = logging.getLogger(__name__)

OF_A_REPORT = (".html", ".json", ".md", ".csv", ".png")  # pages, tables and images; not predictions, not embeddings


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    license: str | None = None,
    language: str | None = None,
) -> str:
    """Publish a trained folder in one commit: model, code, processor, card, recipe, metrics, curves and report.

    The card is written again. Checkpoints, files that no run wrote and a report of other weights are not published.
    The commit deletes what an earlier push left: files that load a model, and a report of other weights.

    Args:
        folder: Folder of a run, or of `save_pretrained` of a model and its processor.
        repo_id, private, revision, token: As for `hub_commit.open_repository`.
        license, language: As for `write_card`.

    Returns:
        The page's address.

    Raises:
        ClipScratchError: If the folder holds no trained model.
        OSError: If the Hub refuses.

    >>> push_folder("runs/digits", "you/digits", private=True)  # doctest: +SKIP
    'https://huggingface.co/you/digits'
    """
    folder = Path(folder)
    check_folder(folder)
    repo_id = open_repository(repo_id, private=private, revision=revision, token=token)
    write_card(folder, repo_id=repo_id, license=license, language=language)
    files, left = _published(folder)
    if left:
        logger.info("not published, since no run wrote them or they are of other weights: %s", ", ".join(left))
    outdated = f"{REPORT}/{ACCOUNT}" in files or _has_other_report(folder, repo_id, revision, token)

    def stale(name):
        return is_of_a_model(name) or outdated and name.startswith(f"{REPORT}/")

    with public_copies(files, read_recipe(folder)) as copies:
        commit_files(copies, repo_id, message="Trained ClipScratch model", stale=stale, revision=revision, token=token)
    return f"{constants.ENDPOINT}/{repo_id}" + (f"/tree/{revision}" if revision else "")


def push_trained(args) -> str:
    """Publish the folder of a finished run, as its `push_to_hub` and `hub_*` arguments say; return the address.

    Raises:
        OSError: If the Hub refuses, with the command that pushes the folder later.
    """
    where = {"private": args.hub_private_repo, "revision": args.hub_revision, "token": args.hub_token}
    try:
        return push_folder(args.output_dir, args.hub_model_id, **where)
    except (ValueError, OSError) as error:
        command = ["clipscratch", "share", "push", args.output_dir, args.hub_model_id]
        command += ["--private", "true"] if args.hub_private_repo else []
        command += ["--revision", args.hub_revision] if args.hub_revision else []
        raise OSError(f"{error} The trained folder is complete; push it later with: {shlex.join(command)}") from error


def open_report(folder: str | Path, repo_id: str | None) -> str | None:
    """Check, before a long evaluation, that a report's folder and, if given, a repository can be written to.

    Returns:
        The repository's full id.

    Raises:
        ClipScratchError or OSError: If one cannot.
    """
    from ..evaluation.report.write_report import open_folder  # imports matplotlib, which training starts without

    open_folder(folder)
    return None if repo_id is None else open_repository(repo_id, create=False)


def push_report(folder: str | Path, files: Sequence[Path], repo_id: str, *, token: str | None = None) -> str:
    """Publish a report's pages, tables and images beside a model, in one commit, in place of an earlier one.

    Args:
        folder: The report's folder.
        files: What `write_report` wrote; predictions and embeddings are not published.
        repo_id, token: As for `hub_commit.open_repository`; call `open_report` first.

    Returns:
        The address of the report.

    Raises:
        OSError: If the Hub refuses.
    """
    named = {f"{REPORT}/{path.relative_to(folder).as_posix()}": path for path in files if path.suffix in OF_A_REPORT}
    with public_copies(named, {}) as copies:
        commit_files(
            copies, repo_id, message="Evaluation report", token=token, stale=lambda path: path.startswith(f"{REPORT}/")
        )
    return f"{constants.ENDPOINT}/{repo_id}/tree/main/{REPORT}"


def _has_other_report(folder, repo_id, revision, token):
    """Return whether the repository has a report of other weights than the folder's."""
    try:
        account = hf_hub_download(repo_id, f"{REPORT}/{ACCOUNT}", revision=revision, token=token)
        return read_json(account).get("weights_sha256") != weights_sha256(folder)
    except (OSError, ValueError, HTTPError):  # there is none, or the push itself will fail
        return False


def _published(folder):
    """Return ({path in the repository: file}, names that are left out)."""
    files, left, code = {}, [], code_files(folder)
    for path in sorted(folder.iterdir()):
        if path.name == REPORT and (names := read_account(folder).get("files")):
            inside = path.resolve()
            for file in ((path / name).resolve() for name in (ACCOUNT, *names)):
                if file.suffix in OF_A_REPORT and file.is_file() and file.is_relative_to(inside):
                    files[f"{REPORT}/{file.relative_to(inside).as_posix()}"] = file
        elif path.name in OF_A_RUN or is_of_a_model(path.name) and (path.suffix != ".py" or path.name in code):
            files[path.name] = path
        elif not path.name.startswith((".", "checkpoint-")):
            left.append(path.name)
    return files, left
