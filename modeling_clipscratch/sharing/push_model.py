"""Publish a trained folder on the Hub: in one commit, without local paths."""

import logging
import shlex
from pathlib import Path

from huggingface_hub import constants

from ..evaluation.report.metric_tables import ACCOUNT, weights_sha256
from ..training.saving.run_folder import OF_A_RUN
from ..utils.checksums import SUMS
from ..utils.hub_commit import commit_files, open_repository
from ..utils.local_files import read_json
from ..utils.names import hide_paths, is_of_a_model
from .model_card import check_folder, read_recipe, write_card

logger = logging.getLogger(__name__)

REPORT = "report"  # folder with the report of a model, in its folder and repository
_TEXTS = (".json", ".yaml", ".md", ".html", ".csv")
OF_A_REPORT = (".html", ".json", ".md", ".csv", ".png")  # pages, tables and images; not predictions


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

    The card is written again. The report in the folder's `report/` is published if it is of these weights. Checkpoints
    and files that no run wrote are not published. The commit deletes what an earlier push left: files that load a
    model, and a report.

    Args:
        folder: Folder of a run, or of `save_pretrained` of a model and its processor.
        repo_id: `you/name`, or `name` for a repository of the token's owner; created if it does not exist.
        private: Visibility of a repository that is created now. With `True` an existing public one is refused.
        revision: Branch; created if it does not exist.
        token: Default: the one that `hf auth login` or `HF_TOKEN` set.
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
    account = read_json(folder / REPORT / ACCOUNT) if (folder / REPORT / ACCOUNT).is_file() else {}
    if account.get("weights_sha256") == weights_sha256(folder):
        report = (f"{REPORT}/{name}" for name in (ACCOUNT, *account["files"]) if name.endswith(OF_A_REPORT))
        files |= {name: folder / name for name in report if (folder / name).is_file()}
    elif account:
        logger.info("%s is of other weights and is not published.", folder / REPORT)
    recipe = read_recipe(folder)
    for name, path in files.items():
        if path.suffix in _TEXTS and not is_of_a_model(name):
            files[name] = hide_paths(path.read_text(encoding="utf-8"), recipe).encode()
    commit_files(
        files,
        repo_id,
        message="Trained ClipScratch model",
        stale=lambda name: is_of_a_model(name) or name.startswith(f"{REPORT}/"),
        revision=revision,
        token=token,
    )
    return f"{constants.ENDPOINT}/{repo_id}" + (f"/tree/{revision}" if revision else "")


def push_trained(args) -> str:
    """Publish the folder of a finished run as its `hub_*` arguments say. An error names the command to do it later."""
    where = {"private": args.hub_private_repo, "revision": args.hub_revision, "token": args.hub_token}
    try:
        return push_folder(args.output_dir, args.hub_model_id, **where)
    except OSError as error:
        command = ["clipscratch", "share", "push", args.output_dir, args.hub_model_id]
        command += ["--private", "true"] if args.hub_private_repo else []
        command += ["--revision", args.hub_revision] if args.hub_revision else []
        raise OSError(f"{error} The trained folder is complete; push it later with: {shlex.join(command)}") from error
