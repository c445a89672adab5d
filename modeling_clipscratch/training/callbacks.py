"""Trainer events go in; a quiet progress bar, the sampler's epoch and a bounded temperature come out."""

import sys

from tqdm.auto import tqdm
from transformers import TrainerCallback


class Progress(TrainerCallback):
    """One bar a run: steps, pictures a second, time left, last loss and last evaluation."""

    def __init__(self, pairs_per_step: int):
        self.pairs_per_step = pairs_per_step
        self.bar = None
        self.shown = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps * self.pairs_per_step,
                initial=state.global_step * self.pairs_per_step,
                unit=" pictures",
                desc="training",
                dynamic_ncols=True,
                mininterval=1.0 if sys.stderr.isatty() else 30.0,
            )

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(self.pairs_per_step)

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


class BoundedTemperature(TrainerCallback):
    """Keeps the learned temperature's parameter inside its limit after each optimizer step."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.clamp_logit_scale_()
