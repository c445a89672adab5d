"""Check what is resumed: the recipe and the data of a checkpoint, damaged files, and losses that are not finite."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.training.saving.checkpoints import find_checkpoint
from modeling_clipscratch.utils.checksums import SUMS, write_sums
from modeling_clipscratch.utils.errors import ClipScratchError
from tests.training.conftest import same, state_of, weights

# Four steps, a checkpoint after each, with the average of the weights beside them.
STEPS = {
    "freeze_text": False, "max_steps": 4, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 20,
    "eval_strategy": "no", "test_split": "none", "ema_decay": 0.9,
}  # fmt: skip


@pytest.fixture(scope="module")
def straight(run_recipe, tmp_path_factory):
    """Folder of a finished run of four steps."""
    return run_recipe(tmp_path_factory.mktemp("straight"), **STEPS)[0]


@pytest.fixture
def copied(straight, tmp_path):
    """A copy of it that a test may damage, as it was before the model of the end was written."""
    run = shutil.copytree(straight, tmp_path / "run")
    (run / "model.safetensors").unlink()
    return run


# The recipe of a checkpoint


@pytest.mark.parametrize("place", ["elsewhere", "same"])
def test_another_recipe_is_refused_with_both_values(run_recipe, straight, tmp_path, place):
    folder = tmp_path / "other" if place == "elsewhere" else straight.parent
    checkpoint = str(straight / "checkpoint-2") if place == "elsewhere" else "auto"
    with pytest.raises(ValueError, match="was trained with dataset=digits, and now it is scenes; resume with what"):
        run_recipe(folder, **{**STEPS, "dataset": "scenes"}, resume_from_checkpoint=checkpoint)
    assert not (tmp_path / "other" / "run").exists()


def test_other_rows_under_the_same_name_are_refused(run_recipe, tmp_path, write_files):
    images = write_files([f"{label}/{number}.png" for label in ("red", "blue") for number in range(10)])
    recipe = {**STEPS, "dataset": str(images), "per_device_train_batch_size": 8, "max_steps": 2}
    run, _ = run_recipe(tmp_path / "first", **recipe)
    write_files(["red/new.png"])
    for folder, checkpoint in ((tmp_path / "first", "auto"), (tmp_path / "second", str(run / "checkpoint-1"))):
        with pytest.raises(ValueError, match="was trained with train_rows=.*, and now it is .*; resume with what"):
            run_recipe(folder, **recipe, resume_from_checkpoint=checkpoint)
    assert not (tmp_path / "second" / "run").exists()


EXCHANGED = (  # what is exchanged under the same path: the weights, or a file of the towers, text in it, its new text
    None,
    ("text/tokenizer.json", "square", "rectangle"),
    ("vision/preprocessor_config.json", '"resample": 2', '"resample": 3'),
)


def test_tower_that_was_exchanged_under_the_same_path_is_refused(run_recipe, make_model, word_processor, tmp_path):
    def write(seed):
        make_model(seed=seed).text_model.save_pretrained(tmp_path / "text")
        make_model(seed=seed).vision_model.save_pretrained(tmp_path / "vision")
        word_processor.tokenizer.save_pretrained(tmp_path / "text")
        word_processor.image_processor.save_pretrained(tmp_path / "vision")

    write(seed=0)
    towers = {"text_tower": str(tmp_path / "text"), "vision_tower": str(tmp_path / "vision"), "image_size": None}
    recipe = {**STEPS, **towers, "freeze_text": True, "random_shift": 0, "max_steps": 1}
    run, _ = run_recipe(tmp_path / "a", **recipe)
    resume = {**recipe, "max_steps": 2, "resume_from_checkpoint": str(run / "checkpoint-1")}
    run_recipe(tmp_path / "b", **resume)
    for change in EXCHANGED:
        write(seed=0 if change else 1)
        if change:
            file, old, new = change
            text = (tmp_path / file).read_text()
            assert old in text
            (tmp_path / file).write_text(text.replace(old, new))
        sentence = "was trained with processor=" if change else "was trained with another frozen tower .* text_model"
        with pytest.raises(ValueError, match=sentence):
            run_recipe(tmp_path / "c", **resume)
        assert not (tmp_path / "c" / "run").exists()


@pytest.mark.parametrize("place", ["elsewhere", "same"])
def test_what_may_change_on_resume_does_change(run_recipe, straight, copied, tmp_path, place):
    for step in (2, 3, 4):
        shutil.rmtree(copied / f"checkpoint-{step}")
    folder, option = (copied.parent, "auto") if place == "same" else (tmp_path / "b", str(copied / "checkpoint-1"))
    changes = {"save_steps": 2, "save_total_limit": 1, "logging_steps": 2}
    run, _ = run_recipe(folder, **{**STEPS, **changes}, resume_from_checkpoint=option)
    lines = state_of(run)["log_history"]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 4]
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-4"}
    assert same(weights(run), weights(straight))
    assert yaml.safe_load((run / "recipe.yaml").read_text())["save_steps"] == 2


def record(folder):
    state = state_of(folder)
    return state["stateful_callbacks"]["TrainingRecord"]["attributes"]


def test_images_seen_are_those_of_all_parts_of_a_run(run_recipe, straight, tmp_path, caplog):
    assert record(straight)["images_seen"] == 4 * 400
    longer = {**STEPS, "max_steps": 6, "resume_from_checkpoint": str(straight / "checkpoint-3")}
    run, _ = run_recipe(tmp_path, **longer)
    assert (record(run)["images_seen"], record(run / "checkpoint-5")["images_seen"]) == (6 * 400, 5 * 400)
    run_recipe(tmp_path, **{**longer, "resume_from_checkpoint": "auto"})  # nothing is left to be trained
    assert record(run)["images_seen"] == 6 * 400
    assert "resumed from step 3 of a run of 4 steps" in caplog.text


@pytest.mark.parametrize(("field", "before", "now"), [("optim", "adamw_torch_fused", "sgd"), ("seed", 0, 1)])
def test_trainer_refuses_a_checkpoint_of_another_batch_or_optimizer(make_trainer, field, before, now):
    steps = {"save_strategy": "steps", "save_steps": 1}
    make_trainer(**steps).train()
    sentence = f"was trained with {field}={before}, and now it is {now}; resume with what it was trained with"
    with pytest.raises(ValueError, match=sentence):
        make_trainer(**{**steps, "max_steps": 3, field: now}).train(resume_from_checkpoint=True)


def test_frozen_weights_are_stored_once_and_every_checkpoint_loads_and_resumes(run_recipe, tmp_path):
    steps = {**STEPS, "freeze_text": True, "ema_decay": None, "max_steps": 3}
    run, _ = run_recipe(tmp_path, **steps)
    files = [run / f"checkpoint-{step}" / "model-00002-of-00002.safetensors" for step in (1, 2, 3)]
    assert len({file.stat().st_ino for file in files}) == 1
    assert all(find_checkpoint(run, str(file.parent)) for file in files)  # the digests are those of the files
    last = weights(run / "checkpoint-3")
    model = AutoModel.from_pretrained(run / "checkpoint-3", trust_remote_code=True)
    assert same(model.state_dict(), last) and same(load_model(run / "checkpoint-3")[0].state_dict(), last)
    assert {name for name in last if name.startswith("text_model.")} == set(load_file(files[0]))
    shutil.copytree(run / "checkpoint-1", tmp_path / "copied")
    again, _ = run_recipe(tmp_path / "again", **steps, resume_from_checkpoint=str(tmp_path / "copied"))
    assert same(weights(again), weights(run))
    for path in (run / "checkpoint-3", run / "model.safetensors"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run_recipe(tmp_path, **steps, resume_from_checkpoint="auto")  # in the same folder, where a link could be
    assert same(weights(run), last) and find_checkpoint(run, "auto") == str(run / "checkpoint-3")


def test_checkpoint_is_written_whole_where_the_disk_has_no_hard_links(make_trainer, tmp_path, monkeypatch):
    def link(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    trainer = make_trainer({"freeze_text": True}, save_strategy="steps", save_steps=1)
    trainer.train()
    assert same(weights(tmp_path / "run" / "checkpoint-2"), trainer.model.state_dict())


# Damaged files


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


DAMAGES = {"removed": Path.unlink, "emptied": lambda path: path.write_bytes(b""), "cut": cut, "one bit": flip}
FILES = (
    "model.safetensors", "ema.safetensors", "optimizer.pt", "trainer_state.json", "config.json", SUMS,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damaged_checkpoint_is_named_and_auto_takes_the_one_before(copied, caplog, name, damage):
    DAMAGES[damage](copied / "checkpoint-4" / name)
    assert find_checkpoint(copied, "auto") == str(copied / "checkpoint-3")
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{copied / 'checkpoint-4'} is damaged and not used: ") and name in warning
    sentence = "is damaged: |is no checkpoint"
    with pytest.raises(ValueError, match=sentence):
        find_checkpoint(copied, str(copied / "checkpoint-4"))


def test_no_usable_checkpoint_is_an_error_and_not_a_new_start(copied):
    for path in copied.glob("checkpoint-*"):
        (path / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match="none of the 4 checkpoints .* is complete .optimizer.pt, listed"):
        find_checkpoint(copied, "auto")


def test_run_resumed_before_a_damaged_checkpoint_ends_with_the_same_bits(run_recipe, straight, copied):
    flip(copied / "checkpoint-4" / "optimizer.pt")
    run_recipe(copied.parent, **STEPS, resume_from_checkpoint="auto")
    assert same(weights(copied), weights(straight))
    assert find_checkpoint(copied, "auto") == str(copied / "checkpoint-4")


def test_damaged_best_checkpoint_gives_way_to_the_last_weights(run_recipe, tmp_path, caplog):
    best = {**STEPS, "ema_decay": None, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    run, _ = run_recipe(tmp_path, **best)
    for folder in (run, run / "checkpoint-2"):
        state = state_of(folder)
        state["best_model_checkpoint"] = str(run / "checkpoint-1")
        (folder / "trainer_state.json").write_text(json.dumps(state))
    write_sums(run / "checkpoint-2")
    flip(run / "checkpoint-1" / "model.safetensors")
    run_recipe(tmp_path, **best, resume_from_checkpoint="auto")
    assert same(weights(run), weights(run / "checkpoint-2"))
    assert "checkpoint-1, cannot be used (model.safetensors does not match SHA256SUMS): the last weights" in caplog.text


# Losses and weights that are not finite


@pytest.mark.parametrize("logging_steps", [1, 50])
def test_diverging_run_stops_before_it_saves(run_recipe, tmp_path, monkeypatch, logging_steps):
    from modeling_clipscratch.training import trainer as module

    own, calls = module.global_loss, []

    def diverges(images, *args, **kwargs):
        share, statistics = own(images, *args, **kwargs)
        calls.append(1)
        return (share * torch.nan if len(calls) == 3 else share), statistics

    monkeypatch.setattr(module, "global_loss", diverges)
    with pytest.raises(
        ClipScratchError, match="(loss is|weights are) not finite at step 3: training diverged and was stopped before"
    ):
        run_recipe(tmp_path, **{**STEPS, "logging_steps": logging_steps})
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir()} == {"recipe.yaml", "checkpoint-1", "checkpoint-2"}
    assert find_checkpoint(run, "auto") == str(run / "checkpoint-2")
    assert all(tensor.isfinite().all() for tensor in weights(run / "checkpoint-2").values())


@pytest.mark.parametrize("changes", [{"eval_strategy": "steps", "eval_steps": 1}, {"save_strategy": "no"}])
def test_weights_that_a_step_made_infinite_are_not_measured_saved_or_finished(run_recipe, tmp_path, changes):
    """The loss of that step is finite: its gradients, times the learning rate, are not."""
    recipe = {**STEPS, "optim": "sgd", "learning_rate": 3e38, "max_grad_norm": 0, "lr_scheduler_type": "constant"}
    with pytest.raises(ClipScratchError, match="(loss is|weights are) not finite at step [12]: "):
        run_recipe(tmp_path, **{**recipe, "warmup_steps": 0, "max_steps": 2, **changes})
    assert not (tmp_path / "run" / "model.safetensors").exists()
    assert all(w.isfinite().all() for path in tmp_path.glob("run/checkpoint-*") for w in weights(path).values())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_any_weight_that_is_not_finite_is_seen(make_trainer, value):
    trainer = make_trainer()
    trainer._check_finite()
    with torch.no_grad():
        trainer.model.visual_projection.weight[3, 5] = value
    with pytest.raises(ClipScratchError, match="the weights are not finite at step 0"):
        trainer._check_finite()
