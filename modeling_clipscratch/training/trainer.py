"""Train a CLIP with transformers' `Trainer` and a contrastive loss over the batch of all processes."""

import contextlib
import copy
import hashlib
import logging
import math
from collections import Counter
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import datasets
import torch
from accelerate.utils import broadcast_object_list, send_to_device
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader
from transformers import Trainer, set_seed
from transformers.trainer_utils import IntervalStrategy, PredictionOutput, TrainOutput

from ..data.batches.map_batches import EpochSampler, PairDataset
from ..data.columns import DEFAULT_OPTIONS, DataOptions
from ..data.dataset import class_names, labels_of
from ..data.images.augment import Views
from ..data.images.preprocess import Preprocess
from ..data.templates import DEFAULT_TEMPLATES
from ..evaluation.evaluate_dataset import Result, evaluate_embeddings, log_scale
from ..evaluation.metrics.intervals import confidence_intervals
from ..hub.processor_clipscratch import forget_code
from ..hub.towers_clipscratch import is_fixed
from ..utils.errors import ClipScratchError
from .callbacks import TrainingRecord, outlive_sigterm, set_callbacks
from .features.embed import embed_split, text_encoder
from .features.pairs import build_augment, check_stream, map_pairs, prepare, read_stream, stream_pairs
from .loss.gather import all_rows, own_rows, process_count
from .loss.global_batch import choose_chunk, enable_checkpointing, settle_global_batch
from .loss.positives import connected_groups
from .loss.tiled_loss import global_loss, loss_floor
from .optimization.device import choose_attention, set_attention
from .optimization.ema import ModelEma
from .optimization.optimizer import build_optimizer, parameter_groups
from .recipe.arguments import ClipScratchTrainingArguments
from .recipe.checks import check_options, fit_to_rows, settle_metric
from .saving.checkpoints import check_fits, continue_from, find_checkpoint, save_checkpoint, save_split
from .saving.run_folder import lock_run_folder
from .saving.stream_state import StreamStates
from .towers.drop import add_patch_dropout

logger = logging.getLogger(__name__)

# Private parts of transformers' Trainer, read in 5.9 and 5.23: `_save_checkpoint` is overridden, since no event comes
# before a checkpoint is written or before older ones are deleted; `_get_output_dir` names the folder of a trial.


