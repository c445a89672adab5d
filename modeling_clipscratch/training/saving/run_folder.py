"""Lock, check, begin and finish the folder of a run, and hold its recipe against that of a resumed run."""

import contextlib
import dataclasses
import json
import logging
import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import psutil
import torch
import yaml
from filelock import FileLock, Timeout

from ...utils.atomic_files import replacing_files, write_text
from ...utils.checksums import SUMS, write_sums
from ...utils.errors import ClipScratchError
from ...utils.hub_commit import open_repository
from ...utils.model_files import is_of_a_model
from ...utils.versions import versions
from ..optimization.sharding import own_class
from ..recipe.arguments import RECIPE_GROUPS, recipe_fields
from ..recipe.recipe import read_recipe

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
CARD = "README.md"
OUR_CARD = "<!-- Written by ClipScratch, which writes it anew. To keep your own words, delete this line. -->"
# What a run writes besides its checkpoints and the model.
OF_A_RUN = {RECIPE, "trainer_state.json", "metrics.json", "versions.json", "curves.png", CARD, SUMS}
# Fields that a resumed run may change, and that its recipe does not keep. A token must never be kept.
_NOT_KEPT = {
    "output_dir", "resume_from_checkpoint", "overwrite_output_dir", "cache_dir", "disable_tqdm", "debug",
    "logging_steps", "report_to", "save_total_limit", "dataloader_num_workers", "push_to_hub", "hub_model_id",
    "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision",
}  # fmt: skip
# Fields that it may change and that are kept: when a run is measured and saved, not what it trains.
_WHEN = {
    "save_steps", "save_strategy", "save_only_model", "do_eval", "eval_steps", "eval_strategy", "eval_delay",
    "eval_on_start", "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "early_stopping_patience",
    "per_device_eval_batch_size", "test_split", "keep_in_memory", "enable_jit_checkpoint",
}  # fmt: skip
# Fields that it may change too where it resumes from a checkpoint of another run.
_LENGTH = {"max_steps", "num_train_epochs"}
STAGING = ".incomplete"  # folder of a checkpoint that is being written
LOCK = ".lock"


