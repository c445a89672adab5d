"""Turn the Trainer's usual switches, and check what each changes and what it leaves unchanged."""

import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_clipscratch.training.optimization.ema import ModelEma
from modeling_clipscratch.training.recipe.arguments import ModelArguments
from modeling_clipscratch.training.towers.adapters import add_adapters, merge_adapters
from modeling_clipscratch.training.trainer import ClipScratchTrainer
from tests.training.conftest import history, same, state_of, weights

SHORT = {
    "max_steps": 4, "logging_steps": 10, "freeze_text": False, "eval_strategy": "no", "save_strategy": "no",
    "test_split": "none",
}  # fmt: skip


# Plain SGD: its steps are linear in the gradients, where AdamW would blow roundings of tiny ones up to whole steps.
# The text tower is frozen, so nothing is dropped: a chunk, or a compiled graph, would draw in another order.
SAME = {**SHORT, "freeze_text": True, "optim": "sgd", "learning_rate": 0.5, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def plain(run_recipe, tmp_path_factory):
    return weights(run_recipe(tmp_path_factory.mktemp("plain"), **SAME)[0])


COMPILED = {"torch_compile": True, "torch_compile_backend": "aot_eager"}


@pytest.mark.parametrize(
    "switch",
    [
        pytest.param({"gradient_checkpointing": True}, id="checkpointed layers"),
        pytest.param({"per_device_train_batch_size": 100, "gradient_accumulation_steps": 4}, id="accumulation"),
        pytest.param({"gradient_checkpointing": True, "encode_chunk_size": 150}, id="checkpointed layers in chunks"),
        pytest.param(COMPILED, id="compiled", marks=pytest.mark.slow),
        pytest.param({**COMPILED, "encode_chunk_size": 150}, id="compiled in chunks", marks=pytest.mark.slow),
    ],
)
def test_switch_that_must_change_no_result_changes_none(run_recipe, tmp_path, plain, switch):
    found = weights(run_recipe(tmp_path, **{**SAME, **switch})[0])
    assert found.keys() == plain.keys()
    for name, tensor in plain.items():
        assert torch.allclose(found[name], tensor, atol=1e-5), name
    assert abs(plain["logit_scale"] - 2.6592) > 1e-3  # the steps moved something a hundred times the tolerance


def test_average_is_that_of_the_literal_loop():
    model = torch.nn.Linear(2, 1, bias=False)
    average = ModelEma(model, 0.9)
    expected = model.weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model.weight += step
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    assert torch.allclose(average.weights["weight"], expected, rtol=1e-5)
    before = model.weight.detach().clone()
    with average.in_place():
        assert torch.allclose(model.weight, expected, rtol=1e-5)
    assert torch.equal(model.weight, before)


def test_averaged_run_ends_with_the_average_and_measures_it(run_recipe, tmp_path):
    steps = {**SHORT, "max_steps": 6, "learning_rate": 0.01, "save_strategy": "steps", "save_steps": 6}
    steps |= {"eval_strategy": "steps", "eval_steps": 6, "load_best_model_at_end": False}
    run, metrics = run_recipe(tmp_path / "a", **steps, ema_decay=0.9)
    raw, _ = run_recipe(tmp_path / "b", **steps)
    checkpoint = run / "checkpoint-6"
    averaged, trained = load_file(checkpoint / "ema.safetensors"), weights(checkpoint)
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in averaged.items())
    assert all(torch.equal(weights(raw)[name], tensor) for name, tensor in trained.items())
    assert any((averaged[name] - trained[name]).abs().max() > 1e-3 for name in averaged)
    for name in ("top1", "expected_calibration_error"):
        assert history(run, f"eval_{name}")[-1] == pytest.approx(metrics["digits"][name])
    assert history(run, "eval_expected_calibration_error") != history(raw, "eval_expected_calibration_error")


def test_best_checkpoint_gives_its_own_average(run_recipe, tmp_path):
    steps = {**SHORT, "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps"}
    run, _ = run_recipe(
        # Steps far too long: the longer, the worse.
        tmp_path, **steps, eval_steps=2, ema_decay=0.5, save_total_limit=5, metric_for_best_model="top5",
        learning_rate=1.0,
    )  # fmt: skip
    best = state_of(run)["best_global_step"]
    assert best < 6, "else it is the last one's"
    averaged = load_file(run / f"checkpoint-{best}" / "ema.safetensors")
    assert all(torch.equal(weights(run)[name], tensor) for name, tensor in averaged.items())


def test_adapters_learn_while_the_tower_stays_and_are_merged_at_the_end(run_recipe, tmp_path, plain):
    start, _ = run_recipe(tmp_path / "start", **{**SHORT, "max_steps": 1, "learning_rate": 0.0, "freeze_text": True})
    run, _ = run_recipe(
        tmp_path / "run",
        **{**SHORT, "freeze_text": True, "text_lora_rank": 2, "save_strategy": "steps", "save_steps": 2},
    )
    before, after = weights(start), weights(run)
    assert after.keys() == before.keys() == plain.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name]) and name.startswith("text_model.")}
    assert changed and all(".lin" in name or "_lin." in name for name in changed)
    difference = after[max(changed)] - before[max(changed)]
    assert torch.linalg.matrix_rank(difference, rtol=1e-3) in (1, 2)
    model = AutoModel.from_pretrained(run, trust_remote_code=True)
    assert not any("lora" in name for name, _ in model.named_parameters())
    # A run with adapters resumes from its checkpoint to the same bits.
    again, _ = run_recipe(
        tmp_path / "again",
        **{**SHORT, "freeze_text": True, "text_lora_rank": 2, "resume_from_checkpoint": str(run / "checkpoint-2")},
    )
    assert all(torch.equal(weights(again)[name], tensor) for name, tensor in after.items())


