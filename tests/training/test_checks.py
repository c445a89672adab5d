"""Fields that cannot be, or that would do nothing, go in; one sentence each comes out."""

import pytest
from transformers.integrations import integration_utils

from modeling_clipscratch.training import checks
from modeling_clipscratch.training.arguments import (
    ClipScratchTrainingArguments,
    DataArguments,
    ModelArguments,
    recipe_fields,
)
from modeling_clipscratch.training.recipe import parse_recipe


@pytest.mark.parametrize("name", sorted(checks._AT_LEAST))
def test_number_below_the_least_is_refused_and_the_least_is_not(name):
    assert name in recipe_fields()
    least = checks._AT_LEAST[name]
    with pytest.raises(ValueError, match=f"^{name}={least - 1}(.0)? is less than {least}; choose {least} or more.$"):
        parse_recipe([f"--{name}={least - 1}"])
    parse_recipe([f"--{name}={least}", "--global_batch_size", "2"])


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"data_seed": 0}, "data_seed=0 would do nothing: seed gives the order"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy=sequential would do nothing"),
        ({"fp16_full_eval": True}, "fp16_full_eval=True would do nothing: .* set precision; leave it out"),
        ({"bf16_full_eval": True}, "bf16_full_eval=True would do nothing"),
        ({"eval_accumulation_steps": 2}, "eval_accumulation_steps=2 would do nothing: per_device_eval_batch_size"),
        ({"prediction_loss_only": True}, "prediction_loss_only=True would do nothing"),
        ({"include_for_metrics": ["loss"]}, r"include_for_metrics=\['loss'\] would do nothing"),
        (
            {"save_strategy": "best", "eval_strategy": "no"},
            "save_strategy=best would save nothing, since eval_strategy",
        ),
        ({"remove_unused_columns": True}, "remove_unused_columns has no columns to remove"),
        (
            {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"},
            "optim=schedule_free_adamw measures and saves other weights .* with ema_decay",
        ),
        ({"report_to": "tensorbord"}, "report_to=tensorbord is not one of none, all, .*tensorboard"),
    ],
)
def test_switch_that_would_do_nothing_or_fail_late_is_refused(said, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClipScratchTrainingArguments(**said)


def test_switches_that_are_left_out_have_transformers_own_defaults():
    """Else a field would be refused that nobody named; one that this transformers lacks has no default to differ."""
    args = ClipScratchTrainingArguments()
    assert all(getattr(args, name, default) == default for name, (default, _) in checks._NOT_READ.items())
    assert checks._NOT_READ.keys() <= recipe_fields().keys()


@pytest.mark.parametrize("said", ["wandb", ["tensorboard", "wandb"]])
def test_reporting_service_that_is_not_installed_is_named_before_any_data_are_read(monkeypatch, said):
    monkeypatch.setattr(checks, "get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(ValueError, match="^report_to=wandb: its package is not installed; pip install wandb"):
        ClipScratchTrainingArguments(report_to=said)
    assert ClipScratchTrainingArguments(report_to=["tensorboard"]).report_to == ["tensorboard"]


def test_every_service_is_known_as_installed_or_not_asked_for(monkeypatch):
    """A service of transformers' that it never lists as installed would be refused for ever."""
    for name in dir(integration_utils):
        if name.startswith("is_") and name.endswith("_available"):
            monkeypatch.setattr(integration_utils, name, lambda: True)
    listed = set(integration_utils.get_available_reporting_integrations())
    assert set(checks.INTEGRATION_TO_CALLBACK) - listed <= checks._NOT_KNOWN_AS_INSTALLED


@pytest.mark.parametrize(
    ("kind", "given", "wrong"),
    [
        ("warmup_stable_decay", None, "num_decay_steps"),
        ("cosine_with_min_lr", None, "min_lr"),
        ("linear", {"min_lr": 0.1}, "min_lr"),
        ("cosine", "num_cycles=2", "mapping"),
    ],
)
def test_schedule_that_cannot_be_made_is_refused_with_the_field_to_mend(kind, given, wrong):
    with pytest.raises(ValueError, match=f"^lr_scheduler_type={kind} with .*{wrong}.*; mend lr_scheduler_kwargs"):
        ClipScratchTrainingArguments(lr_scheduler_type=kind, lr_scheduler_kwargs=given)


def test_schedule_with_all_that_it_needs_is_taken():
    said = ["--lr_scheduler_type", "warmup_stable_decay", "--lr_scheduler_kwargs", '{"num_decay_steps": 10}']
    assert parse_recipe(said)[2].lr_scheduler_kwargs == {"num_decay_steps": 10}


def test_parts_of_a_recipe_made_in_python_are_checked_too():
    for part, name in ((ModelArguments, "max_length"), (DataArguments, "image_views")):
        with pytest.raises(ValueError, match=f"{name}=0 is less than 1"):
            part(**{name: 0})