class ClipScratchTrainer(Trainer):
    """Train a CLIP with transformers' `Trainer` and a contrastive loss over the batch of all processes.

    Images that fit into memory are decoded once, features of frozen towers are cached, augmentation and the choice of
    a caption follow from (seed, epoch, key), and a resumed run ends with the same bits as an uninterrupted one.

    Args:
        model: a `ClipScratchModel`; or `model_init`, a function that makes one, as `Trainer` takes it.
        args: `ClipScratchTrainingArguments`.
        train_dataset: `datasets.Dataset` or `IterableDataset` with an image column and a label or captions.
        eval_dataset: the same, or {name: dataset}; measured by zero-shot accuracy (labels) or retrieval (captions).
        processing_class: the model's processor, saved with every checkpoint.
        templates: prompts of class data, `{}` stands for the class. Default: "a photo of a {}.".
        options: `DataOptions`, where the names of the columns are ambiguous.
        muon_matrices: names of the weights that are trained with `args.muon_learning_rate`.
        kwargs: as `Trainer` takes them.

    Raises:
        ClipScratchError: If the data or an option do not fit.

    >>> from modeling_clipscratch import ClipScratchTrainingArguments, load_data, load_model
    >>> data, (model, processor) = load_data("digits"), load_model("runs/digits")
    >>> args = ClipScratchTrainingArguments("runs/own", max_steps=1, global_batch_size=64, disable_tqdm=True)
    >>> trainer = ClipScratchTrainer(
    ...     model, args, train_dataset=data["train"], eval_dataset=data["validation"], processing_class=processor,
    ...     templates=data.templates,
    ... )
    >>> trainer.train().global_step
    1
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model=None,
        args: ClipScratchTrainingArguments | None = None,
        *,
        train_dataset: datasets.Dataset | datasets.IterableDataset | None = None,
        eval_dataset=None,
        processing_class=None,
        templates=None,
        options: DataOptions | None = None,
        muon_matrices: set[str] = frozenset(),
        **kwargs,
    ):
        args = ClipScratchTrainingArguments() if args is None else args
        check_options(args, model, processing_class, muon_matrices, kwargs)
        args = copy.copy(args)  # some follow from the data, and the caller may use them for other data
        self.options = replace(options or DEFAULT_OPTIONS, on_bad_row=args.on_bad_row)
        self.templates, self.muon_matrices = templates, muon_matrices
        self.train_rows = self.stream = self.sampler = self._class_names = None
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        with args.main_process_first(desc="preparing the data"):  # the others find what it cached
            if train_dataset is not None:
                self.train_rows = prepare(train_dataset, self.options, "train_dataset")
            self._eval_rows = {name: self._rows_of(one) for name, one in self._eval_datasets.items()}
        if isinstance(train_dataset, datasets.IterableDataset):
            check_stream(args)
            self._class_names = self.train_rows.class_names
        elif train_dataset is not None:
            fit_to_rows(args, len(self.train_rows))
            self._class_names = class_names(self.train_rows)
            self.sampler = EpochSampler(len(self.train_rows), seed=args.seed)
        forget_code(processing_class)
        measured = {name: class_names(rows) for name, rows in self._eval_rows.items()}
        if train_dataset is None:  # nothing is measured between two steps
            args.eval_strategy, args.load_best_model_at_end = IntervalStrategy.NO, False
        elif not measured:
            measured[""] = self._class_names
        if measured:
            settle_metric(args, measured)
        saves_on_sigterm, args.enable_jit_checkpoint = args.enable_jit_checkpoint, False  # by `SaveOnSigterm` instead
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=dict,  # batches are whole already
            **kwargs,
        )
        args.enable_jit_checkpoint = saves_on_sigterm
        self.ema, self._checkpoint, self.record = None, None, TrainingRecord()
        self._statistics = Counter()  # sums since the last log line, on the device, so that no step waits for it
        self._batch = args.global_batch_size
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ClipScratchError("weights are not sharded here; launch with configuration/accelerate/gpu_8.yaml.")
        self._settle()
        set_callbacks(self)

    def _settle(self):
        """Make what depends on the model and the arguments; each trial of a search has its own."""
        args, model = self.args, self.model
        self._settled, self.train_pairs = model, None
        self.frozen_file = None  # weights of frozen towers in the last checkpoint
        streamed = isinstance(self.train_dataset, datasets.IterableDataset)
        for tower in (model.text_model, model.vision_model):
            # Features of a cache are computed once, in full precision.
            precision = "fp32" if args.cache_features and not streamed and is_fixed(tower) else args.precision
            set_attention(tower, choose_attention(args.attention, precision=precision, use_cpu=args.use_cpu))
        preprocess = Preprocess(self.processing_class.image_processor)
        add_patch_dropout(model, args.patch_dropout, preprocess.image_size)
        model.to(args.device)
        self.augment = build_augment(args, preprocess, model, streamed=streamed)
        pairs = [self._eval_pairs(rows, once=False) for rows in self._eval_rows.values()]
        self._measured = list(zip(self._eval_datasets.values(), pairs, strict=True))
        if self.train_rows is None:
            return
        if args.global_batch_size != args.per_device_train_batch_size * args.world_size:  # a trial changed one of them
            other = "per_device_train" if args.global_batch_size != self._batch else "global"
            setattr(args, f"{other}_batch_size", None)
            settle_global_batch(args)
            if not streamed:
                fit_to_rows(args, len(self.train_rows))
        model.config.class_names = self._class_names  # what the model is tried with by default
        model.config.templates = self._class_names and list(self.templates or DEFAULT_TEMPLATES)
        parts = (self.train_rows, model, self.processing_class)
        if streamed:
            self.train_pairs = stream_pairs(*parts, args, templates=self.templates)
            self.stream = StreamStates(self.train_pairs)
        else:
            self.train_pairs = map_pairs(*parts, self.augment, args, templates=self.templates, training=True)
            if len(self.train_pairs) < len(self.train_rows):  # broken images were left out
                fit_to_rows(args, len(self.train_pairs))
            self.sampler.count, self.sampler.seed = len(self.train_pairs), args.seed
        self._batch = args.global_batch_size
        digest = None if streamed else self.train_pairs.digest()
        self.record.settle(model, self.processing_class, args, digest)
        self.chunk_size = self._measure_chunk()
        if args.world_size > 1 and args.ddp_find_unused_parameters is None:
            self.accelerator.ddp_handler.find_unused_parameters = True  # DINOv2's mask token, also with checkpointing

    @property
    def _eval_datasets(self) -> dict:
        if isinstance(self.eval_dataset, dict):
            return self.eval_dataset
        return {} if self.eval_dataset is None else {"": self.eval_dataset}

    def _rows_of(self, dataset) -> datasets.Dataset:
        if isinstance(dataset, datasets.IterableDataset):
            return read_stream(dataset, self.options)
        return prepare(dataset, self.options, "eval_dataset", train=self.train_dataset)

    def _eval_pairs(self, rows, *, once) -> PairDataset:
        parts = (rows, self.model, self.processing_class, self.augment, self.args)
        return map_pairs(*parts, templates=self.templates, training=False, once=once)

    # The batch and its loss

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of this process; `ClipScratchError` without `train_dataset`."""
        if self.train_rows is None:
            raise ClipScratchError("train_dataset is missing; give the Trainer a datasets.Dataset to train on.")
        if self.model is not self._settled:  # a trial of a search has another model
            self._settle()
        args = self.args
        reading = {
            "num_workers": args.dataloader_num_workers,
            "prefetch_factor": args.dataloader_prefetch_factor,
            "pin_memory": args.dataloader_pin_memory,
            # transformers 5.9 has no such field.
            "multiprocessing_context": getattr(args, "dataloader_multiprocessing_context", None),
            "worker_init_fn": outlive_sigterm if args.enable_jit_checkpoint else None,
        }
        if self.stream is not None:  # each process reads its own batches: accelerate has nothing to split
            return DataLoader(self.stream.begin(), batch_size=None, **reading)
        reading |= {"persistent_workers": args.dataloader_persistent_workers, "drop_last": True}
        batches = {"batch_size": args.per_device_train_batch_size, "sampler": self.sampler, "collate_fn": dict}
        return self.accelerator.prepare(DataLoader(self.train_pairs, **batches, **reading))

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Train on a batch; random draws follow from (seed, step, process), so that a resumed run repeats them."""
        if self.stream is not None:
            self.stream.take(inputs)
            inputs = send_to_device(inputs, self.args.device, self.args.accelerator_config.non_blocking)
        if "error" in inputs:
            raise ClipScratchError(inputs["error"])
        name = f"{self.args.seed} {self.state.global_step} {self.args.process_index}"
        set_seed(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()))
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return this process's share of the global loss, times the number of processes, since DDP takes the mean."""
        inputs = dict(inputs)
        links, samples, may_flip = (inputs.pop(name) for name in ("links", "sample", "may_flip"))
        if "images" in inputs:
            views = Views(images=inputs.pop("images"), samples=samples, may_flip=may_flip, augment=self.augment)
            inputs["pixel_values"] = views[:] if self.chunk_size is None else views
        outputs = model(**inputs, return_logits=False, encode_chunk_size=self.chunk_size)
        kind = self.accelerator.unwrap_model(model).config.loss
        embeddings = (outputs.image_embeds, outputs.text_embeds, outputs.logit_scale, outputs.logit_bias)
        group = self._groups(links)
        share, statistics = global_loss(*embeddings, loss=kind, group=group)
        if model.training:
            if kind == "softmax":
                statistics["loss_floor"] = loss_floor(all_rows(group))
            self._statistics.update({**statistics, "temperature": (-outputs.logit_scale.detach()).exp(), "steps": 1})
        loss = share * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def _groups(self, links):
        """(b,) of this process's rows, equal where they are positives in the global batch."""
        if self.stream is not None and links.shape[1] > 1 and process_count() > 1:  # waits, to agree on the width
            links = self.accelerator.pad_across_processes(links, dim=1, pad_index=-1)
            links = torch.where(links == -1, links[:, :1], links)
        return links[:, 0] if links.shape[1] == 1 else own_rows(connected_groups(all_rows(links)))

    def _measure_chunk(self) -> int | None:
        """Return how many rows this process encodes at once, `None` for all; measured before the model is wrapped."""
        self.model.train()  # what evaluation does not keep: dropped units, checkpointed layers
        if self.args.gradient_checkpointing:
            enable_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with self.accelerator.autocast():  # as accelerate wraps the model's forward pass later
            chunk = choose_chunk(self.args, self.model, self._largest_rows)
        rows = self.args.per_device_train_batch_size
        logger.info(
            "global batch of %s pairs = %d x %s, encoded %s at a time",
            f"{self.args.global_batch_size:,}", self.args.world_size, f"{rows:,}", f"{chunk or rows:,}",
        )  # fmt: skip
        return chunk

    def _largest_rows(self, count):
        inputs = send_to_device(self.train_pairs.largest_batch(count), self.args.device)
        _, samples, may_flip = (inputs.pop(name) for name in ("links", "sample", "may_flip"))
        if "images" in inputs:
            inputs["pixel_values"] = self.augment(inputs.pop("images"), samples, may_flip)
        return inputs

    def log(self, logs, start_time=None):
        """Log the means of the steps' statistics beside the loss."""
        if "loss" in logs and (steps := self._statistics.pop("steps", 0)):
            self._check_finite(logs["loss"])
            means = {name: float(total) / steps for name, total in self._statistics.items()}
            self._statistics.clear()
            logs.update(means, images_seen=self.record.images_seen)
        super().log(logs, start_time)

    def _check_finite(self, loss: float | None = None) -> None:
        """Raise `ClipScratchError` if a logged loss, or without one a trained weight, is NaN or infinite."""
        what, value = "loss is", loss
        if loss is None:
            weights = [weight for weight in self.model.parameters() if weight.requires_grad]
            weights += [] if self.ema is None else self.ema.weights.values()
            what, value = "weights are", get_total_norm([weight.detach() for weight in weights], math.inf)
        if not math.isfinite(value):
            raise ClipScratchError(
                f"the {what} not finite at step {self.state.global_step}: training diverged and was stopped before "
                "anything of it was saved; checkpoints of earlier steps are whole. Train again with a lower "
                f"learning_rate (it is {self.args.learning_rate:g})."
            )

    # The optimizer

    def get_decay_parameter_names(self, model):
        """Return the names of matrices; norms, biases, special tokens, positions and the temperature do not decay."""
        names = super().get_decay_parameter_names(model)
        shapes = dict(model.named_parameters())
        # Names of parameters that a tower leaves empty (`None`) are among them.
        return [n for n in names if n in shapes and shapes[n].squeeze().dim() >= 2 and "position" not in n]

    def create_optimizer(self, model=None):
        """Create the optimizer, with learning rates of their own for towers and Muon's matrices."""
        if self.optimizer is None and (self.args.tower_learning_rate or self.args.muon_learning_rate):
            model = self.model if model is None else model
            groups = parameter_groups(model, self.get_decay_parameter_names(model), self.args, self.muon_matrices)
            self.optimizer = build_optimizer(groups, *self.get_optimizer_cls_and_kwargs(self.args, model), self.args)
        return super().create_optimizer(model)  # leaves one that is there as it is

    def start_ema(self) -> None:
        """Start the average of the weights, or resume it from the checkpoint that `train_from` was given."""
        if self.args.ema_decay is not None:
            self.ema = ModelEma(self.accelerator.unwrap_model(self.model), self.args.ema_decay)
            if self._checkpoint is not None:
                self.ema.load(self._checkpoint)

    def hyperparameter_search(self, hp_space=None, compute_objective=None, n_trials=20, direction=None, **kwargs):
        """Search as the Trainer does, by default for the best `metric_for_best_model`; `global_batch_size` can vary."""
        if compute_objective is None:
            direction = direction or ("maximize" if self.args.greater_is_better else "minimize")
            compute_objective = itemgetter(self._best_metric_name)
        return super().hyperparameter_search(hp_space, compute_objective, n_trials, direction or "minimize", **kwargs)

    @property
    def _best_metric_name(self):
        return "eval_" + str(self.args.metric_for_best_model).removeprefix("eval_")

    # Training

    def train(self, resume_from_checkpoint=None, trial=None, **kwargs):
        """Train as `Trainer.train` does; with `ema_decay` the model ends with the averaged weights.

        `resume_from_checkpoint` is a path, or `True` or `auto` for the last whole checkpoint in `output_dir`. Where it
        has made all steps already, none is made. `ClipScratchError` is raised if the checkpoint is damaged or of
        another run, `output_dir` is in use by another run, or a loss or weight is no longer finite.
        """
        with lock_run_folder(self.args.output_dir, writes=self.args.should_save):
            checkpoint = find_checkpoint(self.args.output_dir, resume_from_checkpoint)
            if checkpoint is not None:
                check_fits(checkpoint, self)
            return self.train_from(checkpoint, trial=trial, **kwargs)

    def train_from(self, checkpoint: str | None, **kwargs) -> TrainOutput:
        """Train from a checkpoint that `find_checkpoint` and `check_fits` have passed, or from the first step."""
        self._checkpoint = checkpoint
        if self.stream is not None and checkpoint is None:
            self.stream.restart()
        output = super().train(checkpoint, **kwargs)
        self._check_finite()
        if self.ema is not None:
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
                self.ema.load(self.state.best_model_checkpoint)
            self.ema.swap()
            self.ema = None
        return output

    def set_initial_training_values(self, args, dataloader):
        """As the Trainer, but leave no epoch where the checkpoint has made all steps: it would make one more."""
        epochs, *others = super().set_initial_training_values(args, dataloader)
        finished = self._checkpoint is not None and continue_from(self._checkpoint, self, others[-1])
        return 0 if finished else epochs, *others

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Compute the metrics of a whole split from its embeddings, outside of training with 95 % intervals (`_ci95`).

        `eval_dataset` is a dataset, {name: dataset}, or a name of the trainer's; `ignore_keys` has no effect.
        """
        if self.is_in_train:
            self._check_finite()
        if isinstance(eval_dataset, str):
            eval_dataset = self._eval_datasets[eval_dataset]
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is None:
            raise ClipScratchError("eval_dataset is missing; give one to the Trainer or to evaluate().")
        if isinstance(eval_dataset, dict):
            prefixes = {name: f"{metric_key_prefix}_{name}" for name in eval_dataset}
            parts = [self.evaluate(eval_dataset[name], ignore_keys, prefix) for name, prefix in prefixes.items()]
            return {name: value for part in parts for name, value in part.items()}
        _, metrics = self.measure_as(f"{metric_key_prefix}_", eval_dataset)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        is_scheduled = self.is_in_train and self.state.global_step > self.record.first_step
        if is_scheduled and metrics.get(self._best_metric_name) == self.state.best_metric:
            # Of equal checkpoints the last is the best: a small validation split soon reaches 100 %, and the model
            # still learns. The Trainer takes any metric for better than none.
            self.state.best_metric = None
        return metrics

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test") -> PredictionOutput:
        """Compute the metrics of a split as `evaluate`, and return the embeddings too.

        `predictions` are those of the images (N, P) and of the classes (C, P) or captions (M, P); `label_ids` (N,) are
        the classes, `None` of caption data.
        """
        result, metrics = self.measure_as(f"{metric_key_prefix}_", test_dataset)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        embeddings = (result.image_embeds.numpy(), result.text_embeds.numpy())
        return PredictionOutput(predictions=embeddings, label_ids=labels_of(result.dataset), metrics=metrics)

    def measure_as(self, prefix: str, dataset) -> tuple[Result, dict]:
        """Measure a dataset, with the average of the weights if there is one; outside of training also intervals."""
        with contextlib.nullcontext() if self.ema is None else self.ema.in_place():
            result = self.measure(dataset)
        metrics = result.metrics
        if not self.is_in_train:  # one process computes the intervals for all
            part = [confidence_intervals(result.outcomes) if self.args.process_index == 0 else None]
            metrics = {**metrics, **broadcast_object_list(part)[0]}
        return result, {f"{prefix}{name}": value for name, value in metrics.items()}

    def measure(self, dataset) -> Result:
        """Compute zero-shot accuracy (labels) or retrieval (captions) of a dataset; the processes share the work."""
        model = self.accelerator.unwrap_model(self.model)
        own = [pairs for one, pairs in self._measured if one is dataset]
        pairs = own[0] if own else self._eval_pairs(self._rows_of(dataset), once=True)
        batch_size = self.args.per_device_eval_batch_size
        progress = not (self.args.disable_tqdm or self.is_in_train)  # the training has a bar of its own
        # Outside of training in full precision, as `evaluate_dataset`: both report the same digits.
        with self.accelerator.autocast() if self.is_in_train else contextlib.nullcontext():
            images = embed_split(model, pairs, self.augment, batch_size, progress=progress)
            encode = text_encoder(model, self.processing_class.tokenizer, pairs, batch_size)
            return evaluate_embeddings(encode, images, pairs.dataset, self.templates, logit_scale=log_scale(model))

    # Saving

    def save_model(self, output_dir=None, _internal_call=False):
        """Save the model with its code and processor; no `training_args.bin`, a pickle that could hold a token."""
        folder, model = Path(output_dir or self.args.output_dir), self.accelerator.unwrap_model(self.model)
        if self.args.should_save:
            if _internal_call and output_dir is not None:  # a checkpoint
                save_split(model, folder, link=self.frozen_file)
            else:
                model.save_pretrained(folder)
            self.processing_class.save_pretrained(folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save")

    def _save_checkpoint(self, model, trial):
        self._check_finite()
        write = super()._save_checkpoint
        save_checkpoint(self, lambda: write(model, trial), trial)
