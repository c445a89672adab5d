"""Write, find, check and finish checkpoints; one that is not complete and undamaged is not used."""

import json
import logging
import os
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import EarlyStoppingCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from ...utils.atomic_files import explaining_failures, to_disk
from ...utils.checksums import find_damage, read_sums, write_sums
from ...utils.errors import ClipScratchError
from ...utils.local_files import read_json
from ..callbacks import TrainingRecord
from ..loss.gather import all_rows
from ..optimization.ema import read_ema
from .run_folder import RECIPE, STAGING, how_to_resume, numbered_checkpoints

logger = logging.getLogger(__name__)

_LOADED = {".pt", ".pth", ".bin", ".safetensors"}  # files that the Trainer reads if they are there
# A checkpoint keeps the weights of frozen towers in a file of their own, a hard link of the last checkpoint's, so they
# take time and disk space once a run. They cannot be left out, since `from_pretrained` would fill the gap with random
# weights. The code (100 kB) stays too: without it no machine without this package could load a checkpoint.
_TRAINED, FROZEN = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


# Write


def save_split(model, folder: Path, weights: dict[str, torch.Tensor] | None, *, link: Path | None) -> None:
    """Save a model for `from_pretrained`, frozen weights apart.

    Args:
        model: unwrapped.
        folder: of the checkpoint.
        weights: state dict, where the model itself holds a part of it only.
        link: file of an earlier checkpoint with the same frozen weights, if there is one.
    """
    weights = model.state_dict() if weights is None else weights
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad} & weights.keys()
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
    size = sum(tensor.nbytes for tensor in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of a checkpoint or a run's folder."""
    return {name: tensor for path in _weight_files(folder) for name, tensor in load_file(path).items()}


def _weight_files(folder):
    return sorted(folder.glob("model*.safetensors"))


def save_checkpoint(trainer, write, trial) -> None:
    """Write a checkpoint beside the others and rename it, so that it is complete or not there; delete older ones.

    Args:
        trainer: a `ClipScratchTrainer`.
        write: function that has transformers' Trainer write its files below `args.output_dir`.
        trial: of a search, as the Trainer's methods take it.
    """
    args, state, wait = trainer.args, trainer.state, trainer.accelerator.wait_for_everyone
    run, place, name = Path(trainer._get_output_dir(trial)), args.output_dir, f"checkpoint-{state.global_step}"
    staging = run / STAGING
    clears = args.local_process_index == 0  # a machine with a disk of its own clears that
    if clears:
        shutil.rmtree(staging, ignore_errors=True)  # what a killed run was writing
    wait()
    try:
        # torch has errors of its own for a full disk.
        with explaining_failures(run, remedy=how_to_resume(run), also=(RuntimeError,)):
            args.output_dir = str(staging)
            written = Path(trainer._get_output_dir(trial)) / name
            write()
            if trainer.ema is not None:
                trainer.ema.save(written, writes=args.should_save)
            if trainer.stream is not None:
                trainer.stream.save(written)
            wait()
            if state.best_global_step:
                best = run / f"checkpoint-{state.best_global_step}"
                if best.name == name or best.is_dir():  # not every evaluation has a checkpoint, nor this folder all
                    state.best_model_checkpoint = str(best)
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
    if trainer.recipe is not None:
        (written / RECIPE).write_text(trainer.recipe, encoding="utf-8")
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
    """Return whether `resume_from_checkpoint` asks for it: `None`, `false` and `no` do not."""
    return option is not None and str(option).lower() not in ("false", "no")


def find_checkpoint(folder: str | Path, option: str | bool | None) -> str | None:
    """Find the checkpoint that `resume_from_checkpoint` names, and raise `ClipScratchError` if it cannot be used.

    Args:
        folder: output_dir.
        option: a checkpoint's path; `auto` or `true` for the last usable one in `folder`, if there is any.

    Returns:
        Its path; `None` to start from the first step.
    """
    if not wants_to_resume(option):
        return None
    if str(option).lower() in ("auto", "true"):
        return _last_usable(Path(folder))
    path = Path(option)
    if inside := numbered_checkpoints(path):
        raise ClipScratchError(
            f"resume_from_checkpoint={path} is the folder of a run, not a checkpoint; give {inside[-1]}, its last one."
        )
    if not (path / "trainer_state.json").is_file() or (path / "metrics.json").is_file():
        raise ClipScratchError(
            f"resume_from_checkpoint={path} is no checkpoint; give the path of a checkpoint-N, or auto."
        )
    if problem := find_problem(path):
        raise ClipScratchError(
            f"resume_from_checkpoint={path} is damaged: {problem}; copy it again, or give an earlier checkpoint."
        )
    if (kind := read_json(path / "config.json").get("model_type")) != "clipscratch":
        raise ClipScratchError(
            f"resume_from_checkpoint={path} holds a model of type {kind!r}, not 'clipscratch'; choose a checkpoint of "
            "ClipScratch."
        )
    return str(path)


def _last_usable(folder):
    checkpoints = numbered_checkpoints(folder)
    for path in reversed(checkpoints):
        problem = find_problem(path)
        if problem is None:
            return str(path)
        logger.warning("%s is damaged and not used: %s.", path, problem)
    if checkpoints:
        raise ClipScratchError(
            f"none of the {len(checkpoints)} checkpoints in {folder} is complete ({path.name}: {problem}); copy them "
            "again, or start again with --overwrite_output_dir."
        )
    return None


def find_problem(checkpoint: Path) -> str | None:
    """Return why a checkpoint cannot be used (a missing, changed or foreign file), for a sentence, or `None`."""
    if damage := find_damage(checkpoint):
        return damage
    listed = read_sums(checkpoint)
    foreign = [path.name for path in checkpoint.iterdir() if path.suffix in _LOADED and path.name not in listed]
    return f"{min(foreign)} was not written with it" if foreign else None


def check_fits(checkpoint: str, trainer) -> None:
    """Raise `ClipScratchError` if a checkpoint is of another model, processor, data or optimizer than the trainer's.

    A recipe names towers, tokenizers and data by Hub ids and paths, whose content may have changed. A stream resumes
    from the checkpoint here.
    """
    folder = Path(checkpoint)
    if trainer.stream is not None:
        trainer.stream.load(folder)
    _check_weights(folder, trainer.model)
    if (name := _changed_part_of_processor(folder, trainer.processing_class)) is not None:
        raise ClipScratchError(
            f"{checkpoint} was trained with another {name} than the one that is loaded now; resume with the same "
            "towers and tokenizer, or train a new model in another output_dir."
        )
    record = TrainingRecord.of(TrainerState.load_from_json(str(folder / "trainer_state.json")))
    for name, before in record.get("settings", {}).items():
        if before != (now := trainer.record.settings.get(name, before)):
            raise ClipScratchError(
                f"{checkpoint} was trained with {name}={before}, and now {name}={now} is asked for; resume with "
                f"{name}={before}, or train a new model in another output_dir."
            )
    before, now = record.get("data"), trainer.record.data
    if None not in (before, now) and before != now:
        raise ClipScratchError(
            f"{checkpoint} was trained on other rows (digest {before}) than those that are here now (digest {now}); "
            "resume with the same files, or train a new model in another output_dir."
        )


def _check_weights(folder, model):
    weights, frozen = model.state_dict(), {name for name, p in model.named_parameters() if not p.requires_grad}
    missing = set(weights)
    for path in _weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                before = tuple(file.get_slice(name).get_shape())
                now = tuple(weights[name].shape) if name in weights else "missing"
                if before != now:
                    raise ClipScratchError(
                        f"{folder} does not fit this model: {name} is {before} there and {now} here, so towers or "
                        "vocabulary differ; resume with the data and towers that it was trained with."
                    )
                if name in frozen and not torch.equal(file.get_tensor(name), weights[name].cpu()):
                    raise ClipScratchError(
                        f"{folder} does not fit this model: {name} is frozen and has other values there than here, so "
                        "the tower was exchanged; resume with the tower that it was trained with."
                    )
                missing.discard(name)
    if missing:
        raise ClipScratchError(
            f"{folder} does not fit this model: it lacks {min(missing)}, so towers differ; resume with the towers that "
            "it was trained with."
        )


def _changed_part_of_processor(folder, processor):
    """Return which part of a processor differs from the checkpoint's; `None` if none does."""
    saved = read_json(folder / "processor_config.json")["image_processor"]
    parts = {"image processor": (saved, processor.image_processor.to_json_string())}
    if (folder / "tokenizer.json").is_file():  # not of a tokenizer in Python
        saved = read_json(folder / "tokenizer.json")
        parts["tokenizer"] = (saved, processor.tokenizer.backend_tokenizer.to_str())
    for name, (saved, now) in parts.items():
        now = json.loads(now)
        common = (saved.keys() & now.keys()) - {"truncation", "padding"}  # the tokenizer's last call sets these
        if any(saved[key] != now[key] for key in common):
            return name
    return None


def check_agreement(checkpoint: str | None, device) -> None:
    """Raise `ClipScratchError` if the processes found different checkpoints to resume from."""
    file = None if checkpoint is None else Path(checkpoint) / "trainer_state.json"
    step = -1 if file is None else TrainerState.load_from_json(str(file)).global_step
    steps = sorted(set(all_rows(torch.tensor([step], device=device)).tolist()))
    if len(steps) > 1:
        raise ClipScratchError(
            f"the processes found different checkpoints (steps {', '.join(map(str, steps))}; -1 is none): "
            "output_dir must be on a disk that all machines see."
        )


# Finish


def finished_state(trainer, checkpoint: str | None) -> TrainerState | None:
    """Return the state of a run that has made all its steps, where the Trainer itself would make one more.

    If there are steps to make, the trainer's record and early stopping continue from the checkpoint.

    Raises:
        ClipScratchError: If there are steps to make and the checkpoint holds nothing but weights.
    """
    if checkpoint is None:
        return None
    *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    state.best_model_checkpoint = _best(checkpoint, trainer.args, state)
    saved, patience = state.stateful_callbacks.get(EarlyStoppingCallback.__name__), trainer.args.early_stopping_patience
    without_gain = saved["attributes"]["early_stopping_patience_counter"] if isinstance(saved, dict) else 0
    if state.global_step >= steps or (patience is not None and without_gain >= patience):
        return state
    if not (Path(checkpoint) / "scheduler.pt").is_file():
        raise ClipScratchError(
            f"resume_from_checkpoint: {checkpoint} holds weights only (save_only_model), and optimizer and learning "
            "rate would start again; start a new run without save_only_model."
        )
    stateful = [item for item in trainer.callback_handler.callbacks if isinstance(item, ExportableState)]
    for item in stateful:
        if isinstance(item, EarlyStoppingCallback):
            item.early_stopping_patience_counter = without_gain
    trainer.record.best_checkpoint = state.best_model_checkpoint
    trainer.record.callbacks = tuple(type(item).__name__ for item in stateful)
    return None


def _best(checkpoint, args, state):
    """Return the path of the best checkpoint, also in a folder that was moved; `None` if it is gone or damaged."""
    best = state.best_model_checkpoint
    if best is None:
        return None
    path = Path(best) if Path(best).is_dir() else Path(checkpoint).parent / Path(best).name
    if not path.is_dir():
        if args.load_best_model_at_end:
            logger.warning("the best checkpoint, %s, is gone: the last weights, or later better ones, are used.", best)
    elif problem := find_problem(path):
        logger.warning("the best checkpoint, %s, is damaged (%s): the last weights are used.", path, problem)
    else:
        return str(path)
    return None


def final_weights(checkpoint: str, args, state: TrainerState) -> dict[str, torch.Tensor]:
    """Return the state dict that a finished run ends with: of the last or the best checkpoint, averaged or not."""
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    folder = Path(best or checkpoint)
    return read_weights(folder) | ({} if args.ema_decay is None else read_ema(folder))