@contextlib.contextmanager
def lock_run_folder(folder: str | Path, *, writes: bool = True) -> Iterator[None]:
    """Keep other runs out of a folder while this process writes there; raise `ClipScratchError` if another run does.

    The end of the process frees the folder in any case. A process may lock a folder again that it has locked. A folder
    that was made for the lock alone is removed.

    Args:
        folder: output_dir; made where it is missing.
        writes: whether this process is the one of the run that writes; the others lock nothing.
    """
    folder = Path(folder)
    if not writes or (folder.exists() and not folder.is_dir()):  # for a file `check_run_folder` raises
        yield
        return
    existed = folder.is_dir()
    lock = FileLock(folder / LOCK, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pid, host = _holder(folder / LOCK)
        # Workers that a killed run leaves behind hold the lock for a moment.
        is_dead = host == socket.gethostname() and not psutil.pid_exists(int(pid))
        lock.acquire(timeout=10 if is_dead else 0)
    except Timeout as error:
        pid, host = _holder(folder / LOCK)
        raise ClipScratchError(
            f"output_dir={folder} is in use by another run (process {pid} on {host}); wait until it ends, stop it, or "
            "choose another output_dir."
        ) from error
    except OSError as error:
        raise OSError(
            f"output_dir={folder} cannot be written to ({error.strerror}); choose another output_dir."
        ) from error
    outermost = lock.lock_counter == 1
    if outermost:
        with contextlib.suppress(PermissionError):  # Windows lets nobody write to a locked file
            (folder / LOCK).write_text(f"{os.getpid()} {socket.gethostname()}\n")
    try:
        yield
    finally:
        if outermost:
            with contextlib.suppress(OSError):  # Windows deletes no locked file
                (folder / LOCK).unlink()
                if not existed and not any(folder.iterdir()):
                    folder.rmdir()
        lock.release()


def _holder(lock):
    try:
        pid, host = lock.read_text().split()
        return pid, host
    except (OSError, ValueError):
        return "unknown", "an unknown host"


def open_repository_of_run(args, *, token: str | None = None, private: bool | None = None) -> str:
    """Make or find the repository of `push_to_hub`, check that it may be written to, and return its whole id."""
    return open_repository(
        args.hub_model_id or Path(args.output_dir).absolute().name,
        private=args.hub_private_repo if private is None else private,
        revision=args.hub_revision,
        token=token or args.hub_token,
    )


def check_run_folder(folder: str | Path, settings: dict, *, overwrite: bool, resume: bool) -> None:
    """Raise `ClipScratchError` if a folder holds another run, or files that no run wrote; change nothing.

    Args:
        folder: output_dir.
        settings: every field that the recipe or the command line named.
        overwrite: delete the files of another run.
        resume: resume the folder's run, whose recipe must be this one.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ClipScratchError(f"output_dir={folder} is a file; choose another output_dir.")
    names = sorted(path.name for path in folder.iterdir() if not _is_leftover(path)) if folder.is_dir() else []
    if RECIPE in names and resume:
        check_recipe(folder / RECIPE, settings, free=_not_kept(settings) | _WHEN)
    elif names and names != [RECIPE] and not (RECIPE in names and overwrite):
        # A recipe alone is what a run left that was stopped before its first checkpoint.
        content, remedy = f"other files ({names[0]}{', ...' if len(names) > 1 else ''})", ""
        if RECIPE in names:
            content = "another run"
            remedy = "--overwrite_output_dir to replace it, --resume_from_checkpoint auto to resume it, or "
        raise ClipScratchError(f"output_dir={folder} holds {content}; use {remedy}another output_dir.")


def _is_leftover(path):
    """Return whether a killed run left a file or folder half written; `begin_run_folder` deletes it."""
    return path.name in (STAGING, LOCK) or path.name.endswith(".part")


def check_recipe(path: Path, settings: dict, *, free: set[str]) -> dict:
    """Raise `ClipScratchError` if a run cannot be resumed with a recipe.

    Args:
        path: recipe that the run left.
        settings: every field that is named now.
        free: names of fields that may differ.

    Returns:
        {name: (value then, value now)} of the fields whose values differ; those that are not named have defaults.
    """
    try:
        before = read_recipe(path)
    except ClipScratchError as error:
        raise ClipScratchError(
            f"{error} Copy the file from where the run was made, or start again with --overwrite_output_dir."
        ) from error
    defaults = {
        name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        for name, item in recipe_fields().items()
    }
    pairs = {name: (before.get(name, default), settings.get(name, default)) for name, default in defaults.items()}
    changed = {name: values for name, values in pairs.items() if values[0] != values[1]}
    if changed.keys() - free:
        # A default may be spelled out, and `auto` named by its value: what counts is what the run would use.
        resolved = _resolve(before), _resolve(settings)
        for name in sorted(resolved[0].keys() - free):
            then, now = (values[name] for values in resolved)
            if then != now:
                raise ClipScratchError(
                    f"{path.parent} was trained with {name}={then!r}, and now {name}={now!r} is asked for; resume with "
                    f"{name}={then!r}, or leave resume_from_checkpoint out and train a new model in another output_dir."
                )
    return changed


def _resolve(settings):
    """Return {field: value} as the arguments of a run hold it."""
    values = {}
    for group in RECIPE_GROUPS:
        names = [item.name for item in dataclasses.fields(group) if item.init]
        part = group(**{name: settings[name] for name in names if name in settings})
        values |= {name: getattr(part, name) for name in names}
    return {name: value.value if isinstance(value, Enum) else value for name, value in values.items()}


def check_recipe_of_checkpoint(checkpoint: Path, settings: dict) -> str:
    """Check the recipe of a checkpoint, also of another folder; return comments for the recipe if lengths differ."""
    if not (checkpoint / RECIPE).is_file():
        raise ClipScratchError(
            f"{checkpoint} has no {RECIPE}, so what it was trained with is not known; resume it with "
            "ClipScratchTrainer.train, which wrote it, or give a checkpoint of a recipe's run."
        )
    changed = check_recipe(checkpoint / RECIPE, settings, free=_not_kept(settings) | _WHEN | _LENGTH)
    lengths = ", ".join(f"{name}={changed[name][0]}" for name in sorted(_LENGTH & changed.keys()))
    lines = (checkpoint / RECIPE).read_text(encoding="utf-8").splitlines()
    notes = [line for line in lines if line.startswith("# ")]
    if lengths:
        logger.warning(
            "%s is of a run of %s; from there on the learning rate follows the new length.", checkpoint, lengths
        )
        notes.append(f"# Resumed from {checkpoint.name} of a run of {lengths}.")
    return "".join(f"{note}\n" for note in notes)


def begin_run_folder(folder: str | Path, settings: dict, *, resume: bool, notes: str = "") -> str:
    """Write the recipe into a folder, and return its text; delete what another run left there, and nothing else.

    Args:
        folder: output_dir.
        settings: every field that the recipe or the command line named.
        resume: resume the folder's run, of which nothing is deleted.
        notes: comment lines for the recipe.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not ((folder / RECIPE).is_file() and resume):
        _delete_run(folder)
    kept = {name: value for name, value in settings.items() if name not in _not_kept(settings)}
    text = notes + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    write_text(folder / RECIPE, text)
    return text


def _not_kept(settings):
    # The rows of a stream are split among the workers.
    return _NOT_KEPT - ({"dataloader_num_workers"} if settings.get("streaming") else set())


def _delete_run(folder):
    for events in folder.glob("runs/*/**/events.out.tfevents.*"):  # where transformers has TensorBoard write
        events.unlink()
    for path in sorted(folder.glob("runs/**"), reverse=True):  # innermost first; what others wrote stays
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for path in folder.iterdir():
        if path.is_dir() and (path.name.startswith("checkpoint-") or _is_leftover(path)):
            shutil.rmtree(path)
        elif path.is_file() and is_of_a_run(path) and path.name != LOCK:
            path.unlink()


def is_of_a_run(path: Path) -> bool:
    """Return whether a run wrote a file: model, code, results, or the card while it carries our line."""
    if path.name == CARD:
        return is_our_card(path)
    return path.name in OF_A_RUN | {".gitattributes"} or is_of_a_model(path.name) or path.name.endswith(".part")


def is_our_card(path: Path) -> bool:
    """Return whether a README.md carries the line that says that we write it; one that a person wrote does not."""
    return OUR_CARD in path.read_text(encoding="utf-8", errors="replace")


def finish_run_folder(
    folder: str | Path, *, model, weights, processor, state, metrics: dict, facts: dict, draw
) -> None:
    """Write the model, its processor and the run's results: first beside their places, then renamed into them.

    Args:
        folder: output_dir.
        model: unwrapped.
        weights: state dict, where the model itself holds a part of it only.
        processor: of the model.
        state: of the Trainer.
        metrics: {dataset: {metric: value}}.
        facts: of `run_facts`; `trainer_state.json` keeps them with the trainer's record.
        draw: function (folder) that draws the run's plots there.
    """
    folder = Path(folder)
    state.stateful_callbacks["TrainingRecord"] = {"args": {}, "attributes": facts}
    # The config last: with it the folder can be loaded.
    with own_class(model), replacing_files(folder, last="config.json", remedy=how_to_resume(folder)) as staging:
        model.save_pretrained(staging, state_dict=weights)
        processor.save_pretrained(staging)
        state.save_to_json(str(staging / "trainer_state.json"))
        (staging / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (staging / "versions.json").write_text(json.dumps(_versions(), indent=2) + "\n")
        draw(staging)
        shutil.copy(folder / RECIPE, staging)
        write_sums(staging)


def _versions():
    """Return what the results depend on besides the recipe: {package or part of the machine: version or name}."""
    known = Path("/proc/cpuinfo")  # on Linux `platform` knows the architecture only
    names = re.findall(r"^model name\s*: (.+)$", known.read_text(), re.MULTILINE) if known.is_file() else []
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    device = device or (names[0] if names else platform.processor() or platform.machine())
    return {**versions(), "platform": platform.platform(), "device": device}


def how_to_resume(folder: Path) -> str:
    """Return what to do after a write into a run's folder failed."""
    if kept := numbered_checkpoints(folder):
        return f"{kept[-1].name} is complete: make room, then resume with --resume_from_checkpoint auto."
    return "no checkpoint was written yet: make room, then start again."


def numbered_checkpoints(folder: Path) -> list[Path]:
    """Return the folders `checkpoint-N` in a folder, in the order of N."""
    paths = folder.iterdir() if folder.is_dir() else ()
    paths = [path for path in paths if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()]
    return sorted(paths, key=lambda path: int(path.name[11:]))
