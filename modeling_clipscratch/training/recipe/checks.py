"""Check the fields of a recipe before any data are read, and fit a run to its data before anything is encoded."""

import dataclasses
import logging
import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, SchedulerType, Trainer, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from ...evaluation.metrics.outcomes import metric_names
from ...utils.errors import ClipScratchError

logger = logging.getLogger(__name__)

EPOCHS, STEPS = 20, 200  # least length of a run whose length is not given
_TOWER_RATE = 1e-4  # above it, pretrained weights are soon forgotten
_AT_LEAST = {
    "text_hidden_size": 1, "text_num_layers": 1, "text_num_heads": 1, "vision_hidden_size": 1, "vision_num_layers": 1,
    "vision_num_heads": 1, "patch_size": 1, "image_size": 1, "max_length": 1, "projection_dim": 1,
    "stream_shuffle_rows": 1, "random_shift": 0, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1, "max_steps": -1, "num_train_epochs": -1, "early_stopping_patience": 1,
    "text_lora_rank": 0, "vision_lora_rank": 0,
}  # fmt: skip
# With a value to suggest.
_ABOVE_ZERO = {"tower_learning_rate": 1e-5, "muon_learning_rate": 0.02, "memory_budget_gb": 4}
_IN_EVALUATION = "an evaluation computes metrics of the whole split from embeddings"
LAUNCH_FIELDS = ("fsdp", "fsdp_config", "deepspeed", "parallelism_config")  # TrainingArguments acts on them
# Fields of transformers and of its accelerator_config that have no effect here, or would change the loss or the
# order of the data, by the reason or what to do instead.
_REASONS = {
    "seed sets the order of the rows": (
        "data_seed", "train_sampling_strategy", "length_column_name", "use_seedable_sampler",
    ),
    "evaluation has the precision of the training; set precision": ("bf16_full_eval", "fp16_full_eval"),
    _IN_EVALUATION: (
        "prediction_loss_only", "include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches",
        "eval_use_gather_object", "eval_accumulation_steps",
    ),
    "test_split names the split to measure the finished run on": ("do_predict",),
    "the columns are named by image_column, caption_column and label_column": ("label_names",),
    "the loss is that of the whole global batch": ("average_tokens_across_devices",),
    "it makes the batch, and with it the loss, another one; set encode_chunk_size": ("auto_find_batch_size",),
    "it is not part of a contrastive loss": ("label_smoothing_factor",),
    "batches are made whole": ("remove_unused_columns",),
    "the log counts images, not tokens": ("include_num_input_tokens_seen",),
    "it is for language models": ("use_liger_kernel", "liger_kernel_config", "neftune_noise_alpha", "use_cache"),
    "it is for GaLore and APOLLO, which are not supported": ("optim_target_modules",),
    "a resumed run needs its batches in order": ("dataloader_in_order",),
    "global_batch_size is split among the processes": ("split_batches", "dispatch_batches"),
    "a last, smaller batch is left out": ("even_batches", "dataloader_drop_last"),
    "a batch is accumulated in chunks (encode_chunk_size)": ("gradient_accumulation_kwargs",),
    # transformers would push the run folder while the next checkpoint is written, with a pickle that holds the token.
    "the finished folder is pushed in one commit": ("hub_strategy", "hub_always_push"),
    "to shard the weights, run accelerate launch --config_file configuration/accelerate/gpu_8_fsdp.yaml": LAUNCH_FIELDS,
}  # fmt: skip
_NOT_SUPPORTED = {name: reason for reason, names in _REASONS.items() for name in names}
# Keys of activation_checkpointing_kwargs. `use_reentrant` is for false alone: frozen layers before trained ones would
# leave these without gradients.
_CHECKPOINTING = {"every_n_layers", "offload", "use_reentrant"}
_OPTIMIZERS = {
    "schedule_free": "measures and saves other weights than it trains; for an average of the weights set ema_decay",
    "galore": "ignores weight_decay and tower_learning_rate",
    "apollo": "ignores weight_decay and tower_learning_rate",
    "lomo": "steps within the backward pass, which runs in chunks",
    "adalomo": "steps within the backward pass, which runs in chunks",
}
# Parameters of transformers' Trainer that have no effect in ClipScratchTrainer.
_NOT_TAKEN = {
    "data_collator": "the trainer builds whole batches",
    "compute_loss_func": "the loss is that of the model's config (loss)",
    "compute_metrics": _IN_EVALUATION,
    "preprocess_logits_for_metrics": _IN_EVALUATION,
}
_NOT_LISTED_AS_INSTALLED = {"azure_ml", "flyte"}  # get_available_reporting_integrations leaves these out


