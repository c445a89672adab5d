"""Fields of a recipe go in; one sentence comes out on the first that cannot be, that nothing here would read, or that
does not fit the data."""

import dataclasses
from collections.abc import Sequence

import torch
from transformers import SchedulerType, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from ..evaluation.outcomes import metric_names

_AT_LEAST = {
    "text_hidden_size": 1, "text_num_layers": 1, "text_num_heads": 1, "vision_hidden_size": 1, "vision_num_layers": 1,
    "vision_num_heads": 1, "patch_size": 1, "image_size": 1, "max_length": 1, "projection_dim": 1,
    "stream_shuffle_rows": 1, "image_views": 1, "random_shift": 0, "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": -1, "num_train_epochs": 0,
}  # fmt: skip
# Fields of transformers that nothing here reads: default, and what to do instead.
_NOT_READ = {
    "data_seed": (None, "seed gives the order of the rows, too"),
    "train_sampling_strategy": ("random", "the order of the rows is random, from seed"),
    "bf16_full_eval": (False, "evaluation is in the precision of the training; set precision"),
    "fp16_full_eval": (False, "evaluation is in the precision of the training; set precision"),
    "eval_accumulation_steps": (None, "per_device_eval_batch_size says how much is encoded at once"),
    "prediction_loss_only": (False, "an evaluation gives metrics of the whole split; eval_strategy no does without"),
    "include_for_metrics": ([], "metrics are made of embeddings only"),
}
_NOT_KNOWN_AS_INSTALLED = {"azure_ml", "flyte"}  # transformers lists them never, or not always


def check_numbers(part) -> None:
    """Raises: ValueError if a number of a recipe's part is less than it can be."""
    for item in dataclasses.fields(part):
        least, value = _AT_LEAST.get(item.name), getattr(part, item.name)
        if least is not None and value is not None and value < least:
            raise ValueError(f"{item.name}={value} is less than {least}; choose {least} or more.")


def check_switches(args) -> None:
    """Refuses what would do nothing in silence, or end in a traceback once the data are read.

    Args:
        args: `ClipScratchTrainingArguments`, after transformers' own checks.
    Raises: ValueError.
    """
    for name, (default, instead) in _NOT_READ.items():
        value = getattr(args, name, default)
        if value != default:
            raise ValueError(f"{name}={value} would do nothing: {instead}; leave it out.")
    if args.save_strategy == "best" and args.eval_strategy == "no":
        raise ValueError(
            "save_strategy=best would save nothing, since eval_strategy=no finds no best; set save_strategy to steps."
        )
    if str(args.optim.value).startswith("schedule_free"):
        raise ValueError(
            f"optim={args.optim.value} measures and saves other weights than it trains, which is not done here; choose "
            "adamw_torch_fused, with ema_decay for an average."
        )
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(f"report_to={name} is not one of none, all, {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in {*get_available_reporting_integrations(), *_NOT_KNOWN_AS_INSTALLED}:
            raise ValueError(f"report_to={name}: its package is not installed; pip install {name}, or leave it out.")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 100, args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"lr_scheduler_type={args.lr_scheduler_type.value} with lr_scheduler_kwargs={args.lr_scheduler_kwargs}: "
            f"{error}; mend lr_scheduler_kwargs, which are written like '{{\"num_decay_steps\": 100}}'."
        ) from error


def settle_metric(args, kind: str, class_names: Sequence[str] | None) -> None:
    """Chooses the metric of the best checkpoint, where none is named, and tells those schedules that look at it which
    way is better.

    Args:
        args: `ClipScratchTrainingArguments`, changed in place.
        kind: `class` or `caption`, of the data.
        class_names: of class data.
    Raises: ValueError if the metric that is named is not measured on such data.
    """
    if args.metric_for_best_model is None:
        args.metric_for_best_model = "top1" if kind == "class" else "text_to_image_recall@5"
        args.greater_is_better = True
    if args.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):  # they take it for a loss
        mode = "max" if args.greater_is_better else "min"
        args.lr_scheduler_kwargs = {"mode": mode, **(args.lr_scheduler_kwargs or {})}
    names = metric_names(len(class_names) if kind == "class" else None)
    if args.metric_for_best_model.removeprefix("eval_") not in names:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model} is not measured on this {kind} data; choose one of "
            f"{', '.join(names)}."
        )
