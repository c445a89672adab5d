"""A trained folder and a repository's name go in; a page of the Hub with all of it, or with none of it, comes out."""

import logging
import shlex
from pathlib import Path

from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import HTTPError

from ..evaluation.remote_code import check_code
from ..evaluation.report.metric_tables import ACCOUNT, weights_sha256
from ..hub.errors_clipscratch import ClipScratchError
from ..training.saving.run_folder import OF_A_RUN
from ..utils.hub_commit import commit_files, open_repository
from ..utils.local_files import read_json
from ..utils.model_files import CODE, is_of_a_model
from .card.card_facts import REPORT, code_files, report_account
from .card.model_card import write_card

logger = logging.getLogger(__name__)

OF_A_REPORT = (".html", ".json", ".md", ".csv", ".png")  # page, tables and pictures; not predictions, not embeddings


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
    """Publishes a trained folder in one commit: model, code, processor, card, recipe, metrics, curves and report.

    Checkpoints, files that no run wrote, a report of other weights and what its folder holds of earlier reports stay
    where they are. What loads a model, and is left there of an earlier push, is deleted by the same commit, as is a
    report of other weights, or an earlier one where a new one comes. The card is written anew.

    Args:
        folder: what training wrote, or `save_pretrained` of a model and its processor.
        repo_id, private, revision, token: as `hub_commit.open_repository` takes them.
        license, language: of the card, as `write_card` takes them.
    Returns: the page's address.
    Raises: ClipScratchError or OSError with one sentence if the folder is no trained model, or the Hub refuses it.

    >>> push_folder("photos", "you/your-clip")  # is looked at before anything is asked of the Hub
    Traceback (most recent call last):
        ...
    ClipScratchError: photos has no config.json, so it holds no model; give the folder that training wrote.
    """
    check_folder(folder)
    repo_id = open_repository(repo_id, private=private, revision=revision, token=token)
    write_card(folder, repo_id=repo_id, license=license, language=language)
    files, left = _published(Path(folder))
    if REPORT in left:
        left.remove(REPORT)
        logger.info("not pushed, since it is not of these weights: %s", Path(folder) / REPORT)
    if left:
        logger.info("not pushed, since no run wrote them: %s", ", ".join(left))
    replaced = f"{REPORT}/{ACCOUNT}" in files or _tells_of_other_weights(folder, repo_id, revision, token)

    def stale(name):
        return is_of_a_model(name) or replaced and name.startswith(f"{REPORT}/")

    commit_files(files, repo_id, message="Trained ClipScratch model", stale=stale, revision=revision, token=token)
    return f"{constants.ENDPOINT}/{repo_id}" + (f"/tree/{revision}" if revision else "")


def push_trained(args) -> str:
    """Publishes the folder of a run that has ended, as its `push_to_hub` and `hub_*` arguments say.

    Returns: the page's address.
    Raises: OSError with one sentence, and how to push the folder later, if the Hub refuses it.
    """
    where = {"private": args.hub_private_repo, "revision": args.hub_revision, "token": args.hub_token}
    try:
        return push_folder(args.output_dir, args.hub_model_id, **where)
    except (ValueError, OSError) as error:
        later = ["clipscratch", "share", "push", args.output_dir, args.hub_model_id]
        later += ["--private", "true"] if args.hub_private_repo else []
        later += ["--revision", args.hub_revision] if args.hub_revision else []
        raise OSError(f"{error} The trained folder is whole; later: {shlex.join(later)}") from error


def check_folder(folder: str | Path) -> None:
    """Raises: ClipScratchError if the folder does not hold a whole ClipScratch model with its processor."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ClipScratchError(
            f"{folder} has no config.json, so it holds no model; give the folder that training wrote."
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "clipscratch":
        raise ClipScratchError(
            f"{folder} holds a model of type {kind!r}, not 'clipscratch'; push it with its own library."
        )
    needed = {
        "the weights": ("model.safetensors", "model.safetensors.index.json"),
        "the model's code": (f"modeling{CODE}",),
        "the tokenizer": ("tokenizer_config.json",),
        "the image processor": ("processor_config.json", "preprocessor_config.json"),
    }
    missing = [what for what, names in needed.items() if not any((folder / name).is_file() for name in names)]
    if not missing:
        missing = sorted(name for name in code_files(folder) if not (folder / name).is_file())
    if missing:
        raise ClipScratchError(
            f"{folder} lacks {' and '.join(missing)}, so nobody could load it; give the folder that training wrote, or "
            "save the model and its processor there."
        )
    check_code(folder)


def _tells_of_other_weights(folder, repo_id, revision, token):
    """Whether the Hub has a report beside the model that was made of other weights than the folder's."""
    try:
        account = hf_hub_download(repo_id, f"{REPORT}/{ACCOUNT}", revision=revision, token=token)
        return read_json(account).get("weights_sha256") != weights_sha256(folder)
    except (OSError, ValueError, HTTPError):  # there is none, or the push itself will say what is wrong
        return False


def _published(folder):
    """Returns ({path in the repository: file}, names of what is left out without being known)."""
    files, left, code = {}, [], code_files(folder)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name == REPORT and (names := report_account(folder).get("files")):
            inside = path.resolve()
            for name in (ACCOUNT, *names):
                file = (path / name).resolve()
                if file.suffix in OF_A_REPORT and file.is_file() and file.is_relative_to(inside):
                    files[f"{REPORT}/{file.relative_to(inside).as_posix()}"] = file
        elif path.name in OF_A_RUN or is_of_a_model(path.name) and (path.suffix != ".py" or path.name in code):
            files[path.name] = path
        elif not path.name.startswith((".", "checkpoint-")):
            left.append(path.name)
    return files, left
