"""A model and pair data sets go in; a trained model, its log and whole checkpoints come out."""

import contextlib
import hashlib
import logging
from pathlib import Path

from accelerate.utils import send_to_device
from transformers import Trainer, set_seed
from transformers.trainer_utils import PredictionOutput, TrainOutput

from ..data.augment import Augment, Views
from ..data.batches import EpochSampler, PairDataset, as_they_are
from ..data.streamed_batches import StreamedPairs
from ..evaluation.evaluate_rows import Result, evaluate_embeddings, log_scale
from ..evaluation.own_code import check_code, forget_code
from ..model_files import CODE
from .average import WeightAverage
from .callbacks import TrainingRecord, set_callbacks
from .checkpoints import check_fits, final_weights, find_checkpoint, finished_state, save_whole, usable
from .checks import check_options
from .divergence import DivergedError, LossWatch, check_weights
from .embed import embed_split, text_encoder
from .global_batch import check_rows, choose_chunk, describe_batch
from .optimizer import build_optimizer, parameter_groups
from .push import open_for_pushes
from .run_folder import lock_run_folder
from .sharding import check_sharding, has_unused_parameters, open_methods, own_class
from .step_means import StepMeans
from .stream_state import StreamStates
from .streamed_loss import GlobalLoss

logger = logging.getLogger(__name__)