def check_numbers(part) -> None:
    """Raise `ClipScratchError` if a number in a part of a recipe is out of range."""
    for item in dataclasses.fields(part):
        least, value = _AT_LEAST.get(item.name), getattr(part, item.name)
        if least is not None and value is not None and value < least:
            raise ClipScratchError(f"{item.name}={value} is less than {least}; choose {least} or more.")
        if item.name in _ABOVE_ZERO and value is not None and value <= 0:
            raise ClipScratchError(f"{item.name}={value} is not above 0; choose {_ABOVE_ZERO[item.name]}.")
        if item.name == "ema_decay" and value is not None and not 0 < value < 1:
            raise ClipScratchError(f"ema_decay={value} is not between 0 and 1; choose 0.999.")


def check_fields(owner, names=_NOT_SUPPORTED) -> None:
    """Raise `ClipScratchError` if a field of the arguments, or of the `AcceleratorConfig` in them, is not supported."""
    for item in dataclasses.fields(owner):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        value = getattr(owner, item.name, default)
        if item.name in names and value != default and (_is_set(value) or _is_set(default)):
            value = getattr(value, "value", value)  # of an enum
            raise ClipScratchError(f"{item.name}={value} is not supported: {_NOT_SUPPORTED[item.name]}; leave it out.")


def _is_set(value):
    # Older versions of transformers make [] of fsdp=None, and a dict without a true value of fsdp_config=None.
    return any(value.values()) if isinstance(value, dict) else value not in (None, [], "")


