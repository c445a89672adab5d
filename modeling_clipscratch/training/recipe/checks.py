"""Fields of a recipe go in; one sentence comes out on the first that cannot be, that nothing here would read, or that
does not fit the data."""

import copy
import dataclasses
from collections.abc import Sequence

import torch
from accelerate.utils import DynamoBackend
from transformers import PreTrainedModel, SchedulerType, Trainer, get_scheduler
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from ...evaluation.metrics.outcomes import metric_names
from ...hub.errors_clipscratch import ClipScratchError

_AT_LEAST = {
    "text_hidden_size": 1, "text_num_layers": 1, "text_num_heads": 1, "vision_hidden_size": 1, "vision_num_layers": 1,
    "vision_num_heads": 1, "patch_size": 1, "image_size": 1, "max_length": 1, "projection_dim": 1,
    "stream_shuffle_rows": 1, "random_shift": 0, "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": -1, "num_train_epochs": 0,
    "early_stopping_patience": 1,
}  # fmt: skip
_IN_EVALUATION = "an evaluation makes metrics of the whole split from embeddings"
# Fields of transformers and of its accelerator_config that nothing here reads, or that would change what a run is
# held to: the reason, or what to do instead.
_NOT_READ = {
    "data_seed": "seed gives the order of the rows, too",
    "train_sampling_strategy": "the order of the rows is random, from seed",
    "length_column_name": "the order of the rows is random, from seed",
    "bf16_full_eval": "evaluation is in the precision of the training; set precision",
    "fp16_full_eval": "evaluation is in the precision of the training; set precision",
    "eval_accumulation_steps": "per_device_eval_batch_size says how much is encoded at once",
    "prediction_loss_only": f"{_IN_EVALUATION}; eval_strategy no does without",
    "include_for_metrics": _IN_EVALUATION,
    "batch_eval_metrics": _IN_EVALUATION,
    "eval_do_concat_batches": _IN_EVALUATION,
    "eval_use_gather_object": _IN_EVALUATION,
    "label_names": "the columns are named by image_column, caption_column and label_column",
    "average_tokens_across_devices": "the loss is that of the whole global batch",
    "include_num_input_tokens_seen": "the log counts images, not tokens",
    "use_liger_kernel": "its kernels are for language models",
    "liger_kernel_config": "its kernels are for language models",
    "neftune_noise_alpha": "its noise is for language models",
    "use_cache": "no tower generates text",
    "optim_target_modules": "it is for GaLore and APOLLO, which are not supported",
    # transformers would upload a run folder in which the next checkpoint is being written, without the model's code and
    # with a pickle of the arguments, the token among them.
    "hub_strategy": "the finished folder is pushed in one commit",
    "hub_always_push": "the finished folder is pushed in one commit",
    "dataloader_in_order": "a resumed run needs its batches in their order",
    "split_batches": "global_batch_size is shared among the processes",
    "dispatch_batches": "each process reads its own share of the batch",
    "even_batches": "a last, smaller batch is left out",
    "use_seedable_sampler": "seed gives the order of the rows",
    "gradient_accumulation_kwargs": "a batch is accumulated in chunks (encode_chunk_size)",
}
# Ways to share a model among processes that would fail late or shard it in a way that cannot be saved here.
_OF_THE_LAUNCH = ("fsdp", "fsdp_config", "deepspeed", "parallelism_config")
_OPTIMIZERS = {
    "schedule_free": "measures and saves other weights than it trains; for an average of the weights set ema_decay",
    "galore": "leaves weight_decay and tower_learning_rate out",
    "apollo": "leaves weight_decay and tower_learning_rate out",
    "lomo": "steps within the backward pass, which is made in chunks",
    "adalomo": "steps within the backward pass, which is made in chunks",
}
# Parameters of transformers' Trainer that ClipScratchTrainer does not read.
_NOT_TAKEN = {
    "data_collator": "the trainer makes whole batches",
    "compute_loss_func": "the loss is that of the model's config (loss)",
    "compute_metrics": "an evaluation gives zero-shot or retrieval metrics of the whole split",
    "preprocess_logits_for_metrics": "an evaluation gives zero-shot or retrieval metrics of the whole split",
}
_NOT_KNOWN_AS_INSTALLED = {"azure_ml", "flyte"}  # transformers lists them never, or not always