class ClipScratchTrainer(Trainer):
    """transformers' `Trainer` with a contrastive loss over the batch of all processes.

    Args:
        model: a `ClipScratchModel`.
        args: `ClipScratchTrainingArguments`.
        train_dataset: `PairDataset`, or `StreamedPairs`.
        eval_dataset: `PairDataset`; measured by zero-shot accuracy (class data) or retrieval (captions).
        processing_class: the model's processor, saved with every checkpoint.
        augment: what is done to training pictures, on the device.
        muon_matrices: names of the weights that take `args.muon_learning_rate`.

    Raises: ValueError if the training data fill no whole batch.

    >>> from modeling_clipscratch.data import CaptionTable, Preprocess, TokenTable, load_rows
    >>> from modeling_clipscratch.evaluation import load_model
    >>> from modeling_clipscratch.training import ClipScratchTrainingArguments
    >>> rows, (model, processor) = load_rows("digits", "validation"), load_model("runs/digits")
    >>> read, captions = Preprocess(processor.image_processor), CaptionTable(rows)
    >>> tokens = TokenTable(captions.texts, processor.tokenizer, max_length=64)
    >>> pairs = PairDataset(rows, captions, seed=0, preprocess=read, tokens=tokens)
    >>> args = ClipScratchTrainingArguments("runs/own", max_steps=1, global_batch_size=64, eval_strategy="no")
    >>> trainer = ClipScratchTrainer(model, args, train_dataset=pairs, augment=Augment(mean=read.mean, std=read.std))
    >>> trainer.train().global_step
    1
    """

    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model,
        args,
        *,
        train_dataset,
        eval_dataset=None,
        processing_class=None,
        augment: Augment,
        muon_matrices: set[str] = frozenset(),
        **kwargs,
    ):
        check_options(args, kwargs)
        self.stream = StreamStates(train_dataset) if isinstance(train_dataset, StreamedPairs) else None
        if self.stream is None:
            check_rows(len(train_dataset), args)
        if processing_class is not None:
            forget_code(processing_class)
        super().__init__(
            model,
            args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=as_they_are,
            **kwargs,
        )
        self.augment, self.muon_matrices = augment, muon_matrices
        self.pairs_per_step, self.average = args.global_batch_size, None
        self.sampler = None if self.stream else EpochSampler(len(train_dataset), seed=args.seed)
        self._statistics, self.staging, self._losses = StepMeans(), None, LossWatch()
        self.recipe = None  # text of recipe.yaml, kept with each checkpoint
        self.record = TrainingRecord.of(self.model, args, None if self.stream else train_dataset.digest())
        self.chunk_size = self._measure_chunk()
        check_sharding(self)
        if args.world_size > 1 and args.ddp_find_unused_parameters is None and not self.is_fsdp_enabled:
            self.accelerator.ddp_handler.find_unused_parameters = has_unused_parameters(model, self._largest_rows(2))
        set_callbacks(self)

    # The batch and its loss

    def _get_train_sampler(self, train_dataset=None):
        return self.sampler

    def get_train_dataloader(self):
        return super().get_train_dataloader() if self.stream is None else self.stream.loader(self.args)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """A step's draws (dropout) follow from (seed, step, process), so a resumed run needs no generator's past."""
        if self.stream is not None:
            self.stream.take(inputs)  # then as accelerate's loaders do it
            inputs = send_to_device(inputs, self.args.device, self.args.accelerator_config.non_blocking)
        if "error" in inputs:
            raise ValueError(inputs["error"])
        name = f"{self.args.seed} {self.state.global_step} {self.args.process_index}"
        set_seed(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()))
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._losses.add(loss)
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """This process's share of the global loss (`GlobalLoss`), times the processes: DDP takes the mean."""
        inputs = dict(inputs)
        group, samples, may_flip = (inputs.pop(name) for name in ("group", "sample", "may_flip"))
        mixture = None
        if "images" in inputs:
            views = Views(images=inputs.pop("images"), samples=samples, may_flip=may_flip, augment=self.augment)
            inputs["pixel_values"], mixture = views[:] if self.chunk_size is None else views, views.mixture
        outputs = model(**inputs, return_logits=False, encode_chunk_size=self.chunk_size)
        core = self.accelerator.unwrap_model(model)
        given = (outputs.image_embeds, outputs.text_embeds, outputs.logit_scale, outputs.logit_bias)
        share, statistics = GlobalLoss(loss=core.config.loss)(*given, group=group, mixture=mixture)
        if model.training:
            self._statistics.add({**statistics, "temperature": (-outputs.logit_scale.detach()).exp()})
        loss = share * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def _measure_chunk(self) -> int | None:
        """Rows of this process that are encoded at once, `None` for all; asked of the model before it is wrapped."""
        self.model.train()  # what evaluation does not keep: dropped units, checkpointed layers
        if self.args.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        with self.accelerator.autocast():  # as accelerate wraps the model's forward pass later
            chunk = choose_chunk(self.args, self.model, self._largest_rows)
        logger.info(describe_batch(self.args, chunk))
        return chunk

    def _largest_rows(self, count):
        inputs = self._prepare_inputs(self.train_dataset.largest_batch(count))
        group, samples, may_flip = (inputs.pop(name) for name in ("group", "sample", "may_flip"))
        if "images" in inputs:
            inputs["pixel_values"] = self.augment(inputs.pop("images"), samples, may_flip)
        return inputs

    def log(self, logs, start_time=None):
        if "loss" in logs and (means := self._statistics.take()):
            self._check_losses()
            logs.update(means, pictures_seen=self.record.images_seen)
        super().log(logs, start_time)

    def check_finite(self) -> None:
        """Raise DivergedError if a loss since the last check, or a trained weight, is NaN or infinite."""
        self._check_losses()
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        averages = [] if self.average is None else list(self.average.averages.values())
        with self._saying_how_to_go_on():
            check_weights([*weights, *averages], self.state.global_step)

    def _check_losses(self):
        with self._saying_how_to_go_on():
            self._losses.check(self.state.global_step)

    @contextlib.contextmanager
    def _saying_how_to_go_on(self):
        try:
            yield
        except DivergedError as error:
            raise DivergedError(
                f"{error}: training diverged and was stopped before anything of it was saved; checkpoints of earlier "
                f"steps are whole. Train again with a lower learning_rate (it is {self.args.learning_rate:g})."
            ) from error

    # The optimizer

    def get_decay_parameter_names(self, model):
        """Matrices decay; norms, biases, tokens of their own, position tables and the temperature do not."""
        names = super().get_decay_parameter_names(model)
        shapes = dict(model.named_parameters())
        # Names of parameters that a tower leaves empty (`None`) are among them.
        return [n for n in names if n in shapes and shapes[n].squeeze().dim() >= 2 and "position" not in n]

    def create_optimizer(self, model=None):
        if self.optimizer is None and (self.args.tower_learning_rate or self.args.muon_learning_rate):
            model = self.model if model is None else model
            groups = parameter_groups(model, self.get_decay_parameter_names(model), self.args, self.muon_matrices)
            self.optimizer = build_optimizer(groups, *self.get_optimizer_cls_and_kwargs(self.args, model), self.args)
        return super().create_optimizer(model)  # leaves one that is there as it is

    # The average of the weights

    def train(self, resume_from_checkpoint=None, **kwargs):
        """Train as `Trainer.train` does; with `ema_decay` the model ends with the averaged weights.

        Args:
            resume_from_checkpoint: path of a checkpoint; `True` or `auto` for the last whole one in `output_dir`.
            kwargs: as `Trainer.train` takes them.
        Returns: `TrainOutput`, also where the checkpoint has made all steps already.
        Raises: ValueError if the checkpoint is damaged or of another run, `output_dir` is in use by another run, or a
            loss or weight is no longer finite.
        """
        with lock_run_folder(self.args.output_dir, writes=self.args.should_save):
            checkpoint = find_checkpoint(self.args.output_dir, resume_from_checkpoint)
            if checkpoint is not None:
                check_fits(checkpoint, self)
            return self.train_from(checkpoint, **kwargs)

    def train_from(self, checkpoint: str | None, **kwargs) -> TrainOutput:
        """Train from a checkpoint that `find_checkpoint` and `check_fits` have passed, or from the first step."""
        state = finished_state(self, checkpoint)
        if state is not None:
            self.state = state
            weights = final_weights(checkpoint, self.args, state)
            self._issue_warnings_after_load(self.model.load_state_dict(weights, strict=False))
            losses = [line["loss"] for line in state.log_history if "loss" in line]
            return TrainOutput(state.global_step, sum(losses) / max(len(losses), 1), {})
        self._losses = LossWatch()
        output = super().train(checkpoint, **kwargs)
        self.check_finite()
        if self.average is not None:
            self.average.swap()
            self.average = None
        return output

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        model = self.accelerator.unwrap_model(self.model)
        open_methods(model)
        if self.args.ema_decay is not None:  # only now the weights are where they will be trained
            self.average = WeightAverage(model, self.args.ema_decay)
            if resume_from_checkpoint is not None:
                self.average.load(resume_from_checkpoint)
        return prepared

    def _load_best_model(self):
        self.state.best_model_checkpoint = usable(self.state.best_model_checkpoint)
        if self.state.best_model_checkpoint is None:
            return
        super()._load_best_model()
        if self.average is not None:
            self.average.load(self.state.best_model_checkpoint)

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Metrics from embeddings of the whole split, never from batches of logits.

        Args:
            eval_dataset: a split, {name: split}, or the name of one of the trainer's. Default: what the trainer has.
            ignore_keys: of transformers' Trainer, which gathers outputs; not supported.
            metric_key_prefix: of the metrics' names.
        """
        if self.is_in_train:
            self.check_finite()
        if isinstance(eval_dataset, str):
            eval_dataset = self.eval_dataset[eval_dataset]
        eval_dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, dict):
            prefixes = {name: f"{metric_key_prefix}_{name}" for name in eval_dataset}
            parts = [self.evaluate(eval_dataset[name], ignore_keys, prefix) for name, prefix in prefixes.items()]
            return {name: value for part in parts for name, value in part.items()}
        _, metrics = self._measure_as(metric_key_prefix, eval_dataset, ignore_keys)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, test_dataset, ignore_keys=None, metric_key_prefix="test") -> PredictionOutput:
        """The metrics of a split, with the embeddings that they are made from.

        Args: as those of `evaluate`.
        Returns: `predictions` are the embeddings of the images (N, P) and of the classes (C, P) or captions (M, P);
            `label_ids` (N,) the classes, `None` of caption data.
        """
        result, metrics = self._measure_as(metric_key_prefix, test_dataset, ignore_keys)
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        embeddings = (result.image_embeds.numpy(), result.text_embeds.numpy())
        return PredictionOutput(predictions=embeddings, label_ids=result.rows.labels, metrics=metrics)

    def _measure_as(self, prefix, pairs, ignore_keys):
        if ignore_keys:
            raise ValueError(f"ignore_keys={ignore_keys} is not supported: no outputs are gathered; leave it out.")
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            result = self.measure(pairs)
        return result, {f"{prefix}_{name}": value for name, value in result.metrics.items()}

    def measure(self, pairs: PairDataset) -> Result:
        """Zero-shot (class data) or retrieval (captions); the pictures are shared among the processes."""
        model = self.accelerator.unwrap_model(self.model)
        batch_size = self.args.per_device_eval_batch_size
        with self.accelerator.autocast():
            images = embed_split(model, pairs, self.augment, batch_size)
            encode = text_encoder(model, self.processing_class.tokenizer, pairs, batch_size)
            return evaluate_embeddings(encode, images, pairs.rows, logit_scale=log_scale(model))

    # Checkpoints

    def _determine_best_metric(self, metrics, trial):
        # Of equals the later one is kept: a small validation split is soon at 100 %, the model still learns.
        if metrics.get("eval_" + str(self.args.metric_for_best_model).removeprefix("eval_")) == self.state.best_metric:
            self.state.best_metric = None
        return super()._determine_best_metric(metrics, trial)

    def _issue_warnings_after_load(self, load_result):
        """Weights that a checkpoint lacks would stay as they are, in silence; here that is an error."""
        odd = [*load_result.missing_keys, *load_result.unexpected_keys]
        if odd:
            raise ValueError(f"the checkpoint does not fit the model: {len(odd)} weights differ ({odd[0]}, ...).")

    def _get_output_dir(self, trial):
        return super()._get_output_dir(trial) if self.staging is None else str(self.staging)

    def _save(self, output_dir=None, state_dict=None):
        with own_class(self.accelerator.unwrap_model(self.model)):
            super()._save(output_dir, state_dict)
        # A pickle that nothing here reads, with the token of hub_token in it.
        Path(output_dir or self.args.output_dir, "training_args.bin").unlink(missing_ok=True)

    def _save_checkpoint(self, model, trial):
        write = super()._save_checkpoint
        save_whole(self, lambda: write(model, trial))

    # The Hub

    def init_hf_repo(self, token=None, private=None):
        if self.is_world_process_zero():
            self.hub_model_id, self.push_in_progress = open_for_pushes(self.args, token=token, private=private), None

    def push_to_hub(self, *args, **kwargs):
        """The Trainer's, which uploads the whole run folder. Raises ValueError if there is other code in it."""
        check_code(self.args.output_dir)
        foreign = [path for path in Path(self.args.output_dir).glob("*.py") if not path.name.endswith(CODE)]
        if foreign:
            raise ValueError(f"{foreign[0]} is not ClipScratch's code, and would be pushed; move it to another folder.")
        return super().push_to_hub(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder):
        """Nothing: `PushCheckpoints` does it once the checkpoint has its name."""
