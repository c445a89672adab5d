"""Check, lock, begin and finish the folder of a run; each file in it is whole or not there."""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import platform
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ...hub.errors_clipscratch import ClipScratchError
from ...utils.atomic_files import WriteError, free_space, replacing_files, to_disk, write_text
from ...utils.checksums import SUMS, write_sums
from ...utils.model_files import is_of_a_model
from ...utils.names import first_line
from ..optimization.sharding import own_class
from ..recipe.arguments import recipe_fields

logger = logging.getLogger(__name__)

RECIPE = "recipe.yaml"
CARD = "README.md"
OUR_CARD = "<!-- Written by ClipScratch, which writes it anew. To keep your own words, delete this line. -->"
# What a run leaves behind besides its checkpoints and the model.
OF_A_RUN = {RECIPE, "trainer_state.json", "metrics.json", "run.json", "versions.json", "curves.png", CARD, SUMS}
# What may differ between a run and its continuation, and is no part of the recipe that is kept.
_FREE_TO_CHANGE = {"output_dir", "resume_from_checkpoint", "overwrite_output_dir", "cache_dir", "disable_tqdm", "debug"}
_FREE_TO_CHANGE |= {"logging_steps", "report_to", "save_total_limit", "dataloader_num_workers", "push_to_hub"}
# A token must never be: the recipe is published.
_FREE_TO_CHANGE |= {"hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision"}
# What may differ, and is kept: when a run is measured and saved, not what it trains.
_CADENCE = {"save_steps", "save_strategy", "save_only_model", "save_minutes", "eval_steps", "eval_strategy"}
_CADENCE |= {"eval_delay", "eval_on_start", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"}
_CADENCE |= {"early_stopping_patience", "per_device_eval_batch_size", "test_split", "keep_in_memory"}
_CADENCE |= {"enable_jit_checkpoint"}
# What may differ as well where a new run resumes from a checkpoint of another: how long it trains.
_LENGTH = {"max_steps", "num_train_epochs"}
PUSHING = ".pushing"  # folder of what is on its way to the Hub
STAGING = ".incomplete"  # folder of what is being written
LOCK = ".lock"


@contextlib.contextmanager
def lock_run_folder(folder: str | Path, *, writes: bool = True) -> Iterator[None]:
    """Keep other runs out of a folder while this one writes there; the end of the process frees it in any case.

    A process may lock a folder that it has locked already. A folder that is made for the lock and holds nothing else at
    the end is removed.

    Args:
        folder: output_dir; made where it is missing.
        writes: whether this process is the one of the run that writes; the others lock nothing.
    Raises: ClipScratchError if another run writes there, OSError if nobody can.
    """
    folder = Path(folder)
    if not writes or (folder.exists() and not folder.is_dir()):  # `check_run_folder` refuses a file
        yield
        return
    existed = folder.is_dir()
    lock = FileLock(folder / LOCK, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_patience(folder / LOCK))
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
            with contextlib.suppress(OSError):
                (folder / LOCK).unlink()
                if not existed and not any(folder.iterdir()):
                    folder.rmdir()
        lock.release()


def _patience(lock):
    """Seconds to wait for a lock: workers that a killed run leaves behind hold it for a moment."""
    pid, host = _holder(lock)
    return 10 if host == socket.gethostname() and not psutil.pid_exists(int(pid)) else 0


def _holder(lock):
    try:
        pid, host = lock.read_text().split()
        return pid, host
    except (OSError, ValueError):
        return "unknown", "an unknown host"


def check_run_folder(folder: str | Path, settings: dict, *, overwrite: bool, resume: bool) -> None:
    """Check that a run may write to a folder; change nothing.

    Args:
        settings: every field that the recipe or the command line named.
        overwrite: files of another run are to be deleted.
        resume: the folder's run is to be resumed, so its recipe must be this one.
    Raises: ClipScratchError if the folder holds another run, or files that no run wrote.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ClipScratchError(f"output_dir={folder} is a file; choose another output_dir.")
    names = sorted(path.name for path in folder.iterdir() if not _is_leftover(path)) if folder.is_dir() else []
    if RECIPE in names and resume:
        check_recipe(folder / RECIPE, settings, free=_free_to_change(settings) | _CADENCE)
    elif names and names != [RECIPE] and not (RECIPE in names and overwrite):
        # A recipe alone is what a run left that was stopped before its first checkpoint.
        what, ways = f"other files ({names[0]}{', ...' if len(names) > 1 else ''})", ""
        if RECIPE in names:
            what = "another run"
            ways = "--overwrite_output_dir to replace it, --resume_from_checkpoint auto to resume it, or "
        raise ClipScratchError(f"output_dir={folder} holds {what}; use {ways}another output_dir.")


def _is_leftover(path):
    """Whether a killed run left a file or folder half written; `begin_run_folder` deletes it."""
    return path.name in (STAGING, PUSHING, LOCK) or path.name.endswith(".part")


def read_recipe_of_run(path: Path) -> dict:
    """Return the recipe that a run left at `path`. Raises: ClipScratchError if it cannot be read."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ClipScratchError(f"{path} cannot be read ({first_line(error)}); {_NO_RECIPE}") from error
    if not isinstance(recipe, dict):
        raise ClipScratchError(
            f"{path} holds no recipe (it is {'empty' if recipe is None else 'no mapping'}); {_NO_RECIPE}"
        )
    return recipe


_NO_RECIPE = "copy it from where the run was made, or start again with --overwrite_output_dir."


def check_recipe(path: Path, settings: dict, *, free: set[str]) -> dict:
    """Check that a run may be resumed with a recipe.

    Args:
        path: recipe that the run left.
        settings: every field that is named now; defaults count as named.
        free: names of fields that may differ.
    Returns: {name: (value then, value now)} of the fields in `free` that differ.
    Raises: ClipScratchError with both values if another field differs.
    """
    before, now = _with_defaults(read_recipe_of_run(path)), _with_defaults(settings)
    # 3 and 3.0 are one value, and so are 64 and "64": the command line knows one type a field.
    differs = {name for name in now if before[name] != now[name] and str(before[name]) != str(now[name])}
    changed = {name: (before[name], now[name]) for name in differs}
    for name in sorted(changed.keys() - free):
        raise ClipScratchError(
            f"{path.parent} was trained with {name}={changed[name][0]!r}, and now {name}={changed[name][1]!r} is asked "
            f"for; resume with {name}={changed[name][0]!r}, or leave resume_from_checkpoint out and train a new model "
            "in another output_dir."
        )
    return changed


def _with_defaults(settings):
    values = {}
    for name, item in recipe_fields().items():
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        values[name] = settings.get(name, default)
    return values


def check_recipe_of_checkpoint(checkpoint: Path, settings: dict) -> str:
    """Check that a run may resume from a checkpoint, also from one of another folder; see `check_recipe`.

    Returns: comment lines for the recipe, on what was resumed with another length.
    """
    if not (checkpoint / RECIPE).is_file():
        raise ClipScratchError(
            f"{checkpoint} has no {RECIPE}, so nothing tells what it was trained with; resume it with "
            "ClipScratchTrainer.train, which wrote it, or give a checkpoint of clipscratch train."
        )
    free = _free_to_change(settings) | _CADENCE | _LENGTH
    changed = check_recipe(checkpoint / RECIPE, settings, free=free)
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
    """Write the recipe into a folder, and delete what another run left there, nothing else, unless it is resumed.

    Args:
        notes: comment lines for the recipe.
    Returns: the recipe's text.
    """
    folder = Path(folder)
    with saying_what_failed(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not ((folder / RECIPE).is_file() and resume):
            _delete_run(folder)
        kept = {name: value for name, value in settings.items() if name not in _free_to_change(settings)}
        text = notes + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
        write_text(folder / RECIPE, text)
    return text


def _free_to_change(settings):
    # The rows of a stream are dealt to the workers.
    return _FREE_TO_CHANGE - ({"dataloader_num_workers"} if settings.get("streaming") else set())


def _delete_run(folder):
    for events in folder.glob("runs/*/**/events.out.tfevents.*"):  # where transformers has TensorBoard write
        events.unlink()
    for path in sorted(folder.glob("runs/**"), reverse=True):  # innermost first; what others wrote stays
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for path in folder.iterdir():
        if path.is_dir() and (path.name.startswith("checkpoint-") or _is_leftover(path)):
            shutil.rmtree(path)
        elif is_of_a_run(path):
            path.unlink()


def is_of_a_run(path: Path) -> bool:
    """Whether a run wrote a file: its model, code, results, or the card as long as nobody made it his own."""
    if path.name == CARD:
        return is_our_card(path)
    return path.name in OF_A_RUN | {".gitattributes"} or is_of_a_model(path.name) or path.name.endswith(".part")


def is_our_card(path: Path) -> bool:
    """Whether a README.md still carries the line that says so; one that a person wrote, or took over, does not."""
    return OUR_CARD in path.read_text(encoding="utf-8", errors="replace")


def finish_run_folder(
    folder: str | Path, *, model, weights=None, processor, state, metrics: dict, facts: dict, pictures
) -> None:
    """Writes the model, its processor and the run's results: all beside their places first, then renamed into them.

    Args:
        weights: state dict to save, where the model itself holds a part of it only.
        state: the Trainer's.
        metrics: {data set: {metric: value}}.
        facts: what `run.json` is to hold.
        pictures: function (folder) that draws the run's pictures there.
    """
    folder = Path(folder)
    # The config last: with it the folder can be loaded.
    with saying_what_failed(folder), own_class(model), replacing_files(folder, last="config.json") as staging:
        model.save_pretrained(staging, state_dict=weights)
        processor.save_pretrained(staging)
        state.save_to_json(str(staging / "trainer_state.json"))
        (staging / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        (staging / "run.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (staging / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")
        pictures(staging)
        shutil.copy(folder / RECIPE, staging)
        write_sums(staging)


def versions() -> dict[str, str]:
    """What a figure of this run depends on besides the recipe."""
    packages = ("torch", "transformers", "datasets", "accelerate", "evaluate", "safetensors", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in packages}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _name_of_cpu()
    return {"python": platform.python_version(), "platform": platform.platform(), "device": device, **found}


def _name_of_cpu():
    known = Path("/proc/cpuinfo")  # on Linux `platform` knows the architecture only
    names = re.findall(r"^model name\s*: (.+)$", known.read_text(), re.MULTILINE) if known.is_file() else []
    return names[0] if names else platform.processor() or platform.machine()


@contextlib.contextmanager
def saying_what_failed(folder: str | Path, *, remedy: str | None = None) -> Iterator[None]:
    """Turn a failed write, whichever library made it, into one `OSError` that names the folder and the remedy.

    Args:
        remedy: default for the folder of a run: make room, and resume from its last checkpoint if it has one.
    """
    try:
        yield
    # For a full disk torch and safetensors have errors of their own, whose words change with where it filled.
    except FileNotFoundError:  # names the file, and is not for want of room
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        folder, cause = Path(folder), error.__cause__ if isinstance(error, WriteError) else error
        if remedy is None:
            remedy = "no checkpoint was written yet: make room, then start again."
            if kept := numbered_checkpoints(folder):
                remedy = f"{kept[-1].name} is whole: make room, then resume with --resume_from_checkpoint auto."
        reason = f"{type(cause).__name__}: {first_line(cause)}; {free_space(folder)} free"
        raise WriteError(f"writing to {folder} failed ({reason}); {remedy}") from cause


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The folders `checkpoint-N` in a folder, in the order of N."""
    paths = folder.iterdir() if folder.is_dir() else ()
    paths = [path for path in paths if re.fullmatch(r"checkpoint-\d+", path.name) and path.is_dir()]
    return sorted(paths, key=lambda path: int(path.name[11:]))


def publish_folder(staged: Path, place: Path) -> None:
    """Bring a folder to disk and rename it to `place`; what is there is deleted first."""
    to_disk(staged)
    if place.exists():
        shutil.rmtree(place)
    os.replace(staged, place)
