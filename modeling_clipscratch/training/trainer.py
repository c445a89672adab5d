"""A model and pair data sets go in; a trained model, its log and whole checkpoints come out."""

import math
import os
import shutil
from pathlib import Path

import torch
from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints

from ..data.augment import Augment
from ..data.batches import EpochSampler, PairDataset, as_they_are
from ..evaluation.evaluate_rows import Result, evaluate_embeddings, log_scale
from ..hub.losses_clipscratch import batch_statistics, contrastive_loss, group_targets
from .callbacks import BoundedTemperature, EpochOfSampler, Progress
from .embed import embed_pictures, text_encoder
from .gather import gather_rows
from .run_folder import saying_what_failed, sync_folder


class ClipScratchTrainer(Trainer):
    """transformers' `Trainer` with a contrastive loss over the batch of all processes.

    Args:
        model: a `ClipScratchModel`.
        args: `ClipScratchTrainingArguments`.
        train_dataset: `PairDataset`.
        eval_dataset: `PairDataset`; measured by zero-shot accuracy (class data) or retrieval (captions).
        processing_class: the model's processor, saved with every checkpoint.
        augment: what is done to training pictures, on the device.

    Raises: ValueError if the training data fill no whole batch, or accumulation is asked for.
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self, model, args, *, train_dataset, eval_dataset=None, processing_class=None, augment: Augment, **kwargs
    ):
        batch = args.per_device_train_batch_size * args.world_size
        if args.gradient_accumulation_steps > 1:
            raise ValueError(
                f"gradient_accumulation_steps={args.gradient_accumulation_steps} adds no negatives to a contrastive "
                "batch: it would average smaller losses; set per_device_train_batch_size to the batch you want "
                f"(now {batch} over all processes)."
            )
        if len(train_dataset) < batch:
            raise ValueError(
                f"{len(train_dataset)} training rows fill no batch of {batch}; set per_device_train_batch_size to at "
                f"most {len(train_dataset) // args.world_size}."
            )
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=as_they_are,
            **kwargs,
        )
        self.augment = augment
        self.pairs_per_step = batch
        self.sampler = EpochSampler(len(train_dataset), seed=args.seed)
        self._statistics, self._counted = {}, 0
        self._staging = None
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(EpochOfSampler(self.sampler))
        self.add_callback(BoundedTemperature())
        if not args.disable_tqdm:
            self.add_callback(Progress(batch))

    # The batch and its loss

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Loss over the pairs of all processes; see `gather_rows` for why its gradients are the global ones."""
        inputs = dict(inputs)
        group, samples, may_flip = (inputs.pop(name) for name in ("group", "sample", "may_flip"))
        if "images" in inputs:
            inputs["pixel_values"] = self.augment(inputs.pop("images"), samples, may_flip)
        outputs = model(**inputs)
        core = self.accelerator.unwrap_model(model)
        if self.args.world_size > 1:
            group = gather_rows(group)
            logits = core.logits(gather_rows(outputs.image_embeds), gather_rows(outputs.text_embeds))
        else:
            logits = outputs.logits_per_image
        loss = contrastive_loss(logits, loss=core.config.loss, group=group)
        if model.training:
            self._count(batch_statistics(logits.detach(), group_targets(group)), core)
        return (loss, outputs) if return_outputs else loss

    def _count(self, statistics, core):
        statistics["temperature"] = (-core.clamped_logit_scale()).exp().detach()
        for name, value in statistics.items():  # tensors: read only when a line is logged
            self._statistics[name] = self._statistics.get(name, 0) + value
        self._counted += 1

    def log(self, logs, start_time=None):
        if "loss" in logs and self._counted:
            logs.update({name: float(total) / self._counted for name, total in self._statistics.items()})
            logs["pictures_seen"] = self.state.global_step * self.pairs_per_step
            self._statistics, self._counted = {}, 0
        super().log(logs, start_time)

    # The optimizer

    def get_decay_parameter_names(self, model):
        """Matrices decay; norms, biases, tokens of their own, position tables and the temperature do not."""
        names = super().get_decay_parameter_names(model)
        shapes = dict(model.named_parameters())
        return [name for name in names if shapes[name].squeeze().dim() >= 2 and "position" not in name]

    def create_optimizer(self, model=None):
        if self.optimizer is not None or self.args.tower_learning_rate is None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        decaying = set(self.get_decay_parameter_names(model))
        groups = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                in_tower = name.removeprefix("module.").startswith(("text_model.", "vision_model."))
                groups.setdefault((in_tower, name in decaying), []).append(parameter)
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = kind(
            [
                {
                    "params": parameters,
                    "weight_decay": self.args.weight_decay if decays else 0.0,
                    "lr": self.args.tower_learning_rate if in_tower else self.args.learning_rate,
                }
                for (in_tower, decays), parameters in groups.items()
            ],
            **settings,
        )
        return self.optimizer

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Metrics from embeddings of the whole split, never from batches of logits."""
        result = self.measure(self.eval_dataset if eval_dataset is None else eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in result.metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def measure(self, pairs: PairDataset) -> Result:
        """Zero-shot (class data) or retrieval (captions); the pictures are shared among the processes."""
        model = self.accelerator.unwrap_model(self.model)
        batch_size = self.args.per_device_eval_batch_size
        with self.accelerator.autocast():
            shares = [range(len(pairs))[rank :: self.args.world_size] for rank in range(self.args.world_size)]
            longest = math.ceil(len(pairs) / self.args.world_size)
            mine = torch.tensor([*shares[self.args.process_index], 0][:longest])  # padded: gathered parts must be equal
            images = embed_pictures(model, pairs, mine, self.augment, batch_size)
            if self.args.world_size > 1:
                gathered = gather_rows(images.to(self.args.device)).cpu().split(longest)
                images = torch.empty(len(pairs), images.shape[1])
                for share, part in zip(shares, gathered, strict=True):
                    images[list(share)] = part[: len(share)]
            encode = text_encoder(model, self.processing_class.tokenizer, pairs, batch_size)
            return evaluate_embeddings(encode, images, pairs.rows, logit_scale=log_scale(model))

    # Checkpoints

    def _issue_warnings_after_load(self, load_result):
        """Weights that a checkpoint lacks would stay as they are, in silence; here that is an error."""
        odd = [*load_result.missing_keys, *load_result.unexpected_keys]
        if odd:
            raise ValueError(f"the checkpoint does not fit the model: {len(odd)} weights differ ({odd[0]}, ...).")

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model, trial):
        """Writes beside the others under another name and renames: a checkpoint is whole or not there."""
        run = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._staging = run / ".incomplete"
        try:
            with saying_what_failed(run):
                super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.state.best_global_step:
                self.state.best_model_checkpoint = str(run / f"checkpoint-{self.state.best_global_step}")
            if self.args.should_save:
                self.state.save_to_json(str(self._staging / name / "trainer_state.json"))
                (self._staging / name / "training_args.bin").unlink()  # a pickle that nothing here reads
                sync_folder(self._staging / name)
                if (run / name).exists():
                    shutil.rmtree(run / name)
                os.replace(self._staging / name, run / name)
                rotate_checkpoints(
                    output_dir=str(run),
                    save_total_limit=self.args.save_total_limit,
                    best_model_checkpoint=self.state.best_model_checkpoint,
                    use_mtime=True,
                )
        finally:
            staging, self._staging = self._staging, None
            if self.args.should_save:
                shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
