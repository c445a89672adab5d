"""Write, find, check and continue from checkpoints; one that is not complete and undamaged is not used."""

import json
import logging
import os
import shutil
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list
from safetensors.torch import load_file, save_file
from transformers import EarlyStoppingCallback, TrainerState
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from ...utils.atomic_files import explaining_failures, to_disk
from ...utils.checksums import find_damage, read_sums, write_sums
from ...utils.errors import ClipScratchError
from ..callbacks import TrainingRecord

logger = logging.getLogger(__name__)

STAGING = ".incomplete"  # folder of a checkpoint that is being written
# A checkpoint keeps the weights of frozen towers in a file of their own, a hard link of the last checkpoint's, so they
# take time and disk space once a run. They cannot be left out, since `from_pretrained` would fill the gap with random
# weights. The code (100 kB) stays too: without it no machine without this package could load a checkpoint.
_TRAINED, FROZEN = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


# Write


def save_split(model, folder: Path, *, link: Path | None) -> None:
    """Save a model for `from_pretrained`, frozen weights apart: as a link of the file `link` where that is possible."""
    weights = model.state_dict()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    trained = {name: tensor for name, tensor in weights.items() if name not in frozen}
    model.save_pretrained(folder, state_dict=trained, max_shard_size="1000GB")
    if not frozen:
        return
    (folder / "model.safetensors").rename(folder / _TRAINED)
    try:
        os.link(link or "", folder / FROZEN)
    except OSError:  # there is none, or the disk has no hard links
        tensors = {name: weights[name].cpu().contiguous() for name in frozen}
        save_file(tensors, folder / FROZEN, metadata={"format": "pt"})
    places = {name: FROZEN if name in frozen else _TRAINED for name in weights}
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in weights.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def save_checkpoint(trainer, write, trial) -> None:
    """Have `write` save a checkpoint beside the others, and rename it, so that it is whole or not there."""
    args, state, wait = trainer.args, trainer.state, trainer.accelerator.wait_for_everyone
    run, place, name = Path(trainer._get_output_dir(trial)), args.output_dir, f"checkpoint-{state.global_step}"
    staging = run / STAGING
    clears = args.local_process_index == 0  # a machine with a disk of its own clears that
    if clears:
        shutil.rmtree(staging, ignore_errors=True)  # what a killed run was writing
    wait()
    try:
        with explaining_failures(run, also=(RuntimeError,)):  # torch's error for a full disk
            args.output_dir = str(staging)
            written = Path(trainer._get_output_dir(trial)) / name
            write()
            if trainer.ema is not None and args.should_save:
                trainer.ema.save(written)
            if trainer.stream is not None:
                trainer.stream.save(written)
            wait()
            if state.best_global_step == state.global_step:  # the Trainer has set the path within STAGING
                state.best_model_checkpoint = str(run / name)
            if args.should_save:
                _publish(trainer, written, run / name)
            wait()  # another machine must not clear what is being published on their common disk
    finally:
        args.output_dir = place
        if clears:
            shutil.rmtree(staging, ignore_errors=True)
    wait()


def _publish(trainer, written, place):
    args, state = trainer.args, trainer.state
    state.save_to_json(str(written / "trainer_state.json"))
    frozen, last, digests = written / FROZEN, trainer.frozen_file, {}
    if last is not None and last.is_file() and frozen.samefile(last):
        digests = {FROZEN: read_sums(last.parent)[FROZEN]}
    write_sums(written, digests)
    to_disk(written)
    if place.exists():
        shutil.rmtree(place)
    os.replace(written, place)
    trainer.frozen_file = place / FROZEN if (place / FROZEN).is_file() else None
    rotate_checkpoints(
        output_dir=str(place.parent),
        save_total_limit=args.save_total_limit,
        best_model_checkpoint=state.best_model_checkpoint,
        use_mtime=False,  # a deletion that was cut short makes an old checkpoint look new
    )


# Find and check


def wants_to_resume(option: str | bool | None) -> bool:
    return option is not None and str(option).lower() not in ("false", "no")


