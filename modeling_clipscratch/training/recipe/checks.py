"""Check the fields of a recipe before any data are read, and fit a run to its data before anything is encoded."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import torch
from transformers import CONFIG_MAPPING, PreTrainedModel, SchedulerType, Trainer, get_scheduler
from transformers.integrations.integration_utils import get_available_reporting_integrations

from ...evaluation.metrics.outcomes import metric_names
from ...utils.errors import ClipScratchError

logger = logging.getLogger(__name__)

EPOCHS, STEPS = 20, 200  # least length of a run whose length is not given
_TOWER_RATE = 1e-4  # above it, pretrained weights are soon forgotten
_ABOVE_ZERO = (
    "text_hidden_size", "text_num_layers", "text_num_heads", "vision_hidden_size", "vision_num_layers",
    "vision_num_heads", "patch_size", "image_size", "max_length", "projection_dim", "stream_shuffle_rows",
    "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
    "early_stopping_patience", "tower_learning_rate", "muon_learning_rate", "ema_decay", "memory_budget_gb",
)  # fmt: skip
_NOT_BELOW_ZERO = ("text_lora_rank", "vision_lora_rank", "random_shift")
# Fields of transformers that would change the loss, the order of the data or what is published, or that have no effect.
_REASONS = {
    "each process holds all weights": ("fsdp", "deepspeed", "parallelism_config"),
    "seed sets the order of the rows": ("data_seed", "train_sampling_strategy"),
    "evaluation has the precision of the training": ("bf16_full_eval", "fp16_full_eval"),
    "such checkpoints could not be resumed": ("save_only_model",),
    "the finished folder is pushed in one commit": ("hub_strategy", "hub_always_push"),
    "encode_chunk_size=auto fits the memory and keeps the batch": ("auto_find_batch_size",),
    "it is no part of a contrastive loss": ("label_smoothing_factor",),
    "the columns are named by image_column, caption_column and label_column": ("label_names",),
}  # fmt: skip
_NOT_SUPPORTED = {name: reason for reason, names in _REASONS.items() for name in names}
# Keys of activation_checkpointing_kwargs. `use_reentrant` is for false alone: frozen layers before trained ones would
# leave these without gradients.
_CHECKPOINTING = {"every_n_layers", "offload", "use_reentrant"}
# They measure other weights than they train, ignore weight_decay, or step within a backward pass that runs in chunks.
_OPTIMIZERS = ("schedule_free", "galore", "apollo", "lomo", "adalomo")
# Parameters of transformers' Trainer that have no effect in ClipScratchTrainer.
_NOT_TAKEN = ("data_collator", "compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics")


def check_fields(part) -> None:
    """Raise `ClipScratchError` if a field of a part of a recipe is out of range, or not supported."""
    for item in dataclasses.fields(part):
        name, value = item.name, getattr(part, item.name, None)
        if name in _ABOVE_ZERO and value is not None and value <= 0:
            raise ClipScratchError(f"{name}={value} is not above 0; choose a greater number, or leave it out.")
        if name in _NOT_BELOW_ZERO and value < 0:
            raise ClipScratchError(f"{name}={value} is less than 0; choose 0 or more.")
        if name in _NOT_SUPPORTED and value and value != item.default:
            raise ClipScratchError(f"{name}={value} is not supported: {_NOT_SUPPORTED[name]}; leave it out.")


def check_parts(args) -> None:
    """Raise `ClipScratchError` for what would fail only once the data are read."""
    missing = set(args.report_to) - set(get_available_reporting_integrations())
    if missing:
        name = min(missing)
        raise ClipScratchError(f"report_to={name}: its package is not installed; pip install {name}, or leave it out.")
    if args.ema_decay is not None and args.ema_decay >= 1:
        raise ClipScratchError(f"ema_decay={args.ema_decay} is not between 0 and 1; choose 0.999.")
    options = args.gradient_checkpointing_kwargs or {}
    if not isinstance(options, dict) or options.keys() - _CHECKPOINTING or options.get("use_reentrant"):
        raise ClipScratchError(
            f"activation_checkpointing_kwargs={options} has other keys than {', '.join(sorted(_CHECKPOINTING))} (which "
            "is false); it is written like '{\"every_n_layers\": 2}'."
        )
    name, schedule = args.optim.value, args.lr_scheduler_type.value
    if name.startswith(_OPTIMIZERS):
        raise ClipScratchError(f"optim={name} is not supported; choose adamw_torch_fused.")
    try:  # tiny ones of the kind and settings that the run will have
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([torch.zeros(1, requires_grad=True, device=args.device)], **settings)
        get_scheduler(schedule, optimizer, 1, 100, args.lr_scheduler_kwargs)
    except (ImportError, ValueError, TypeError, RuntimeError) as error:
        raise ClipScratchError(
            f"optim={name} with optim_args={args.optim_args}, or lr_scheduler_type={schedule} with lr_scheduler_kwargs="
            f"{args.lr_scheduler_kwargs}, cannot be made: {' '.join(str(error).split())} They are written like "
            "momentum=0.9,nesterov=true and '{\"num_decay_steps\": 100}'."
        ) from error
    if args.muon_learning_rate is not None and kind is not torch.optim.AdamW:
        raise ClipScratchError(
            f"optim={name} with muon_learning_rate={args.muon_learning_rate}: AdamW trains the weights that Muon does "
            "not; leave optim out, or muon_learning_rate."
        )


def check_options(args, model, processor, muon_matrices, options: dict) -> None:
    """Raise `ClipScratchError` for parameters of `ClipScratchTrainer` that do not fit or would have no effect."""
    if not hasattr(args, "global_batch_size"):
        raise ClipScratchError(
            f"args is a {type(args).__name__}; give ClipScratchTrainingArguments, which take the same fields."
        )
    if model is not None and not (isinstance(model, PreTrainedModel) and model.config.model_type == "clipscratch"):
        raise ClipScratchError(
            f"model is a {type(model).__name__}; give a ClipScratchModel (from_towers returns it with its processor)."
        )
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise ClipScratchError(
            f"processing_class is {'missing' if processor is None else 'a ' + type(processor).__name__}; give the "
            "model's processor, which has a tokenizer and an image processor (from_towers and load_model return it)."
        )
    for name in _NOT_TAKEN:
        if options.get(name) is not None:
            raise ClipScratchError(f"{name} is not supported: batches, loss and metrics are our own; leave it out.")
    if args.muon_learning_rate and not muon_matrices:
        raise ClipScratchError(
            f"muon_learning_rate={args.muon_learning_rate} would have no effect without muon_matrices, the names of "
            "the weights that it is for; give them, or leave it out."
        )


def fit_to_rows(args, rows: int) -> None:
    """Fit batch and length of a run, in place, to the number of training rows."""
    if rows < max(2, args.world_size):
        raise ClipScratchError(
            f"{rows} training rows are too few for a contrastive loss on {args.world_size} processes; give more rows."
        )
    if rows < args.global_batch_size:
        args.per_device_train_batch_size = rows // args.world_size
        batch = args.per_device_train_batch_size * args.world_size
        logger.warning(
            "global_batch_size=%d is more than the %d training rows: the batch is %d.",
            args.global_batch_size, rows, batch,
        )  # fmt: skip
        args.global_batch_size = batch
    if args.num_train_epochs < 0:
        args.num_train_epochs = max(EPOCHS, math.ceil(STEPS / (rows // args.global_batch_size)))


def warn_of_tower_rates(model, args) -> None:
    """Warn if pretrained towers of `ModelArguments` are trained at a learning rate for towers from scratch."""
    rate = args.tower_learning_rate or args.learning_rate
    for side in ("text", "vision"):
        trained = getattr(model, f"unfreeze_{side}_layers") or not getattr(model, f"freeze_{side}")
        if rate > _TOWER_RATE and trained and getattr(model, f"{side}_tower") not in CONFIG_MAPPING:
            logger.warning(
                "the pretrained %s tower is trained at a learning rate of %g, which is for towers from scratch and "
                "destroys what it has learned; set tower_learning_rate to 1e-5.",
                side, rate,
            )  # fmt: skip


def settle_metric(args, measured: dict[str, Sequence[str] | None]) -> None:
    """Choose the metric of the best checkpoint and its direction; `measured` has class names, `None` for captions."""
    names = [
        f"{name}_{metric}" if name else metric
        for name, classes in measured.items()
        for metric in metric_names(None if classes is None else len(classes))
    ]
    (first, classes), *_ = measured.items()
    if args.metric_for_best_model is None:
        best = "text_to_image_recall@5" if classes is None else "top1"
        args.metric_for_best_model = f"{first}_{best}" if first else best
        args.greater_is_better = True
    if args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):  # they take it for a loss
        mode = "max" if args.greater_is_better else "min"
        args.lr_scheduler_kwargs = {"mode": mode, **(args.lr_scheduler_kwargs or {})}
    if args.metric_for_best_model.removeprefix("eval_") not in names:
        raise ClipScratchError(
            f"metric_for_best_model={args.metric_for_best_model} is not measured on this data; choose one of "
            f"{', '.join(names)}."
        )
