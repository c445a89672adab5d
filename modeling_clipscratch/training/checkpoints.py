"""A checkpoint goes in while it is written and comes out whole or not at all; and what goes on from one."""

import contextlib
import logging
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import rotate_checkpoints

from .average import read_average
from .gather import all_rows
from .run_folder import publish_folder, saying_what_failed

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def staged(args, wait):
    """A folder beside the checkpoints to write one into; what is left there at the end is deleted.

    Args:
        args: the Trainer's.
        wait: function without arguments, the barrier of all processes.
    """
    folder = Path(args.output_dir) / ".incomplete"
    clears = args.local_process_index == 0  # a machine with a disk of its own clears that
    if clears:
        shutil.rmtree(folder, ignore_errors=True)  # what a killed run was writing
    wait()
    try:
        with saying_what_failed(args.output_dir):
            yield folder
    finally:
        if clears:
            shutil.rmtree(folder, ignore_errors=True)
    wait()


def publish(written: Path, args, state: TrainerState) -> None:
    """Brings a checkpoint to disk, gives it its name, and lets older ones go; one process does it."""
    run = Path(args.output_dir)
    state.save_to_json(str(written / "trainer_state.json"))
    publish_folder(written, run / written.name)
    rotate_checkpoints(
        output_dir=str(run),
        save_total_limit=args.save_total_limit,
        best_model_checkpoint=state.best_model_checkpoint,
        use_mtime=False,  # a deletion that was cut short makes an old checkpoint look new
    )


def save_whole(trainer, write) -> None:
    """Writes a checkpoint beside the others under another name and renames it: it is whole or not there.

    Args:
        trainer: a `ClipScratchTrainer`, which saves into its `staging` folder while there is one.
        write: function that has transformers' Trainer write its files.
    """
    args, name, wait = trainer.args, f"checkpoint-{trainer.state.global_step}", trainer.accelerator.wait_for_everyone
    with staged(args, wait) as trainer.staging:
        try:
            write()
            if trainer.average is not None:
                trainer.average.save(trainer.staging / name, writes=args.should_save)
            if trainer.stream is not None:
                trainer.stream.save(trainer.staging / name)
            wait()
            if trainer.state.best_global_step:
                best = Path(args.output_dir) / f"checkpoint-{trainer.state.best_global_step}"
                if best.name == name or best.is_dir():  # not every evaluation has a checkpoint, nor this folder all
                    trainer.state.best_model_checkpoint = str(best)
            if args.should_save:
                publish(trainer.staging / name, args, trainer.state)
            wait()  # another machine must not clear what is being published on their common disk
        finally:
            trainer.staging = None


def finished_state(trainer, checkpoint: str | None) -> TrainerState | None:
    """The state of a run that has made all its steps; the Trainer itself would make one more.

    Args:
        trainer: a `ClipScratchTrainer`, which may be to make more steps than that run was.
        checkpoint: folder that the run is to go on from.
    Raises: ValueError if there are steps to make and the checkpoint holds nothing but weights.
    """
    if checkpoint is None:
        return None
    *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
    state.best_model_checkpoint = _best(checkpoint, trainer.args, state)
    if state.global_step >= steps or _stopped_early(trainer.args, state):
        return state
    if not (Path(checkpoint) / "scheduler.pt").is_file():
        raise ValueError(
            f"resume_from_checkpoint: {checkpoint} holds weights only (save_only_model), and optimizer and learning "
            "rate would begin anew; begin a new run without save_only_model."
        )
    stateful = [item for item in trainer.callback_handler.callbacks if isinstance(item, ExportableState)]
    trainer.add_callback(_KnowsBest(state.best_model_checkpoint, {type(item).__name__: {} for item in stateful}))
    return None


def _stopped_early(args, state):
    saved = state.stateful_callbacks.get(EarlyStoppingCallback.__name__)
    if args.early_stopping_patience is None or not isinstance(saved, dict):
        return False
    return saved["attributes"]["early_stopping_patience_counter"] >= args.early_stopping_patience


def _best(checkpoint, args, state):
    """Path of the best checkpoint, also in a run folder that was moved; `None` where it is gone."""
    best = state.best_model_checkpoint
    if best is None or Path(best).is_dir():
        return best
    beside = Path(checkpoint).parent / Path(best).name
    if beside.is_dir():
        return str(beside)
    if args.load_best_model_at_end:
        logger.warning("the best checkpoint, %s, is gone: the last weights, or better ones to come, are taken.", best)
    return None


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
    """Raises: ValueError if the processes found different checkpoints to go on from."""
    file = None if checkpoint is None else Path(checkpoint) / "trainer_state.json"
    step = -1 if file is None else TrainerState.load_from_json(str(file)).global_step
    found = all_rows(torch.tensor([step], device=device)).tolist()
    if len(set(found)) > 1:
        raise ValueError(
            f"the processes found different checkpoints (steps {', '.join(map(str, sorted(set(found))))}; -1 is none): "
            "output_dir must be on a disk that all machines see."
        )
