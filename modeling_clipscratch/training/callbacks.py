"""Callbacks of the trainer: what it counts, updates, saves and shows at each event of a run."""

import hashlib
import json
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers import trainer as trainer_module
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from .loss.gather import process_count

# A resumed run must have these fields in common with its checkpoint: transformers would take some of them from the
# checkpoint and silently ignore the new value.
_FIELDS_OF_A_STEP = (
    "global_batch_size", "learning_rate", "tower_learning_rate", "muon_learning_rate", "lr_scheduler_type", "optim",
    "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "ema_decay", "seed",
    "random_shift", "random_crop_min_area", "horizontal_flip", "random_erasing", "patch_dropout",
)  # fmt: skip
_OF_IMAGES = ("size", "crop_size", "resample", "image_mean", "image_std")  # of an image processor
_SHOWN = {"eval_top1", "eval_image_to_text_recall@5", "eval_text_to_image_recall@5"}  # in the progress bar


def set_callbacks(trainer) -> None:
    """Add the callbacks of a `ClipScratchTrainer`, which act in this order, and remove transformers' own bars."""
    args = trainer.args
    callbacks = [trainer.record, StepUpdates(trainer)]
    if args.enable_jit_checkpoint:
        callbacks.append(SaveOnSigterm())
    callbacks.append(SaveAfterEvaluation())
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
    if not args.disable_tqdm:
        callbacks.append(Progress())
    for callback in (PrinterCallback, ProgressCallback, trainer_module.DEFAULT_PROGRESS_CALLBACK):  # of a notebook too
        trainer.remove_callback(callback)
    for callback in callbacks:
        trainer.add_callback(callback)


class TrainingRecord(TrainerCallback, ExportableState):
    """Keep in `trainer_state.json` how many images the model was trained on, for how long, and with which settings."""

    def __init__(self):
        self.settings, self.images_seen, self.first_step, self._last_log = {}, 0, 0, time.monotonic()
        self.best_checkpoint = None  # replaces that of a resumed run, whose folder may have been moved

    def settle(self, model, processor, args, rows: str | None) -> None:
        """Take the settings of a run, or of a trial of a search; `rows` is the digest of the training rows."""
        images = {name: processor.image_processor.to_dict().get(name) for name in _OF_IMAGES}
        content = json.dumps([images, processor.tokenizer.get_vocab()], sort_keys=True, default=str)
        values = {"loss": model.config.loss, **{name: args.to_dict()[name] for name in _FIELDS_OF_A_STEP}}
        values |= {"processor": hashlib.sha256(content.encode()).hexdigest()[:16], "train_rows": rows}
        self.settings = {name: str(value) for name, value in values.items()}

    def state(self) -> dict:
        return {"args": {}, "attributes": {"settings": self.settings, "images_seen": self.images_seen}}

    @staticmethod
    def of(state: TrainerState) -> dict:
        return state.stateful_callbacks.get("TrainingRecord", {}).get("attributes", {})

    def on_train_begin(self, args, state, control, **kwargs):
        self._last_log, self.first_step = time.monotonic(), state.global_step
        self.images_seen = self.of(state).get("images_seen", 0) if state.global_step else 0
        if state.global_step:  # the Trainer takes all of these from the checkpoint
            state.best_model_checkpoint = self.best_checkpoint
            state.compute_steps(args, state.max_steps)
            state.stateful_callbacks.setdefault("EarlyStoppingCallback", {})  # it fails where the checkpoint lacks it

    def on_step_end(self, args, state, control, **kwargs):
        self.images_seen += args.global_batch_size

    def on_log(self, args, state, control, **kwargs):
        now = time.monotonic()
        before = state.log_history[-2].get("seconds", 0.0) if len(state.log_history) > 1 else 0.0
        state.log_history[-1]["seconds"] = before + now - self._last_log
        self._last_log = now


class StepUpdates(TrainerCallback):
    """Update what changes with an epoch or a step besides the weights: order of the rows, temperature, average."""

    def __init__(self, trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.start_ema()  # only now the weights are where they are trained

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer.sampler is not None:  # accelerate's own call is lost where a resumed run skips batches
            self.trainer.sampler.set_epoch(int(state.epoch or 0))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.clamp_logit_scale_()
        if self.trainer.ema is not None:
            self.trainer.ema.update(state.global_step)
        if self.trainer.stream is not None:  # its length is not known, so the log's epoch is the share of the run
            state.epoch = state.global_step / state.max_steps


class SaveAfterEvaluation(TrainerCallback):
    """Delay a checkpoint of an epoch's last step until the evaluation of that epoch is done.

    A run resumed from a checkpoint before the evaluation would skip it. `save_strategy: best` needs no delay.
    """

    def __init__(self):
        self.delayed = False

    def on_step_end(self, args, state, control, **kwargs):
        last = state.epoch is not None and float(state.epoch).is_integer() or state.global_step >= state.max_steps
        by_epoch = args.eval_strategy == IntervalStrategy.EPOCH and args.save_strategy != SaveStrategy.BEST
        if control.should_save and by_epoch and last:
            control.should_save, self.delayed = False, True

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.delayed:
            control.should_save, self.delayed = True, False


class SaveOnSigterm(TrainerCallback):
    """After SIGTERM, save a checkpoint at the end of the step and exit with status 143, as a shell reports it.

    transformers' own callback saves within a step, where a stream is ahead of the weights, into a folder that looks
    complete before it is, and at a different step in each process. The run is not finished, so nothing that follows the
    training is done.
    """

    def __init__(self):
        self.signalled = self.stops = False

    def on_train_begin(self, args, state, control, **kwargs):
        self.handler = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number, frame):
        self.signalled = True

    def on_step_end(self, args, state, control, **kwargs):
        self.stops = self.signalled
        if process_count() > 1:  # they must stop at the same step
            signalled = torch.tensor(int(self.signalled), device=args.device)
            dist.all_reduce(signalled, dist.ReduceOp.MAX)
            self.stops = bool(signalled)
        control.should_save |= self.stops

    on_evaluate = on_step_end  # the one after the last step may take minutes, and no step follows

    def on_save(self, args, state, control, **kwargs):
        if self.stops:
            raise SystemExit(128 + signal.SIGTERM)

    def on_train_end(self, args, state, control, **kwargs):
        signal.signal(signal.SIGTERM, self.handler)
        if self.signalled:
            signal.raise_signal(signal.SIGTERM)


def outlive_sigterm(worker):
    """Let a worker of the data loader end at the second SIGTERM: who signals a run signals its workers too.

    Their batches may still be needed for the step. The second one is that of the loader that shuts down.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, lambda *_: os._exit(0)))


class Progress(TrainerCallback):
    """Show a bar of the training: images, images/s, time left, last loss with its floor, last evaluation."""

    def __init__(self):
        self.bar, self.shown = None, {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps * args.global_batch_size,
                initial=state.global_step * args.global_batch_size,
                unit=" images",
                desc="training",
                dynamic_ncols=True,
                smoothing=0,  # the mean rate since the start: evaluations and checkpoints count too
                mininterval=1.0 if sys.stderr.isatty() else 30.0,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(args.global_batch_size)

    def on_log(self, args, state, control, logs, **kwargs):
        if self.bar is None:
            return
        if "loss" in logs:
            floor = f" (floor {logs['loss_floor']:.2f})" if "loss_floor" in logs else ""
            self.shown["loss"] = f"{logs['loss']:.2f}{floor}"
        self.shown |= {name.removeprefix("eval_"): f"{logs[name]:.1%}" for name in _SHOWN & logs.keys()}
        self.bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in self.shown.items()), refresh=False)

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None
