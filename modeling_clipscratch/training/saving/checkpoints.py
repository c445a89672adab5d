"""Find, check, write and finish checkpoints. A checkpoint is whole, with its recipe and digests, or it is not used."""

import contextlib
import json
import logging
import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import rotate_checkpoints

from ...hub.errors_clipscratch import ClipScratchError
from ...utils.checksums import find_damage, read_sums, write_sums
from ...utils.local_files import read_json
from ...utils.names import first_line
from ..callbacks import TrainingRecord
from ..loss.gather import all_rows
from ..optimization.ema import read_average
from .run_folder import RECIPE, STAGING, numbered_checkpoints, publish_folder, saying_what_failed

logger = logging.getLogger(__name__)

_PICKLES = (".pt", ".pth", ".bin")


def wants_to_resume(option: str | bool | None) -> bool:
    """Whether `resume_from_checkpoint` asks for it: not where it is left out, `false` or `no`."""
    return option is not None and str(option).lower() not in ("false", "no")


def find_checkpoint(folder: str | Path, option: str | bool | None) -> str | None:
    """Find the checkpoint that `resume_from_checkpoint` means, and check that it is whole.

    Args:
        folder: output_dir.
        option: a checkpoint's path; `auto` or `true` for the last whole one in `folder`, if there is any.
    Returns: its path; `None` to start from the first step.
    Raises: ClipScratchError if the path is no whole checkpoint of a ClipScratch model, or `auto` finds damaged ones
        only.
    """
    if not wants_to_resume(option):
        return None
    if str(option).lower() in ("auto", "true"):
        return _last_whole(Path(folder))
    path = Path(option)
    if inside := numbered_checkpoints(path):
        raise ClipScratchError(
            f"resume_from_checkpoint={path} is the folder of a run, not a checkpoint; give {inside[-1]}, its last one."
        )
    if not (path / "trainer_state.json").is_file():
        raise ClipScratchError(
            f"resume_from_checkpoint={path} is no checkpoint folder (no trainer_state.json); try auto."
        )
    if (path / "metrics.json").is_file():
        raise ClipScratchError(
            f"resume_from_checkpoint={path} is the folder of a finished run, and it holds no checkpoint-N; train a new "
            "model, or give the checkpoint of another run."
        )
    kind = _model_type(path / "config.json")
    if kind != "clipscratch":
        raise ClipScratchError(
            f"resume_from_checkpoint={path} holds a model of type {kind!r}, not 'clipscratch'; "
            "choose a checkpoint that clipscratch train wrote."
        )
    if problem := find_problem(path):
        raise ClipScratchError(
            f"resume_from_checkpoint={path} is damaged: {problem}; copy it again, or give an earlier checkpoint."
        )
    return str(path)


def _last_whole(folder):
    checkpoints = numbered_checkpoints(folder)
    for path in reversed(checkpoints):
        problem = find_problem(path)
        if problem is None:
            return str(path)
        logger.warning("%s is damaged and not used: %s.", path, problem)
    if checkpoints:
        raise ClipScratchError(
            f"none of the {len(checkpoints)} checkpoints in {folder} is whole ({path.name}: {problem}); copy them "
            "again, or start again with --overwrite_output_dir."
        )
    return None