def test_merged_adapters_compute_what_they_computed_before(make_trainer):
    trainer = make_trainer({"freeze_vision": True})
    handles = add_adapters(trainer.model, ModelArguments(freeze_vision=True, vision_lora_rank=2))
    learned = [name for name, p in trainer.model.vision_model.named_parameters() if p.requires_grad]
    assert learned and all("lora_" in name for name in learned)
    for name, parameter in trainer.model.vision_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    pixels = torch.randn(3, 3, 8, 8)
    trainer.model.eval()
    with torch.no_grad():
        before = trainer.model.get_image_features(pixels).pooler_output
        merge_adapters(handles)
        assert torch.allclose(trainer.model.get_image_features(pixels).pooler_output, before, atol=1e-5)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ({"vision_lora_rank": 4}, "vision_lora_rank=4: the vision tower's own weights are trained already"),
        ({"text_lora_rank": 4, "unfreeze_text_layers": 1}, "leave unfreeze_text_layers out"),
        ({"text_lora_rank": -1}, "text_lora_rank=-1 is less than 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 is not between 0 and 1"),
        ({"memory_budget_gb": -1.0}, "memory_budget_gb=-1.0 is not above 0"),
    ],
)
def test_switches_that_do_not_fit_are_refused(run_recipe, tmp_path, said, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_recipe(tmp_path, **{**SHORT, "freeze_text": True, **said})


def test_early_stop_counts_evaluations_without_improvement_also_those_before_a_resumption(run_recipe, tmp_path):
    # A learning rate of 0: every evaluation gives the same.
    stops = {**SHORT, "max_steps": 20, "learning_rate": 0.0, "save_total_limit": None}
    stops |= {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    for gone, patience, looks in (
        ("nothing", 2, [2, 4, 6]),
        ("checkpoint-6", 2, [2, 4, 6]),
        ("nothing", 3, [2, 4, 6, 8]),
    ):
        shutil.rmtree(tmp_path / "run" / gone, ignore_errors=True)
        stops |= {"early_stopping_patience": patience, "resume_from_checkpoint": "auto"}
        folder, _ = run_recipe(tmp_path, **stops)
        state = state_of(folder)
        assert [line["step"] for line in state["log_history"] if "eval_top1" in line] == looks
        assert state["global_step"] == looks[-1]
        (folder / "trainer_state.json").unlink()


def test_what_is_saved_at_the_end_of_an_epoch_is_saved_after_its_evaluation(run_recipe, tmp_path):
    steps = {"max_steps": 5, "eval_strategy": "epoch", "save_strategy": "steps", "save_steps": 1, "test_split": "none"}
    folder, _ = run_recipe(tmp_path, **steps, load_best_model_at_end=False, save_total_limit=None)
    for step, looks in ((2, []), (3, [3]), (4, [3]), (5, [3, 5])):  # an epoch is three steps
        state = state_of(folder / f"checkpoint-{step}")
        assert [line["step"] for line in state["log_history"] if "eval_top1" in line] == looks


@pytest.mark.parametrize(("place", "number"), [("training_step", 3), ("measure", 6)])
def test_sigterm_leaves_the_checkpoint_of_a_whole_step_to_resume_from(run_recipe, tmp_path, monkeypatch, place, number):
    """Also in the evaluation after the last step. `test_kill` stops real processes."""
    steps = {**SHORT, "max_steps": 6, "enable_jit_checkpoint": True, "resume_from_checkpoint": "auto"}
    steps |= {"eval_strategy": "steps", "eval_steps": 6}
    expected = weights(run_recipe(tmp_path / "straight", **steps)[0])
    own, handler = getattr(ClipScratchTrainer, place), signal.getsignal(signal.SIGTERM)

    def signalled(trainer, *given):
        result = own(trainer, *given)
        # In the third step its gradients are there, its weights not.
        if trainer.state.global_step == (2 if place == "training_step" else 6):
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(ClipScratchTrainer, place, signalled)
        with pytest.raises(SystemExit) as stop:
            run_recipe(tmp_path / "stopped", **steps)
    signal.signal(signal.SIGTERM, handler)
    assert stop.value.code == 143
    run = tmp_path / "stopped" / "run"
    assert {path.name for path in run.iterdir()} == {"recipe.yaml", f"checkpoint-{number}"}
    assert same(weights(run_recipe(tmp_path / "stopped", **steps)[0]), expected)


@pytest.mark.parametrize(("metric", "mode"), [("top1", "max"), ("expected_calibration_error", "min")])
def test_a_schedule_that_looks_at_the_metric_knows_which_way_is_better(run_recipe, tmp_path, monkeypatch, metric, mode):
    seen, made = [], ClipScratchTrainer.create_scheduler

    def create(trainer, *given, **named):
        seen.append(made(trainer, *given, **named).mode)
        return trainer.lr_scheduler

    monkeypatch.setattr(ClipScratchTrainer, "create_scheduler", create)
    steps = {**SHORT, "eval_strategy": "epoch", "lr_scheduler_type": "reduce_lr_on_plateau"}
    run_recipe(tmp_path, **steps, metric_for_best_model=metric)
    assert seen == [mode]