def check_numbers(part) -> None:
    """Raises: ClipScratchError if a number of a recipe's part is less than it can be."""
    for item in dataclasses.fields(part):
        least, value = _AT_LEAST.get(item.name), getattr(part, item.name)
        if least is not None and value is not None and value < least:
            raise ClipScratchError(f"{item.name}={value} is less than {least}; choose {least} or more.")


def check_before(args) -> None:
    """Refuses what transformers' own checks would act upon, or change.

    Args:
        args: `ClipScratchTrainingArguments`, before them.
    Raises: ClipScratchError.
    """
    for name in _OF_THE_LAUNCH:
        value = getattr(args, name, None)
        if value:
            raise ClipScratchError(
                f"{name}={value} is not supported; to shard the weights, run accelerate launch --config_file "
                "configuration/accelerate/gpu_8_fsdp.yaml, and leave it out."
            )
    if args.do_train is False:
        raise ClipScratchError(
            "do_train=False is not supported: run_train.py trains; to measure a model, use run_eval.py."
        )
    if args.do_eval is not None and args.do_eval != (args.eval_strategy != "no"):
        raise ClipScratchError(f"do_eval={args.do_eval} contradicts eval_strategy={args.eval_strategy}; set that only.")
    if args.do_predict is not None:
        raise ClipScratchError(
            f"do_predict={args.do_predict} is not supported: test_split says what the finished run is measured on "
            "('none' for validation); leave it out."
        )


def check_switches(args) -> None:
    """Refuses what would do nothing in silence, or end in a traceback once the data are read.

    Args:
        args: `ClipScratchTrainingArguments`, after transformers' own checks.
    Raises: ClipScratchError.
    """
    for owner in (args, args.accelerator_config):
        for name, value, default in _values(owner):
            if name in _NOT_READ and value != default:
                value = getattr(value, "value", value)  # of an enum
                raise ClipScratchError(f"{name}={value} is not supported: {_NOT_READ[name]}; leave it out.")
    if "tpu_metrics_debug" in args.debug:
        raise ClipScratchError("debug=tpu_metrics_debug is not supported: there is no training on TPUs; leave it out.")
    if args.save_strategy == "best" and args.eval_strategy == "no":
        raise ClipScratchError(
            "save_strategy=best would save nothing, since eval_strategy=no finds no best; set save_strategy to steps."
        )
    if args.early_stopping_patience is not None and args.eval_strategy == "no":
        raise ClipScratchError(
            f"early_stopping_patience={args.early_stopping_patience} would do nothing, since eval_strategy=no measures "
            "nothing; set eval_strategy to epoch, or leave it out."
        )
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ClipScratchError(f"report_to={name} is not one of none, all, {', '.join(INTEGRATION_TO_CALLBACK)}.")
        if name not in {*get_available_reporting_integrations(), *_NOT_KNOWN_AS_INSTALLED}:
            raise ClipScratchError(
                f"report_to={name}: its package is not installed; pip install {name}, or leave it out."
            )
    _check_compilation(args)
    _check_schedule(args, _check_optimizer(args))


