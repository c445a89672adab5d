"""A report's files and a model's repository go in; the report beside the model on the Hub comes out."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants

from ..evaluation.report.write_report import open_folder
from ..utils.hub_commit import commit_files, open_repository
from .push_model import OF_A_REPORT, REPORT


def open_report(folder: str | Path, repo_id: str | None) -> str | None:
    """Makes sure that a report's folder and, where one is given, a model's repository can be written to, before an
    evaluation that may take long.

    Returns: the repository's whole id.
    Raises: ClipScratchError or OSError with one sentence.
    """
    open_folder(folder)
    return None if repo_id is None else open_repository(repo_id, create=False)


def push_report(folder: str | Path, files: Sequence[Path], repo_id: str, *, token: str | None = None) -> str:
    """Publishes a report's page, tables and pictures beside a model, in one commit, in the place of an earlier one.

    Args:
        folder: the report's.
        files: what `write_report` wrote there; predictions and embeddings are left out.
        repo_id, token: as `hub_commit.open_repository` takes them; `open_report` comes first.
    Returns: the address of the report's folder.
    Raises: OSError with one sentence if the Hub refuses it.
    """
    wanted = [path for path in files if path.suffix in OF_A_REPORT]
    named = {f"{REPORT}/{path.relative_to(folder).as_posix()}": path for path in wanted}
    commit_files(
        named, repo_id, message="Evaluation report", token=token, stale=lambda path: path.startswith(f"{REPORT}/")
    )
    return f"{constants.ENDPOINT}/{repo_id}/tree/main/{REPORT}"
