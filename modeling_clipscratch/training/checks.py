"""Fields of a recipe go in; one sentence on the first that cannot be meant, or would do nothing, comes out."""

import dataclasses

_AT_LEAST = {
    "text_hidden_size": 1, "text_num_layers": 1, "text_num_heads": 1, "vision_hidden_size": 1, "vision_num_layers": 1,
    "vision_num_heads": 1, "patch_size": 1, "image_size": 1, "max_length": 1, "projection_dim": 1,
    "random_shift": 0, "image_views": 1,
    "global_batch_size": 2,  # of one pair there is nothing to compare
    "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1,
}  # fmt: skip
# Of `TrainingArguments`, and what is to be done instead.
_IDLE = {
    "data_seed": "order and augmentation follow from seed; set that",
    "train_sampling_strategy": "rows come in a random order of their own; leave it out",
    "remove_unused_columns": "batches are made whole; leave it out",
    "bf16_full_eval": "evaluations compute as the training does; set precision",
    "fp16_full_eval": "evaluations compute as the training does; set precision",
    "eval_accumulation_steps": "evaluations keep embeddings only; leave it out",
    "prediction_loss_only": "evaluations measure no loss; leave it out",
    "include_for_metrics": "metrics are made of embeddings; leave it out",
}


def check_numbers(group) -> None:
    """Raises: ValueError if a number of a dataclass of fields is too small to be meant.

    >>> from types import SimpleNamespace
    >>> try:
    ...     check_numbers(SimpleNamespace(patch_size=0))
    ... except ValueError as error:
    ...     print(error)
    patch_size=0 is less than 1; choose 1 or more.
    """
    for name, least in _AT_LEAST.items():
        value = getattr(group, name, None)
        if value is not None and value < least:
            raise ValueError(f"{name}={value} is less than {least}; choose {least} or more.")


def check_switches(args) -> None:
    """Raises: ValueError if a switch of the training has no effect, or lacks what it needs."""
    fields = {field.name: field for field in dataclasses.fields(args)}
    for name, instead in _IDLE.items():
        if name in fields and getattr(args, name) != _default(fields[name]):
            raise ValueError(f"{name}={getattr(args, name)} has no effect here: {instead}.")
    if args.save_strategy == "best" and args.eval_strategy == "no":
        raise ValueError(
            "save_strategy=best saves after an evaluation, but eval_strategy=no; set it to epoch or steps, or "
            "save_strategy to epoch."
        )
    if args.lr_scheduler_type == "warmup_stable_decay" and "num_decay_steps" not in (args.lr_scheduler_kwargs or {}):
        raise ValueError(
            "lr_scheduler_type=warmup_stable_decay needs the steps of its end; give lr_scheduler_kwargs such as "
            "'{\"num_decay_steps\": 100}'."
        )
    if args.report_to:
        from transformers.integrations import get_available_reporting_integrations  # slow to import

        there = get_available_reporting_integrations()
        missing = next((service for service in args.report_to if service not in there), None)
        if missing:
            raise ValueError(
                f"report_to={missing} is not installed, or no service (installed: {', '.join(there) or 'none'}); "
                f"`pip install {missing}`, or leave report_to out."
            )


def _default(field):
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