def check_options(args, options: dict) -> None:
    """Refuses what `ClipScratchTrainer` cannot work with, or would take and not read.

    Args:
        args: `ClipScratchTrainingArguments`.
        options: parameters of the trainer by their names.
    Raises: ClipScratchError.
    """
    if not hasattr(args, "global_batch_size"):
        raise ClipScratchError(
            f"args is a {type(args).__name__}; give ClipScratchTrainingArguments, which take all of its fields and the "
            "global batch."
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
    for name, instead in _NOT_TAKEN.items():
        if options.get(name) is not None:
            raise ClipScratchError(f"{name} is not supported: {instead}; leave it out.")
    own = {"optimizers": (options.get("optimizers") or [None])[0], **options}
    rates = [name for name in ("tower_learning_rate", "muon_learning_rate") if getattr(args, name)]
    taken = [name for name in ("optimizers", "optimizer_cls_and_kwargs") if own.get(name) is not None]
    if rates and taken:
        raise ClipScratchError(f"{rates[0]} would do nothing with an optimizer given as {taken[0]}; leave one out.")
    if args.muon_learning_rate and not options["muon_matrices"]:
        raise ClipScratchError(
            f"muon_learning_rate={args.muon_learning_rate} would do nothing without muon_matrices, the names of the "
            "weights that it is for; give them, or leave it out."
        )


def _values(owner):
    """Name, value and default of a dataclass's fields."""
    for item in dataclasses.fields(owner):
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        yield item.name, getattr(owner, item.name, default), default


def _check_compilation(args):
    """Compiles one addition: which backends work depends on compilers and packages of the machine."""
    if not args.torch_compile:
        return
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    known = [item.value.lower() for item in DynamoBackend if item.value != "NO"]
    if backend not in known:
        raise ClipScratchError(f"torch_compile_backend={backend} is not one of {', '.join(known)}.")
    try:
        torch.compile(torch.add, backend=backend, mode=mode)(torch.ones(1, device=args.device), 1)
    except Exception as error:  # each backend has errors of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClipScratchError(
            f"torch_compile_backend={backend} with torch_compile_mode={mode} does not work here ({reason}); choose "
            "another, or leave torch_compile out."
        ) from error
    finally:
        torch.compiler.reset()


def _check_optimizer(args):
    """A tiny optimizer of the kind and settings that the run will have."""
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
        raise ClipScratchError(f"optim={name} cannot be made: {message}{remedy}.") from error
    defaults = {name: default for name, _, default in _values(args)}
    changed = [
        field for field in ("adam_beta1", "adam_beta2", "adam_epsilon") if getattr(args, field) != defaults[field]
    ]
    entries = (args.optim_args or "").replace(" ", "").split(",")
    less = {f"{field}={getattr(args, field)}": {field: defaults[field]} for field in changed}
    less |= {f"optim_args={entry}": {"optim_args": ",".join({*entries} - {entry})} for entry in entries if entry}
    for switch, without in less.items():
        other = copy.copy(args)
        vars(other).update(without)
        if Trainer.get_optimizer_cls_and_kwargs(other)[1] == settings:
            raise ClipScratchError(f"{switch} would do nothing with optim={name}; leave it out.")
    if args.muon_learning_rate is not None and kind is not torch.optim.AdamW:
        raise ClipScratchError(
            f"optim={name} with muon_learning_rate={args.muon_learning_rate}: AdamW trains what Muon leaves; leave "
            "optim out, or muon_learning_rate."
        )
    return optimizer


def _check_schedule(args, optimizer):
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 100, args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        raise ClipScratchError(
            f"lr_scheduler_type={args.lr_scheduler_type.value} with lr_scheduler_kwargs={args.lr_scheduler_kwargs}: "
            f"{error}; mend lr_scheduler_kwargs, which are written like '{{\"num_decay_steps\": 100}}'."
        ) from error


def settle_metric(args, measured: dict[str, Sequence[str] | None]) -> None:
    """Choose the metric of the best checkpoint, where none is named, and tell those schedules that look at it which
    way is better.

    Args:
        args: `ClipScratchTrainingArguments`, changed in place.
        measured: of each evaluation dataset its name ("" of a single one) and class names, `None` of caption data.
    Raises: ClipScratchError if the metric that is named is not measured on such data.
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
