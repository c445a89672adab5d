"""Trainer events go in; a quiet progress bar, the sampler's epoch and a bounded temperature come out."""

import os
import signal
import sys
import threading
import time
from functools import partial

import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers import trainer as trainer_module
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_jit_checkpoint import JITCheckpointCallback
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy

from .loss.gather import process_count
from .saving.push_checkpoints import PushCheckpoints
from .saving.stream_state import ShareOfRun

# Fields of a step: transformers would take some of them from a checkpoint, and ignore the new value in silence.
_OF_A_STEP = (
    "loss", "global_batch_size", "learning_rate", "tower_learning_rate", "muon_learning_rate", "lr_scheduler_type",
    "optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "ema_decay",
    "seed",
)  # fmt: skip
_STEPS_A_LOOK = 10  # with several processes: they must agree, and asking costs a message


def set_callbacks(trainer) -> None:
    """Gives a `ClipScratchTrainer` what it does at its events, in this order; transformers' own bars go."""
    args = trainer.args
    chosen = [trainer.record, EpochOfSampler(trainer.sampler) if trainer.sampler else ShareOfRun()]
    chosen += [BoundedTemperature(), Clock()]
    if args.ema_decay is not None:
        chosen.append(AverageWeights(trainer))
    if args.save_minutes is not None:
        chosen.append(SaveByTheClock(args.save_minutes))
    if args.enable_jit_checkpoint:
        # Gives the signal back: that one writes in the middle of a step, and each process at a step of its own.
        trainer.pop_callback(JITCheckpointCallback).on_train_end(args, trainer.state, trainer.control)
        chosen.append(SaveOnSigterm())
    chosen.append(SaveAfterEvaluation())
    if args.early_stopping_patience is not None:
        chosen.append(EarlyStoppingCallback(args.early_stopping_patience))
    if args.push_to_hub and args.hub_strategy != HubStrategy.END:
        chosen.append(PushCheckpoints(trainer.hub_model_id))
    if not args.disable_tqdm:
        chosen.append(Progress())
    for callback in (PrinterCallback, ProgressCallback, trainer_module.DEFAULT_PROGRESS_CALLBACK):  # of a notebook, too
        trainer.remove_callback(callback)
    for callback in chosen:
        trainer.add_callback(callback)


