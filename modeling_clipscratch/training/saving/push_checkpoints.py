"""Checkpoints go in while training goes on; a Hub repository that holds the newest model comes out."""

import logging
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import safe_open
from transformers import TrainerCallback
from transformers.trainer_utils import HubStrategy

from ...utils.checksums import SUMS
from ...utils.hub_commit import commit_files, open_repository
from ...utils.model_files import is_of_a_model
from .run_folder import PUSHING, RECIPE

logger = logging.getLogger(__name__)


def open_for_pushes(args, *, token: str | None = None, private: bool | None = None) -> str:
    """Makes or finds the repository of `push_to_hub`.

    Args:
        args: the Trainer's; `hub_model_id` is the run folder's name where it is left out.
        token, private: instead of those of `args`.
    Returns: its whole id.
    Raises: ClipScratchError or OSError with one sentence if the token may not write there.
    """
    return open_repository(
        args.hub_model_id or Path(args.output_dir).absolute().name,
        private=args.hub_private_repo if private is None else private,
        revision=args.hub_revision,
        token=token or args.hub_token,
    )


class PushCheckpoints(TrainerCallback):
    """After each save one commit, made beside the training: model, processor and code, and, where `hub_strategy` says
    so, the checkpoint under `last-checkpoint` or its own name.

    A push that fails is a warning; what it did not bring goes with the next one, and once more at the end. A save
    while a push is under way is left out, unless `hub_always_push`. Adapters are no model yet: until they are merged
    only checkpoints are pushed. With `ema_decay` it is the model that is trained, not its average.

    Args:
        repo_id: as `open_for_pushes` returned it.
    """

    def __init__(self, repo_id: str):
        self.repo_id = repo_id
        self.pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="push")
        self.last = None
        self.waiting = {}  # path in the repository -> file, of pushes that failed; of the pool's thread

    def on_save(self, args, state, control, **kwargs):
        busy = self.last is not None and not self.last.done()
        if not state.is_world_process_zero or busy and not args.hub_always_push:
            return
        name, run, files = f"checkpoint-{state.global_step}", Path(args.output_dir), {}
        try:
            files = _to_push(_snapshot(run, name), args.hub_strategy)
        except OSError as error:
            logger.warning("this save is not pushed (%s); training goes on.", error)
        if files:
            self.last = self.pool.submit(self._push, args, f"Training in progress, step {state.global_step}", files)
        else:
            shutil.rmtree(run / PUSHING / name, ignore_errors=True)

    def on_train_end(self, args, state, control, **kwargs):
        if self.last is not None:
            self.last.result()
            if self.waiting:
                self.pool.submit(self._push, args, f"Training in progress, step {state.global_step}", None).result()
        if state.is_world_process_zero:
            shutil.rmtree(Path(args.output_dir) / PUSHING, ignore_errors=True)

    def _push(self, args, message, files):
        """Args: files: `None`: those that wait."""
        before = self.waiting
        if files is not None:  # of what waits, only checkpoints with names of their own are not out of date
            self.waiting = {path: file for path, file in before.items() if path.startswith("checkpoint-")} | files
        _forget(before, self.waiting)
        folders = tuple({path.partition("/")[0] + "/" for path in self.waiting if "/" in path})
        brings_model = "config.json" in self.waiting

        def stale(path):
            return path.startswith(folders) or brings_model and (is_of_a_model(path) or path == SUMS)

        where = {"revision": args.hub_revision, "token": args.hub_token}
        try:
            commit_files(self.waiting, self.repo_id, message=message, stale=stale, **where)
        except Exception as error:  # whatever it is, the training is worth more
            logger.warning("%s Training goes on; what is missing comes with the next push.", error)
        else:
            _forget(self.waiting, {})
            self.waiting = {}


def _snapshot(run, name):
    """A checkpoint under another name, without its bytes being copied: it may be rotated away while it is sent."""
    place = run / PUSHING / name
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(run / name, place, copy_function=_link)
    return place


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # a disk without hard links
        shutil.copy2(source, target)


def _to_push(place, strategy):
    inside = {path.relative_to(place).as_posix(): path for path in sorted(place.rglob("*")) if path.is_file()}
    with safe_open(place / "model.safetensors", "pt") as weights:
        names = weights.keys()
    merged = not any(".lora_" in name for name in names)
    files = {path: file for path, file in inside.items() if merged and (is_of_a_model(path) or path == RECIPE)}
    folder = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: place.name}.get(strategy)
    return files | {f"{folder}/{path}": file for path, file in inside.items() if folder}


def _forget(files, kept):
    """Deletes the snapshots that only `files` needs."""
    for place in {_place(file) for file in files.values()} - {_place(file) for file in kept.values()}:
        shutil.rmtree(place, ignore_errors=True)


def _place(file):
    return next(parent for parent in file.parents if parent.parent.name == PUSHING)
