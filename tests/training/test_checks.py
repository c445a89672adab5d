"""Check that fields which are out of range, or would change what is trained, are refused in one sentence each."""

import inspect
import logging

import pytest
from transformers import Trainer
from transformers.training_args import OptimizerNames

from modeling_clipscratch.training.recipe import checks
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments, ModelArguments, recipe_fields
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.utils.errors import ClipScratchError


@pytest.mark.parametrize("name", checks._ABOVE_ZERO)
def test_number_that_is_not_above_zero_is_refused(name):
    with pytest.raises(ClipScratchError, match=f"^{name}=0(.0)? is not above 0; choose a greater number"):
        parse_recipe([f"--{name}=0"])


REFUSED = {
    "data_seed": 3, "train_sampling_strategy": "sequential", "bf16_full_eval": True, "fp16_full_eval": True,
    "label_names": ["label"], "fsdp": "full_shard", "deepspeed": "zero.json", "hub_strategy": "every_save",
    "hub_always_push": True, "auto_find_batch_size": True, "label_smoothing_factor": 0.1,
    "save_only_model": True,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_field_that_would_do_nothing_or_another_thing_is_refused(name):
    assert REFUSED.keys() <= checks._NOT_SUPPORTED.keys() <= recipe_fields().keys()
    with pytest.raises(ClipScratchError, match=f"^{name}=.* is not supported: .*; leave it out.$"):
        ClipScratchTrainingArguments(**{name: REFUSED[name]})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ema_decay": 1.0}, "ema_decay=1.0 is not between 0 and 1; choose 0.999"),
        (
            {"optim_args": "momentum"},
            "optim=adamw_torch_fused .* cannot be made: .* written like momentum=0.9,nesterov",
        ),
        ({"learning_rate": -1.0}, "optim=adamw_torch_fused .* cannot be made: Invalid learning rate: -1.0"),
        ({"optim": "sgd", "muon_learning_rate": 0.01}, "optim=sgd with muon_learning_rate=0.01: AdamW trains the"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "lr_scheduler_type=warmup_stable_decay .*num_decay_steps"),
        ({"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {"min_lr": 0.1}}, "cannot be made: .*min_lr"),
        ({"lr_scheduler_kwargs": "num_cycles=2"}, "mapping.* are written like"),
        ({"gradient_checkpointing_kwargs": {"nonsense": 1}}, "activation_checkpointing_kwargs=.* has other keys than"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "has other keys than every_n_layers, "),
        ({"bf16": True, "fp16": True}, "fp16 and bf16"),
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
]


@pytest.mark.parametrize(("options", "rows", "batch", "epochs", "message"), ROWS)
def test_batch_and_length_of_a_run_fit_its_rows(caplog, options, rows, batch, epochs, message):
    args = ClipScratchTrainingArguments(**options)
    with caplog.at_level(logging.WARNING, "modeling_clipscratch"):
        checks.fit_to_rows(args, rows)
    assert (args.global_batch_size, args.per_device_train_batch_size, args.num_train_epochs) == (batch, batch, epochs)
    assert message in caplog.text and bool(message) == bool(caplog.text)


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


OF_TORCH = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}


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
    with pytest.raises(ClipScratchError, match=f"^optim={name} (is not supported; choose|.* cannot be made: )"):
        ClipScratchTrainingArguments(optim=name)


# Parameters of transformers' Trainer: those that ClipScratchTrainer reads, and those that it refuses.
READ = {"self", "model", "args", "train_dataset", "eval_dataset", "processing_class", "model_init", "callbacks"}
READ |= {"optimizers", "optimizer_cls_and_kwargs"}


@pytest.mark.parametrize("name", checks._NOT_TAKEN)
def test_parameter_of_the_trainer_that_would_do_nothing_is_refused(make_trainer, name):
    assert set(inspect.signature(Trainer.__init__).parameters) == {*READ, *checks._NOT_TAKEN}
    with pytest.raises(ClipScratchError, match=f"^{name} is not supported: .*; leave it out.$"):
        make_trainer(options={name: lambda *arguments: None})


def test_reporting_service_that_is_not_installed_is_named_before_any_data_are_read(monkeypatch):
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(ClipScratchError, match="^report_to=wandb: its package is not installed; pip install wandb"):
        ClipScratchTrainingArguments(report_to=["tensorboard", "wandb"])
    assert ClipScratchTrainingArguments(report_to=["tensorboard"]).report_to == ["tensorboard"]


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