class TrainingRecord(TrainerCallback, ExportableState):
    """Count the images that the model was trained on, and keep in `trainer_state.json` what a resumed run must equal.

    Args:
        data: digest of the training rows, `None` where they are streamed.
        settings: {field: value} of the loss, the batch and the optimizer.
    """

    def __init__(self, data: str | None, settings: dict[str, str]):
        self.data, self.settings, self.images_seen = data, settings, 0

    def settle(self, model, args, data: str | None) -> None:
        """Take model, `ClipScratchTrainingArguments` and data of a run, or of a trial of a search."""
        values = {"loss": model.config.loss, **args.to_dict()}
        self.data, self.settings = data, {name: str(values[name]) for name in _OF_A_STEP}

    def state(self) -> dict:
        args = {"data": self.data, "settings": self.settings}
        return {"args": args, "attributes": {"images_seen": self.images_seen}}

    @staticmethod
    def args_of(state: TrainerState) -> dict:
        """The arguments of the record that a checkpoint's state holds; empty if there is none."""
        return state.stateful_callbacks.get("TrainingRecord", {}).get("args", {})

    def on_train_begin(self, args, state, control, **kwargs):
        kept = state.stateful_callbacks.get("TrainingRecord", {}).get("attributes", {})
        self.images_seen = kept.get("images_seen", 0) if state.global_step else 0
        # transformers takes these from the checkpoint, so that a run resumed with other ones would keep the old.
        state.compute_steps(args, state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self.images_seen += args.global_batch_size


class Progress(TrainerCallback):
    """One bar a run: steps, pictures a second, time left, last loss and last evaluation."""

    def __init__(self):
        self.bar = None
        self.shown = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps * args.global_batch_size,
                initial=state.global_step * args.global_batch_size,
                unit=" pictures",
                desc="training",
                dynamic_ncols=True,
                mininterval=1.0 if sys.stderr.isatty() else 30.0,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(args.global_batch_size)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if self.bar is None or not logs:
            return
        if "loss" in logs:
            self.shown["loss"] = f"{logs['loss']:.3f}"
        for name, value in logs.items():
            if name in ("eval_top1", "eval_image_to_text_recall@5", "eval_text_to_image_recall@5"):
                self.shown[name.removeprefix("eval_")] = f"{value:.1%}"
        self.bar.set_postfix(self.shown, refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class EpochOfSampler(TrainerCallback):
    """Tells the sampler its epoch; accelerate's own call is lost where a resumed run skips batches."""

    def __init__(self, sampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int(state.epoch or 0))


class Clock(TrainerCallback):
    """Adds to each line of the log the seconds of training until then, those before a resumption among them."""

    def __init__(self):
        self.last = time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = time.monotonic()

    def on_log(self, args, state, control, **kwargs):
        now = time.monotonic()
        before = state.log_history[-2].get("seconds", 0.0) if len(state.log_history) > 1 else 0.0
        state.log_history[-1]["seconds"] = before + now - self.last
        self.last = now


class BoundedTemperature(TrainerCallback):
    """Keeps the learned temperature's parameter inside its limit after each optimizer step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.clamp_logit_scale_()


class AverageWeights(TrainerCallback):
    """Takes the weights of each step into the trainer's average, after the temperature was bounded."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        self.trainer.average.update(state.global_step)


class SaveAfterEvaluation(TrainerCallback):
    """What is to be saved at an epoch's last step waits for the evaluation that the epoch ends with: a run that went on
    from a checkpoint before it would never make up for it. (`save_strategy: best` saves after evaluations only.)"""

    def __init__(self):
        self.waits = False

    def on_step_end(self, args, state, control, **kwargs):
        last = state.epoch is not None and float(state.epoch).is_integer() or state.global_step >= state.max_steps
        looks = args.eval_strategy == IntervalStrategy.EPOCH and args.save_strategy != SaveStrategy.BEST
        if control.should_save and looks and last:
            control.should_save, self.waits = False, True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.waits:
            control.should_save, self.waits = True, False


class SaveOnSigterm(TrainerCallback):
    """After SIGTERM: a checkpoint at the end of the step, and then the end of the process with exit status 143. The run
    is not finished, so nothing that comes after the training is done.

    Whoever signals a launched run signals the data loader's workers, too, whose batches the step may still need. They
    begin with SIGTERM blocked, and end by it if their own parent sends it (not on macOS, which has no sigwaitinfo).
    """

    def __init__(self):
        self.signalled = self.stops = False
        self.handler = signal.SIG_DFL
        self.shields_workers = hasattr(signal, "sigwaitinfo")

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        self.handler = signal.signal(signal.SIGTERM, self._note)
        # accelerate's loader holds another, which it iterates over.
        for loader in {train_dataloader, getattr(train_dataloader, "base_dataloader", train_dataloader)}:
            if self.shields_workers:
                loader.worker_init_fn = partial(_heed_the_parent, loader.worker_init_fn)

    def _note(self, number, frame):
        self.signalled = True

    def _mask(self, how):
        if self.shields_workers:
            signal.pthread_sigmask(how, {signal.SIGTERM})

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._mask(signal.SIG_BLOCK)  # now the workers are started

    def on_step_begin(self, args, state, control, **kwargs):
        self._mask(signal.SIG_UNBLOCK)

    def on_step_end(self, args, state, control, **kwargs):
        self.stops = self.signalled
        if process_count() > 1:  # they must agree on the step
            word = torch.tensor(int(self.signalled), device=args.device)
            dist.all_reduce(word, dist.ReduceOp.MAX)
            self.stops = bool(word)
        control.should_save |= self.stops

    def on_save(self, args, state, control, **kwargs):
        if self.stops:
            raise SystemExit(128 + signal.SIGTERM)

    def on_train_end(self, args, state, control, **kwargs):
        self._mask(signal.SIG_UNBLOCK)
        signal.signal(signal.SIGTERM, self.handler)
        if self.signalled:  # after the last step
            os.kill(os.getpid(), signal.SIGTERM)


def _heed_the_parent(prepare, worker):
    """`worker_init_fn` that makes SIGTERM, which the worker blocks, end it if its parent sends it."""

    def wait():
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
    if prepare is not None:
        prepare(worker)


class SaveByTheClock(TrainerCallback):
    """A checkpoint whenever `minutes` have passed since the last one; the first process's clock decides for all."""

    def __init__(self, minutes: float):
        self.seconds = 60 * minutes
        self.last = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        due = time.monotonic() - self.last >= self.seconds
        if process_count() > 1:
            if state.global_step % _STEPS_A_LOOK:
                return
            word = torch.tensor(int(due), device=args.device)
            dist.broadcast(word, src=0)
            due = bool(word)
        if due:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        self.last = time.monotonic()