def check_parts(args) -> None:
    """Raise `ClipScratchError` for what would have no effect, or would fail only once the data are read."""
    check_fields(args)
    check_fields(args.accelerator_config)
    if "tpu_metrics_debug" in args.debug:
        raise ClipScratchError("debug=tpu_metrics_debug is not supported: TPUs are not; leave it out.")
    for name, value in (("save_strategy", "best"), ("early_stopping_patience", args.early_stopping_patience)):
        if value is not None and getattr(args, name) == value and args.eval_strategy == "no":
            raise ClipScratchError(
                f"{name}={value} would have no effect, since eval_strategy=no measures nothing; set eval_strategy to "
                "steps."
            )
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ClipScratchError(f"report_to={name} is not one of none, all, {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in {*get_available_reporting_integrations(), *_NOT_LISTED_AS_INSTALLED}:
            raise ClipScratchError(
                f"report_to={name}: its package is not installed; pip install {name}, or leave it out."
            )
    options = args.gradient_checkpointing_kwargs or {}
    if not isinstance(options, dict) or options.keys() - _CHECKPOINTING or options.get("use_reentrant"):
        raise ClipScratchError(
            f"activation_checkpointing_kwargs={options} has other keys than {', '.join(sorted(_CHECKPOINTING))} (which "
            "is false); it is written like '{\"every_n_layers\": 2}'."
        )
    _check_schedule(args, _check_optimizer(args))


def check_options(args, options: dict) -> None:
    """Raise `ClipScratchError` for parameters of `ClipScratchTrainer` that do not fit or would have no effect."""
    if not hasattr(args, "global_batch_size"):
        raise ClipScratchError(
            f"args is a {type(args).__name__}; give ClipScratchTrainingArguments, which take the same fields."
        )
    model = options.get("model")
    if model is not None and not (isinstance(model, PreTrainedModel) and model.config.model_type == "clipscratch"):
        raise ClipScratchError(
            f"model is a {type(model).__name__}; give a ClipScratchModel (from_towers returns it with its processor)."
        )
    processor = options.get("processing_class")
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise ClipScratchError(
            f"processing_class is {'missing' if processor is None else 'a ' + type(processor).__name__}; give the "
            "model's processor, which has a tokenizer and an image processor (from_towers and load_model return it)."
        )
    for name, reason in _NOT_TAKEN.items():
        if options.get(name) is not None:
            raise ClipScratchError(f"{name} is not supported: {reason}; leave it out.")
    own = {"optimizers": (options.get("optimizers") or [None])[0], **options}
    rates = [name for name in ("tower_learning_rate", "muon_learning_rate") if getattr(args, name)]
    optimizers = [name for name in ("optimizers", "optimizer_cls_and_kwargs") if own.get(name) is not None]
    if rates and optimizers:
        raise ClipScratchError(f"{rates[0]} would have no effect on the optimizer in {optimizers[0]}; leave one out.")
    if args.muon_learning_rate and not options["muon_matrices"]:
        raise ClipScratchError(
            f"muon_learning_rate={args.muon_learning_rate} would have no effect without muon_matrices, the names of "
            "the weights that it is for; give them, or leave it out."
        )


def _check_optimizer(args):
    """Build a tiny optimizer of the kind and settings that the run will have."""
    name = args.optim.value
    reason = next((reason for start, reason in _OPTIMIZERS.items() if name.startswith(start)), None)
    if reason is not None:
        raise ClipScratchError(f"optim={name} is not supported: it {reason}; choose adamw_torch_fused.")
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        optimizer = kind([torch.zeros(1, requires_grad=True, device=args.device)], **settings)
    except (ImportError, ValueError, TypeError, RuntimeError) as error:
        message = " ".join(str(error).split()).rstrip(".")
        if args.optim_args:
            message += f" (optim_args={args.optim_args}; they are written like momentum=0.9,nesterov=true)"
        remedy = "" if name == "adamw_torch_fused" else "; or choose adamw_torch_fused"
        raise ClipScratchError(f"optim={name} cannot be built: {message}{remedy}.") from error
    for entry in (args.optim_args or "").replace(" ", "").split(","):
        if entry and entry.partition("=")[0] not in settings:  # transformers ignores it
            raise ClipScratchError(f"optim_args={entry} would have no effect with optim={name}; leave it out.")
    if args.muon_learning_rate is not None and kind is not torch.optim.AdamW:
        raise ClipScratchError(
            f"optim={name} with muon_learning_rate={args.muon_learning_rate}: AdamW trains the weights that Muon does "
            "not; leave optim out, or muon_learning_rate."
        )
    return optimizer


def _check_schedule(args, optimizer):
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 100, args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        raise ClipScratchError(
            f"lr_scheduler_type={args.lr_scheduler_type.value} with lr_scheduler_kwargs={args.lr_scheduler_kwargs}: "
            f"{error}; correct lr_scheduler_kwargs, which are written like '{{\"num_decay_steps\": 100}}'."
        ) from error


def fit_to_rows(args, rows: int) -> None:
    """Fit batch and length of a run, in place, to the number of training rows.

    A global batch of more rows than there are becomes one of all rows. A run whose length is not given gets at least
    `EPOCHS` epochs and `STEPS` steps.
    """
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
        frozen, layers = getattr(model, f"freeze_{side}"), getattr(model, f"unfreeze_{side}_layers")
        if rate > _TOWER_RATE and model.is_pretrained(side) and (layers or not frozen):
            logger.warning(
                "the pretrained %s tower is trained at a learning rate of %g, which is for towers from scratch and "
                "destroys what it has learned; set tower_learning_rate to 1e-5.",
                side, rate,
            )  # fmt: skip


def settle_metric(args, measured: dict[str, Sequence[str] | None]) -> None:
    """Choose the metric of the best checkpoint if none is named, and its direction for schedules that follow it.

    Args:
        args: `ClipScratchTrainingArguments`, changed in place.
        measured: for each evaluation dataset its name ("" for a single one) and class names, `None` for caption data.
    """
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
        kind = "caption" if classes is None else "class"
        raise ClipScratchError(
            f"metric_for_best_model={args.metric_for_best_model} is not measured on this {kind} data; choose one of "
            f"{', '.join(names)}."
        )
