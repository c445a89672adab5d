"""Check that fields which are out of range, or would have no effect, are refused in one sentence each."""

import dataclasses
import inspect
import logging

import pytest
from transformers import SchedulerType, Trainer, TrainingArguments
from transformers.integrations import integration_utils
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import OptimizerNames

from modeling_clipscratch.training.recipe import checks
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments, ModelArguments, recipe_fields
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.utils.errors import ClipScratchError


@pytest.mark.parametrize("name", sorted(checks._AT_LEAST))
def test_number_below_the_least_is_refused_and_the_least_is_not(name):
    assert name in recipe_fields()
    least = checks._AT_LEAST[name]
    with pytest.raises(
        ClipScratchError, match=f"^{name}={least - 1}(.0)? is less than {least}; choose {least} or more.$"
    ):
        parse_recipe([f"--{name}={least - 1}"])
    parse_recipe([f"--{name}={least}", "--global_batch_size", "2"])


# Every field of transformers' TrainingArguments: what it does with ours is known, or it raises.
WORKS = {
    "output_dir", "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "gradient_accumulation_steps", "max_grad_norm", "bf16", "fp16", "tf32",
    "activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing",
    "gradient_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "torch_empty_cache_steps", "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node",
    "logging_nan_inf_filter", "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project",
    "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay",
    "per_device_eval_batch_size", "eval_on_start", "save_only_model", "save_strategy", "save_steps",
    "save_on_each_node", "save_total_limit", "enable_jit_checkpoint", "push_to_hub", "hub_token",
    "hub_private_repo", "hub_model_id", "hub_revision", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "ignore_data_skip", "restore_callback_states_from_checkpoint",
    "full_determinism", "seed", "use_cpu", "accelerator_config", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
    "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
    "ddp_timeout", "debug", "skip_memory_metrics", "resume_from_checkpoint", "local_rank", "logging_dir",
    "warmup_ratio", "do_train", "do_eval",
}  # fmt: skip
REFUSED = {
    "data_seed": 0, "train_sampling_strategy": "sequential", "length_column_name": "rows", "bf16_full_eval": True,
    "fp16_full_eval": True, "eval_accumulation_steps": 2, "prediction_loss_only": True, "include_for_metrics": ["loss"],
    "batch_eval_metrics": True, "eval_do_concat_batches": False, "eval_use_gather_object": True,
    "label_names": ["label"], "average_tokens_across_devices": False, "include_num_input_tokens_seen": "all",
    "use_liger_kernel": True, "liger_kernel_config": {"rope": True}, "neftune_noise_alpha": 5.0, "use_cache": True,
    "optim_target_modules": "all-linear", "dataloader_in_order": False, "fsdp": "full_shard", "deepspeed": "zero.json",
    "fsdp_config": {"version": 2}, "parallelism_config": {"tp_size": 2}, "do_predict": True,
    "hub_strategy": "every_save", "hub_always_push": True, "auto_find_batch_size": True,
    "label_smoothing_factor": 0.1, "dataloader_drop_last": False, "remove_unused_columns": True,
}  # fmt: skip


def test_every_field_of_transformers_is_known_to_work_or_refused():
    fields = {item.name for item in dataclasses.fields(TrainingArguments)}
    assert fields <= WORKS | REFUSED.keys() and not WORKS & REFUSED.keys()


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_field_that_would_do_nothing_or_another_thing_is_refused(name):
    if name not in recipe_fields():
        pytest.skip("this transformers has no such field")
    with pytest.raises(ClipScratchError, match=name):
        ClipScratchTrainingArguments(**{name: REFUSED[name]})


