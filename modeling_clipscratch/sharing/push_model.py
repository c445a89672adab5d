"""Publish a trained folder, or a report beside a model, on the Hub: each in one commit, without local paths."""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HTTPError

from ..evaluation.report.metric_tables import ACCOUNT, weights_sha256
from ..training.saving.run_folder import OF_A_RUN
from ..utils.checksums import SUMS
from ..utils.hub_commit import commit_files, open_repository
from ..utils.local_files import read_json
from ..utils.model_files import is_of_a_model
from .model_card import REPORT, check_folder, read_account, read_recipe, write_card
from .public_text import public_content

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
    files = {
        path.name: path
        for path in folder.iterdir()
        if path.is_file() and path.name != SUMS and (path.name in OF_A_RUN or is_of_a_model(path.name))
    }
    if report := read_account(folder).get("files"):
        files |= _of_report(folder / REPORT, [ACCOUNT, *report])
    left = sorted(path.name for path in folder.iterdir() if path.name not in {*files, SUMS, REPORT if report else None})
    logger.info("not published: %s", ", ".join(left) or "nothing")
    outdated = report or _has_other_report(folder, repo_id, revision, token)
    recipe = read_recipe(folder)
    commit_files(
        {name: public_content(name, path, recipe) for name, path in files.items()},
        repo_id,
        message="Trained ClipScratch model",
        stale=lambda name: is_of_a_model(name) or outdated and name.startswith(f"{REPORT}/"),
        revision=revision,
        token=token,
    )
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
    commit_files(
        _of_report(Path(folder), [path.relative_to(folder) for path in files]),
        repo_id,
        message="Evaluation report",
        token=token,
        stale=lambda path: path.startswith(f"{REPORT}/"),
    )
    return f"{constants.ENDPOINT}/{repo_id}/tree/main/{REPORT}"


def _of_report(folder, names):
    """{path in the repository: file} of a report's files that are published; `write_report` names no local path."""
    paths = {f"{REPORT}/{Path(name).as_posix()}": folder / name for name in names}
    inside = folder.resolve()
    return {
        name: path
        for name, path in paths.items()
        if path.suffix in OF_A_REPORT and path.is_file() and path.resolve().is_relative_to(inside)
    }


def _has_other_report(folder, repo_id, revision, token):
    """Return whether the repository has a report of other weights than the folder's."""
    try:
        account = hf_hub_download(repo_id, f"{REPORT}/{ACCOUNT}", revision=revision, token=token)
        return read_json(account).get("weights_sha256") != weights_sha256(folder)
    except (OSError, ValueError, HTTPError):  # there is none, or the push itself will fail
        return False