def _model_type(config):
    try:
        return read_json(config)["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_problem(checkpoint: Path) -> str | None:
    """Look for what makes a checkpoint unfit for use: files that are missing, changed, or cannot be read.

    Pickles are read as torch reads them without running code from them.

    Returns: the problem, for a sentence; `None` if there is none.
    """
    if damage := find_damage(checkpoint):
        return damage
    listed = read_sums(checkpoint)
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in (*_PICKLES, ".safetensors") and path.name not in listed:
            return f"{path.name} was not written with it"
        try:
            if path.suffix in _PICKLES:
                with safe_globals():
                    torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            elif path.suffix == ".safetensors":
                safe_open(path, "pt").keys()
            elif path.name == "trainer_state.json":
                TrainerState.load_from_json(str(path))
        except (UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, SafetensorError) as error:
            return f"{path.name} cannot be read ({first_line(error)})"
    return None


def check_fits(checkpoint: str, trainer) -> None:
    """Check that a checkpoint is one of the trainer's model, processor and training data.

    Towers, tokenizers and data go by names and paths in a recipe; what lies there may have changed.

    Raises: ClipScratchError if a weight has another shape, a frozen weight another value, or tokenizer, image
        processor, training rows, loss, batch or optimizer are others.
    """
    folder = Path(checkpoint)
    _check_weights(folder, trainer.model)
    if (name := _changed_part_of_processor(folder, trainer.processing_class)) is not None:
        raise ClipScratchError(
            f"{checkpoint} was trained with another {name} than the one that is loaded now; resume with the same "
            "towers and tokenizer, or train a new model in another output_dir."
        )
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    record = TrainingRecord.args_of(state)
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
    with safe_open(folder / "model.safetensors", "pt") as file:
        for name in weights.keys() & set(file.keys()):
            before, now = tuple(file.get_slice(name).get_shape()), tuple(weights[name].shape)
            if before != now:
                raise ClipScratchError(
                    f"{folder} does not fit this model: {name} is {before} there and {now} here, so towers or "
                    "vocabulary differ; resume with the data and towers that it was trained with."
                )
            if name in frozen and not torch.equal(file.get_tensor(name), weights[name].cpu()):
                raise ClipScratchError(
                    f"{folder} does not fit this model: {name} is frozen and has other values there than here, so the "
                    "tower was exchanged; resume with the tower that it was trained with."
                )


def _changed_part_of_processor(folder, processor):
    """Name the part of a processor that is another one in a checkpoint; `None` if none is known to be."""
    parts = {}
    if (folder / "tokenizer.json").is_file():
        parts["tokenizer"] = (
            read_json(folder / "tokenizer.json"),
            json.loads(processor.tokenizer.backend_tokenizer.to_str()),
        )
    if (folder / "processor_config.json").is_file():
        before = read_json(folder / "processor_config.json")["image_processor"]
        parts["image processor"] = (before, json.loads(processor.image_processor.to_json_string()))
    passing = {"truncation", "padding"}  # the tokenizer's last call leaves them
    for name, (before, now) in parts.items():
        if any(before[key] != now[key] for key in (before.keys() & now.keys()) - passing):
            return name
    return None


@contextlib.contextmanager
def staged(run: Path, args, wait):
    """A folder beside the checkpoints to write one into; what is left there at the end is deleted.

    Args:
        run: folder of the checkpoints.
        args: the Trainer's.
        wait: function without arguments, the barrier of all processes.
    """
    folder = run / STAGING
    clears = args.local_process_index == 0  # a machine with a disk of its own clears that
    if clears:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run was writing
    wait()
    try:
        with saying_what_failed(run):
            yield folder
    finally:
        if clears:
            shutil.rmtree(folder, ignore_errors=True)
    wait()


def publish(written: Path, run: Path, args, state: TrainerState, recipe: str | None) -> None:
    """Complete a checkpoint, give it its name, and delete older ones; one process does it."""
    state.save_to_json(str(written / "trainer_state.json"))
    if recipe is not None:
        (written / RECIPE).write_text(recipe, encoding="utf-8")
    write_sums(written)
    publish_folder(written, run / written.name)
    rotate_checkpoints(
        output_dir=str(run),
        save_total_limit=args.save_total_limit,
        best_model_checkpoint=state.best_model_checkpoint,
        use_mtime=False,  # a deletion that was cut short makes an old checkpoint look new
    )


def save_whole(trainer, write, folder: str) -> None:
    """Writes a checkpoint beside the others under another name and renames it: it is whole or not there.

    Args:
        trainer: a `ClipScratchTrainer`, which saves into its `staging` folder while there is one.
        write: function that has transformers' Trainer write its files.
        folder: of the run, or of the trial of a search.
    """
    trainer.check_finite()
    args, run = trainer.args, Path(folder)
    name, wait = f"checkpoint-{trainer.state.global_step}", trainer.accelerator.wait_for_everyone
    with staged(run, args, wait) as trainer.staging:
        try:
            write()
            if trainer.average is not None:
                trainer.average.save(trainer.staging / name, writes=args.should_save)
            if trainer.stream is not None:
                trainer.stream.save(trainer.staging / name)
            wait()
            if trainer.state.best_global_step:
                best = run / f"checkpoint-{trainer.state.best_global_step}"
                if best.name == name or best.is_dir():  # not every evaluation has a checkpoint, nor this folder all
                    trainer.state.best_model_checkpoint = str(best)
            if args.should_save:
                publish(trainer.staging / name, run, args, trainer.state, trainer.recipe)
            wait()  # another machine must not clear what is being published on their common disk
        finally:
            trainer.staging = None


def finished_state(trainer, checkpoint: str | None) -> TrainerState | None:
    """The state of a run that has made all its steps; the Trainer itself would make one more.

    Args:
        trainer: a `ClipScratchTrainer`, which may be to make more steps than that run was.
        checkpoint: folder that the run is to go on from.
    Raises: ClipScratchError if there are steps to make and the checkpoint holds nothing but weights.
    """
    if checkpoint is None:
        return None
    *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    state.best_model_checkpoint = _best(checkpoint, trainer.args, state)
    patience, without_gain = trainer.args.early_stopping_patience, _evaluations_without_gain(state)
    if state.global_step >= steps or (patience is not None and without_gain >= patience):
        return state
    if not (Path(checkpoint) / "scheduler.pt").is_file():
        raise ClipScratchError(
            f"resume_from_checkpoint: {checkpoint} holds weights only (save_only_model), and optimizer and learning "
            "rate would begin anew; begin a new run without save_only_model."
        )
    stateful = [item for item in trainer.callback_handler.callbacks if isinstance(item, ExportableState)]
    for item in stateful:
        if isinstance(item, EarlyStoppingCallback):
            item.early_stopping_patience_counter = without_gain
    trainer.add_callback(_KnowsBest(state.best_model_checkpoint, {type(item).__name__: {} for item in stateful}))
    return None


def _evaluations_without_gain(state):
    saved = state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
    return saved["attributes"]["early_stopping_patience_counter"] if isinstance(saved, dict) else 0


def _best(checkpoint, args, state):
    """Path of the best checkpoint, also in a run folder that was moved; `None` where it is gone."""
    best = state.best_model_checkpoint
    if best is None or Path(best).is_dir():
        return usable(best)
    beside = Path(checkpoint).parent / Path(best).name
    if beside.is_dir():
        return usable(beside)
    if args.load_best_model_at_end:
        logger.warning("the best checkpoint, %s, is gone: the last weights, or better ones to come, are taken.", best)
    return None


def usable(best: str | Path | None) -> str | None:
    """The best checkpoint if it is whole; else `None`, with a warning, and the last weights are taken."""
    if best is not None and (problem := find_problem(Path(best))):
        logger.warning("the best checkpoint, %s, is damaged (%s): the last weights are taken.", best, problem)
        return None
    return None if best is None else str(best)


class _KnowsBest(TrainerCallback):
    """The Trainer forgets a best checkpoint that is not where it was, and fails at a callback that is new."""

    def __init__(self, best, callbacks):
        self.best, self.callbacks = best, callbacks

    def on_train_begin(self, args, state, control, **kwargs):
        state.best_model_checkpoint = self.best
        state.stateful_callbacks = self.callbacks | state.stateful_callbacks


def final_weights(checkpoint: str, args, state: TrainerState) -> dict[str, torch.Tensor]:
    """State dict that a finished run ends with: of the last or the best checkpoint, averaged or not."""
    best = state.best_model_checkpoint if args.load_best_model_at_end else None
    folder = Path(best or checkpoint)
    averaged = {} if args.ema_decay is None else read_average(folder)
    return load_file(folder / "model.safetensors") | averaged


def check_agreement(checkpoint: str | None, device) -> None:
    """Raises: ClipScratchError if the processes found different checkpoints to go on from."""
    file = None if checkpoint is None else Path(checkpoint) / "trainer_state.json"
    step = -1 if file is None else TrainerState.load_from_json(str(file)).global_step
    found = all_rows(torch.tensor([step], device=device)).tolist()
    if len(set(found)) > 1:
        raise ClipScratchError(
            f"the processes found different checkpoints (steps {', '.join(map(str, sorted(set(found))))}; -1 is none): "
            "output_dir must be on a disk that all machines see."
        )