OF_ACCELERATOR = {
    "split_batches": True, "dispatch_batches": True, "even_batches": False, "use_seedable_sampler": False,
    "gradient_accumulation_kwargs": {"sync_each_batch": True},
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(OF_ACCELERATOR))
def test_option_of_the_accelerator_that_would_do_nothing_is_refused(name):
    with pytest.raises(ClipScratchError, match=f"^{name}=.* is not supported: "):
        ClipScratchTrainingArguments(accelerator_config={name: OF_ACCELERATOR[name]})
    others = {item.name for item in dataclasses.fields(AcceleratorConfig)} - OF_ACCELERATOR.keys()
    assert others == {"non_blocking", "use_configured_state"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"save_strategy": "best", "eval_strategy": "no"}, "save_strategy=best would have no effect, since eval_stra"),
        ({"early_stopping_patience": 3, "eval_strategy": "no"}, "early_stopping_patience=3 would have no effect"),
        ({"report_to": "tensorbord"}, "report_to=tensorbord is not one of none, all, .*tensorboard"),
        ({"debug": "tpu_metrics_debug"}, "debug=tpu_metrics_debug is not supported"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 is not between 0 and 1; choose 0.999"),
        ({"tower_learning_rate": 0.0}, "tower_learning_rate=0.0 is not above 0; choose 1e-05"),
        ({"optim": "sgd", "optim_args": "momentum=0.9,nestrov=true"}, "optim_args=nestrov=true would have no effect"),
        ({"optim_args": "momentum"}, "optim=adamw_torch_fused cannot be built: .* written like momentum=0.9,nesterov"),
        ({"learning_rate": -1.0}, "optim=adamw_torch_fused cannot be built: Invalid learning rate: -1.0"),
        ({"optim": "sgd", "muon_learning_rate": 0.01}, "optim=sgd with muon_learning_rate=0.01: AdamW trains the"),
        (
            {"lr_scheduler_type": "warmup_stable_decay"},
            "^lr_scheduler_type=warmup_stable_decay .*num_decay_steps.*correct",
        ),
        (
            {"lr_scheduler_type": "cosine_with_min_lr"},
            "^lr_scheduler_type=cosine_with_min_lr .*; correct lr_scheduler_k",
        ),
        (
            {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"min_lr": 0.1}},
            "min_lr.*; correct lr_scheduler_kwargs",
        ),
        ({"lr_scheduler_kwargs": "num_cycles=2"}, "mapping.*; correct lr_scheduler_kwargs, which are written like"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_data_are_read(options, sentence):
    with pytest.raises(ClipScratchError, match=sentence):
        ClipScratchTrainingArguments(**options)


@pytest.mark.parametrize(
    ("options", "strategy", "steps"),
    [
        ({}, "steps", 0.1),
        ({"eval_strategy": "epoch"}, "epoch", 0.1),
        ({"eval_strategy": "no"}, "steps", 0.1),
        ({"eval_steps": 50}, "steps", 50),
        ({"eval_steps": 50, "save_steps": 100}, "steps", 100),
    ],
)
def test_checkpoints_follow_the_evaluations_unless_they_are_set(options, strategy, steps):
    args = ClipScratchTrainingArguments(**options)
    assert (args.save_strategy, args.save_steps) == (strategy, steps)


ROWS = [  # options, rows -> batch, epochs, words of the log
    ({}, 10_000, 256, 20, ""),
    ({}, 1_000, 256, 67, ""),
    ({}, 60, 60, 200, "global_batch_size=256 is more than the 60 training rows: the batch is 60"),
    ({"global_batch_size": 32}, 60, 32, 200, ""),
    ({"num_train_epochs": 3}, 1_000, 256, 3, ""),
    ({"num_train_epochs": 3, "max_steps": 5}, 1_000, 256, 3, ""),
]


@pytest.mark.parametrize(("options", "rows", "batch", "epochs", "message"), ROWS)
def test_batch_and_length_of_a_run_fit_its_rows(caplog, options, rows, batch, epochs, message):
    args = ClipScratchTrainingArguments(**options)
    with caplog.at_level(logging.WARNING, "modeling_clipscratch"):
        checks.fit_to_rows(args, rows)
    assert (args.global_batch_size, args.per_device_train_batch_size, args.num_train_epochs) == (batch, batch, epochs)
    assert message in caplog.text and bool(message) == bool(caplog.text)


def test_one_row_alone_cannot_be_trained_on():
    with pytest.raises(ClipScratchError, match="^1 training rows are too few"):
        checks.fit_to_rows(ClipScratchTrainingArguments(), 1)


@pytest.mark.parametrize(
    ("model", "options", "warned"),
    [
        ({}, {}, ""),
        ({"freeze_vision": False}, {}, "vision"),
        ({"freeze_vision": False}, {"tower_learning_rate": 1e-5}, ""),
        ({"unfreeze_text_layers": 2}, {}, "text"),
        ({"vision_tower": "vit", "image_size": 8}, {}, ""),
        ({"freeze_text": False}, {"learning_rate": 5e-5}, ""),
    ],
)
def test_pretrained_tower_at_the_rate_of_one_from_scratch_is_warned_of(caplog, model, options, warned):
    with caplog.at_level(logging.WARNING, "modeling_clipscratch"):
        checks.warn_of_tower_rates(ModelArguments(**model), ClipScratchTrainingArguments(**options))
    assert (f"the pretrained {warned} tower is trained at a learning rate of 0.001" in caplog.text) == bool(warned)


@pytest.mark.parametrize(
    ("options", "frozen"),
    [
        ({}, (True, True)),
        ({"text_tower": "distilbert", "vision_tower": "vit"}, (False, False)),
        ({"text_tower": "distilbert", "freeze_text": True, "freeze_vision": False}, (True, False)),
    ],
)
def test_pretrained_towers_are_frozen_unless_told_otherwise(options, frozen):
    model = ModelArguments(**options)
    assert (model.freeze_text, model.freeze_vision) == frozen


def test_fields_that_are_left_out_have_a_default_that_is_not_refused():
    known = recipe_fields().keys() | {item.name for item in dataclasses.fields(AcceleratorConfig)}
    missing = checks._NOT_SUPPORTED.keys() - known
    assert ClipScratchTrainingArguments() and missing <= {"dataloader_in_order"}  # which older ones lack


OF_TORCH = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}
ELSEWHERE = {"galore", "apollo", "lomo", "adalomo", "schedule"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(item.value, marks=[pytest.mark.slow] * (item.value in OF_TORCH)) for item in OptimizerNames],
)
def test_optimizer_works_or_is_refused_before_any_data_are_read(monkeypatch, make_trainer, name):
    for package in ("bitsandbytes", "torchao", "grokadamw", "torch_optimi"):
        monkeypatch.setattr(f"transformers.trainer_optimizer.is_{package}_available", lambda: False)
    if name in OF_TORCH:
        assert make_trainer(optim=name, max_steps=1).train().global_step == 1
        return
    unsupported = name.split("_")[0] in ELSEWHERE
    sentence = f"^optim={name} " + (
        "is not supported: " if unsupported else "cannot be built: .*; or choose adamw_torch"
    )
    with pytest.raises(ClipScratchError, match=sentence):
        ClipScratchTrainingArguments(optim=name)