def find_checkpoint(folder: str | Path, option: str | bool | None) -> str | None:
    """Return the checkpoint that `resume_from_checkpoint` names, or with `auto` the last usable one in a folder."""
    if not wants_to_resume(option):
        return None
    if str(option).lower() in ("auto", "true"):  # another machine may have another disk
        return broadcast_object_list([_last_usable(folder)])[0]
    if not Path(option, "trainer_state.json").is_file() or Path(option, "metrics.json").is_file():
        inside = sort_checkpoints(str(option))
        remedy = f"give {inside[-1]}." if inside else "give the path of a checkpoint-N, or auto."
        raise ClipScratchError(f"resume_from_checkpoint={option} is no checkpoint; {remedy}")
    if problem := find_damage(Path(option)):
        raise ClipScratchError(
            f"resume_from_checkpoint={option} is damaged: {problem}; copy it again, or give an earlier checkpoint."
        )
    return str(option)


def _last_usable(folder):
    checkpoints = sort_checkpoints(str(folder))
    for path in reversed(checkpoints):
        problem = find_damage(Path(path))
        if problem is None:
            return path
        logger.warning("%s is damaged and not used: %s.", path, problem)
    if checkpoints:
        raise ClipScratchError(
            f"none of the {len(checkpoints)} checkpoints in {folder} is complete ({problem}); copy them again, or "
            "start again with --overwrite_output_dir."
        )
    return None


def check_settings(checkpoint: str, settings: dict[str, str]) -> None:
    """Raise `ClipScratchError` if a checkpoint was trained with another value of one of the settings."""
    for name, before in TrainingRecord.of(_state(checkpoint)).get("settings", {}).items():
        if before != (now := settings.get(name, before)):
            raise ClipScratchError(
                f"{checkpoint} was trained with {name}={before}, and now it is {now}; resume with what it was trained "
                "with, or train a new model in another output_dir."
            )


def check_fits(checkpoint: str, trainer) -> None:
    """Raise `ClipScratchError` if a checkpoint has other settings, rows or frozen weights than the trainer.

    A recipe names towers, tokenizers and data by Hub ids and paths, whose content may have changed. A stream resumes
    from the checkpoint here.
    """
    check_settings(checkpoint, trainer.record.settings)
    if trainer.stream is not None:
        trainer.stream.load(Path(checkpoint))
    frozen, weights = Path(checkpoint, FROZEN), trainer.model.state_dict()
    for name, tensor in load_file(frozen).items() if frozen.is_file() else ():
        if name not in weights or not torch.equal(tensor, weights[name].cpu()):
            raise ClipScratchError(
                f"{checkpoint} was trained with another frozen tower than the one that is loaded now: {name} differs; "
                "resume with the same tower, or train a new model in another output_dir."
            )


# Continue


def continue_from(checkpoint: str, trainer, steps: int) -> bool:
    """Let the record and early stopping of a run of so many steps continue; return whether it has none left."""
    state, record, patience = _state(checkpoint), trainer.record, trainer.args.early_stopping_patience
    record.best_checkpoint = _best(checkpoint, state)
    saved = state.stateful_callbacks.get("EarlyStoppingCallback")
    without_gain = saved["attributes"]["early_stopping_patience_counter"] if saved else 0
    if state.global_step >= steps or (patience is not None and without_gain >= patience):
        return True
    if state.max_steps != steps:
        logger.warning(
            "resumed from step %d of a run of %d steps: from there on the learning rate follows the new length, %d.",
            state.global_step, state.max_steps, steps,
        )  # fmt: skip
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            callback.early_stopping_patience_counter = without_gain
    return False


def _state(checkpoint):
    return TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))


def _best(checkpoint, state):
    """Return the path of the best checkpoint, also in a folder that was moved; `None` if it is gone or damaged."""
    if state.best_model_checkpoint is None:
        return None
    best = Path(checkpoint).parent / Path(state.best_model_checkpoint).name
    best = best if best.is_dir() else Path(state.best_model_checkpoint)
    if problem := find_damage(best):
        logger.warning("the best checkpoint, %s, cannot be used (%s): the last weights are.", best, problem)
        return None
    return str(best)