NEEDS = {
    "cosine_with_min_lr": {"min_lr": 1e-5}, "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
    "warmup_stable_decay": {"num_decay_steps": 1},
}  # fmt: skip


@pytest.mark.parametrize("kind", [item.value for item in SchedulerType])
def test_schedule_is_taken_with_what_it_needs(kind):
    looks = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "top1"}
    args = ClipScratchTrainingArguments(lr_scheduler_type=kind, lr_scheduler_kwargs=NEEDS.get(kind), **looks)
    assert args.lr_scheduler_type == kind


# Parameters of transformers' Trainer: those that ClipScratchTrainer reads, and those that it refuses.
READ = {"self", "model", "args", "train_dataset", "eval_dataset", "processing_class", "model_init", "callbacks"}
READ |= {"optimizers", "optimizer_cls_and_kwargs"}


def test_every_parameter_of_the_trainer_is_known_to_be_read_or_refused():
    assert set(inspect.signature(Trainer.__init__).parameters) == READ | checks._NOT_TAKEN.keys()


@pytest.mark.parametrize("name", sorted(checks._NOT_TAKEN))
def test_parameter_of_the_trainer_that_would_do_nothing_is_refused(make_trainer, name):
    with pytest.raises(ClipScratchError, match=f"^{name} is not supported: .*; leave it out.$"):
        make_trainer(options={name: lambda *given: None})


@pytest.mark.parametrize("said", ["wandb", ["tensorboard", "wandb"]])
def test_reporting_service_that_is_not_installed_is_named_before_any_data_are_read(monkeypatch, said):
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(ClipScratchError, match="^report_to=wandb: its package is not installed; pip install wandb"):
        ClipScratchTrainingArguments(report_to=said)
    assert ClipScratchTrainingArguments(report_to=["tensorboard"]).report_to == ["tensorboard"]


def test_every_service_is_known_as_installed_or_not_asked_for(monkeypatch):
    """A service of transformers' that it never lists as installed would be refused for ever."""
    for name in dir(integration_utils):
        if name.startswith("is_") and name.endswith("_available"):
            monkeypatch.setattr(integration_utils, name, lambda: True)
    listed = set(integration_utils.get_available_reporting_integrations())
    assert set(checks.INTEGRATION_TO_CALLBACK) - listed <= checks._NOT_LISTED_AS_INSTALLED


@pytest.mark.parametrize(
    ("spelling", "options"),
    [
        ("activation_checkpointing", None),
        ("activation_checkpointing", {"every_n_layers": 2}),
        ("gradient_checkpointing", {"use_reentrant": False}),
    ],
)
def test_activation_checkpointing_is_taken_in_both_spellings(make_trainer, spelling, options):
    old = "activation_checkpointing" not in recipe_fields()
    if old and (spelling == "activation_checkpointing" or "every_n_layers" in (options or {})):
        pytest.skip("this transformers has no such option")
    trainer = make_trainer(**{spelling: True, f"{spelling}_kwargs": options}, max_steps=1)
    assert trainer.train().global_step == 1


@pytest.mark.parametrize("options", [{"nonsense": 1}, {"use_reentrant": True}])
def test_unknown_option_of_activation_checkpointing_is_refused(options):
    with pytest.raises(ClipScratchError, match="activation_checkpointing_kwargs=.* has other keys than every_n"):
        ClipScratchTrainingArguments(gradient_checkpointing_kwargs=options)
