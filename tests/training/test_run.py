"""Run tiny recipes on digits, and look into the folders of finished, resumed, overwritten and failed runs."""

import json
import logging
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel, AutoProcessor

from modeling_clipscratch import ClipScratchModel, hub
from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.training import run as module
from modeling_clipscratch.training.features import pairs
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments, DataArguments
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.trainer import ClipScratchTrainer
from tests.training.conftest import same, weights

# Where a frozen text tower's states come from a cache, and the best of two epochs is kept.
FROZEN = {"freeze_text": True, "max_steps": -1, "num_train_epochs": 2, "dataloader_num_workers": 1}
# Seven steps are two epochs of three and a step, with dropout in the text tower and draws for the pictures.
LEARNED = {
    "freeze_text": False, "max_steps": 7, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 20,
    "eval_strategy": "no", "test_split": "none", "trivial_augment": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(run_recipe, tmp_path_factory):
    """(folder, metrics) of a run with a frozen text tower."""
    return run_recipe(tmp_path_factory.mktemp("finished"), **FROZEN)


@pytest.fixture(scope="module")
def straight(run_recipe, tmp_path_factory):
    """Folder of a run of seven steps, a checkpoint after each."""
    return run_recipe(tmp_path_factory.mktemp("straight"), **LEARNED)[0]


@pytest.fixture
def two_classes(write_files):
    """A folder of 20 red and 20 blue images without splits."""
    return write_files([f"{name}/{number}.png" for name in ("red", "blue") for number in range(20)])


@pytest.fixture
def worse_and_worse(monkeypatch):
    """Every evaluation finds less than the one before."""
    metrics = lambda trainer, *given, **named: {"eval_top1": 1 / (1 + trainer.state.global_step)}  # noqa: E731
    monkeypatch.setattr(ClipScratchTrainer, "evaluate", metrics)


# A finished run


def test_run_folder_holds_what_the_design_says_and_nothing_else(finished):
    folder, _ = finished
    code = {path.name for path in Path(hub.__file__).parent.glob("*_clipscratch.py")}
    model = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    results = {"recipe.yaml", "trainer_state.json", "metrics.json", "versions.json", "curves.png"}
    results |= {"SHA256SUMS"}
    checkpoints = {"checkpoint-3", "checkpoint-6"}
    assert {path.name for path in folder.iterdir()} == code | model | results | checkpoints
    state = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "recipe.yaml", "SHA256SUMS"}
    for checkpoint in checkpoints:
        assert {path.name for path in (folder / checkpoint).iterdir()} == code | model | state


def test_metrics_are_fractions_under_the_data_set_s_name(finished):
    folder, returned = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == returned and set(metrics) == {"digits"}
    names = {"top1", "top5", "mean_per_class_recall", "expected_calibration_error"}
    assert set(metrics["digits"]) == names | {f"{name}_ci95" for name in names}
    for name in names:
        low, high = metrics["digits"][f"{name}_ci95"]
        assert 0 <= low <= metrics["digits"][name] <= high <= 1
    # 360 pictures of ten classes, 36 each.
    assert metrics["digits"]["top1"] * 360 == pytest.approx(round(metrics["digits"]["top1"] * 360), abs=1e-9)


def test_recipe_and_versions_are_those_of_the_run(finished):
    folder, _ = finished
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    written = yaml.safe_load((folder.parent / "recipe.yaml").read_text()) | {"global_batch_size": 400}
    assert recipe == {n: v for n, v in written.items() if n not in ("output_dir", "cache_dir", "disable_tqdm",
        "logging_steps", "dataloader_num_workers")}  # fmt: skip
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["torch"] == torch.__version__ and {"python", "platform", "device", "transformers"} <= set(versions)


def test_run_folder_is_opened_by_the_auto_classes(finished):
    folder, _ = finished
    model = AutoModel.from_pretrained(folder, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    assert type(model) is ClipScratchModel and model.config.projection_dim == 16
    inputs = processor.tokenizer(["the digit three."], return_tensors="pt")
    picture = torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()
    pixels = processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        assert model(**inputs, pixel_values=pixels).logits_per_image.shape == (1, 1)
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]


def test_frozen_text_tower_has_the_same_bits_in_every_checkpoint(finished):
    folder, _ = finished
    first, last = weights(folder / "checkpoint-3"), weights(folder / "checkpoint-6")
    for name, tensor in first.items():
        assert (
            torch.equal(tensor, last[name]) == name.startswith("text_model.")
            or "k_proj.bias" in name
            or ("key.bias" in name)
        ), name


def test_finished_run_is_its_best_checkpoint_to_the_bit(finished):
    folder, _ = finished
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    scores = {line["step"]: line["eval_top1"] for line in history if "eval_top1" in line}
    assert set(scores) == {3, 6}
    best = max(scores, key=lambda step: (scores[step], step))  # the last of equals
    assert same(weights(folder), weights(folder / f"checkpoint-{best}"))


def test_of_equal_checkpoints_the_last_is_kept(run_recipe, tmp_path):
    still = {**FROZEN, "learning_rate": 1e-30, "weight_decay": 0.0}  # nothing moves, so both epochs measure the same
    folder, _ = run_recipe(tmp_path, **still)
    state = json.loads((folder / "trainer_state.json").read_text())
    assert len({line["eval_top1"] for line in state["log_history"] if "eval_top1" in line}) == 1
    assert state["best_global_step"] == 6


def test_history_has_the_loss_of_every_step_and_the_validation_of_every_epoch(finished):
    folder, _ = finished
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    assert [line["step"] for line in history if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [(line["step"], line["epoch"]) for line in history if "eval_top1" in line] == [(3, 1), (6, 2)]


def test_best_metric_need_not_be_named_and_is_the_highest(run_recipe, tmp_path, worse_and_worse):
    folder, _ = run_recipe(tmp_path, **FROZEN, metric_for_best_model=None)
    assert json.loads((folder / "trainer_state.json").read_text())["best_global_step"] == 3


def test_run_of_too_few_rows_for_validation_does_without(run_recipe, tmp_path, write_files):
    folder = str(write_files(["cat/1.png", "dog/2.png"]))
    few = {"dataset": folder, "per_device_train_batch_size": 2, "max_steps": 1, "test_split": "no"}
    with pytest.raises(ValueError, match="too few .* eval_strategy no"):
        run_recipe(tmp_path, **few)
    plain = {"validation_fraction": 0.0, "eval_strategy": "no", "save_strategy": "no"}
    assert run_recipe(tmp_path, **few, **plain)[1] == {folder: {}}


def test_one_class_alone_is_refused(run_recipe, tmp_path, write_files):
    folder = write_files([f"daisy/{number}.png" for number in range(20)])
    with pytest.raises(ValueError, match="set has one class, 'daisy', so there is nothing to tell apart; give the"):
        run_recipe(tmp_path, dataset=str(folder))


def test_every_option_of_the_data_reaches_the_reader(monkeypatch):
    class Opened(Exception):
        pass

    def opened(name, options):
        raise Opened(options)

    monkeypatch.setattr(module, "open_source", opened)
    names = {
        "image_column": "i", "label_column": "l", "class_names": ["a", "b"], "templates": ["{}"], "split_column": "s",
        "image_root": "r", "folder_names": "splits", "caption_lines": "join", "dataset_config": "en",
    }  # fmt: skip
    args = ClipScratchTrainingArguments(on_bad_row="skip")
    with pytest.raises(Opened) as reached:
        module._load(DataArguments(dataset="x", dataset_revision="v", **names), args)
    expected = DataOptions(**names, revision="v", on_bad_row="skip")
    assert reached.value.args == (expected,)
    untold = {item.name for item in fields(DataOptions)} - names.keys() - {"revision", "on_bad_row"}
    assert untold == {"caption_column", "cache_dir"}  # excluded by label_column; that of cached features is another


def test_data_without_a_test_split_are_measured_on_validation(run_recipe, tmp_path, two_classes, caplog):
    caplog.set_level("INFO", "modeling_clipscratch")
    recipe = {"dataset": str(two_classes), "per_device_train_batch_size": 16, "max_steps": 1, "test_split": "auto"}
    folder, metrics = run_recipe(tmp_path, **recipe, eval_strategy="no", save_strategy="no", validation_fraction=0.3)
    assert "top1" in metrics[str(two_classes)]
    assert "has no test split: the finished run is measured on validation" in caplog.text
    state = json.loads((folder / "trainer_state.json").read_text())
    facts = state["stateful_callbacks"]["TrainingRecord"]["attributes"]
    assert facts["dataset"]["rows"] == {"train": 28, "validation": 12}
    with pytest.raises(ValueError, match="has no split 'test'; .*--test_split none"):
        run_recipe(tmp_path / "named", **{**recipe, "test_split": "test"})


def test_processes_of_one_machine_share_the_limit_of_what_is_kept_in_memory(run_recipe, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(pairs, "_IN_MEMORY", 3 * 1257 * 8 * 8 * 3)  # of the digits' training images
    read_all = Preprocess.read_all
    monkeypatch.setattr(
        Preprocess,
        "read_all",
        lambda self, rows, **named: kept.append(str(rows.split)) or read_all(self, rows, **named),
    )
    few = {"max_steps": 1, "eval_strategy": "steps", "save_strategy": "no"}  # test is measured once and not kept
    for processes, expected in ((1, ["validation", "train"]), (4, ["validation"])):
        kept.clear()
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        run_recipe(tmp_path / str(processes), **few)
        assert kept == expected


@pytest.mark.parametrize("metric", ["expected_calibration_error", "text_to_image_median_rank"])
def test_of_errors_and_ranks_the_smallest_is_the_best(metric):
    args = parse_recipe(["--metric_for_best_model", metric])[2]
    assert args.greater_is_better is False


def test_metric_that_is_not_measured_is_refused_before_training(run_recipe, tmp_path, monkeypatch):
    for metric in ("top_1", "text_to_image_recall@5"):  # digits have classes, not captions
        with pytest.raises(ValueError, match=f"metric_for_best_model={metric}"):
            run_recipe(tmp_path / metric, **FROZEN, metric_for_best_model=metric)
        assert not (tmp_path / metric / "run").exists()


def test_top5_of_two_classes_is_refused_before_training(run_recipe, tmp_path, two_classes):
    recipe = {"dataset": str(two_classes), "per_device_train_batch_size": 2, "test_split": "none"}
    with pytest.raises(ValueError, match="metric_for_best_model=top5 is not measured .* choose one of top1, mean"):
        run_recipe(tmp_path, **recipe, metric_for_best_model="top5")


# Validation rows that are taken from train


def test_validation_rows_are_the_same_whatever_the_seed(tmp_path, two_classes, write_recipe):
    kept = []
    for seed in (0, 1):
        _, data, args, _ = parse_recipe([str(write_recipe(tmp_path, dataset=str(two_classes), seed=seed))])
        kept.append(module._load(data, args)[0]["validation"]["key"][:])
    assert kept[0] == kept[1] == load_data(str(two_classes))["validation"]["key"][:] and len(kept[0]) == 4


@pytest.mark.parametrize("in_memory", [True, False])
def test_broken_validation_pictures_are_left_out_also_where_they_stay_on_disk(
    run_recipe, tmp_path, two_classes, in_memory, monkeypatch
):
    broken = two_classes / "red" / load_data(str(two_classes))["validation"][0]["key"].rpartition("/")[2]
    broken.write_bytes(b"no picture")
    monkeypatch.setattr(pairs, "_IN_MEMORY", 4e9 if in_memory else 0)
    recipe = {"dataset": str(two_classes), "per_device_train_batch_size": 16, "max_steps": 2, "test_split": "none"}
    _, metrics = run_recipe(
        tmp_path, **recipe, on_bad_row="skip", eval_strategy="steps", eval_steps=1, save_strategy="no"
    )
    assert 0 <= metrics[str(two_classes)]["top1"] <= 1


# Resuming


@pytest.mark.parametrize("step", [2, 3])
def test_resumed_run_equals_the_straight_one_to_the_bit(run_recipe, straight, tmp_path, step):
    # After two steps inside an epoch, whose end comes later; after three at its very end.
    resumed, _ = run_recipe(tmp_path, **LEARNED, resume_from_checkpoint=str(straight / f"checkpoint-{step}"))
    assert [path.name for path in resumed.glob("checkpoint-*")] and not (resumed / f"checkpoint-{step}").exists()
    for folder in ("checkpoint-4", "checkpoint-7", "."):
        assert same(weights(resumed / folder), weights(straight / folder)), folder
    ends = [torch.load(run / "checkpoint-7" / "optimizer.pt")["state"] for run in (straight, resumed)]
    assert all(same(ends[0][number], ends[1][number]) for number in ends[0])
    losses = [
        [line["loss"] for line in json.loads((run / "trainer_state.json").read_text())["log_history"] if "loss" in line]
        for run in (straight, resumed)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 7


def test_finished_run_is_lengthened_from_its_checkpoint_whatever_that_is_called(run_recipe, straight, tmp_path):
    renamed = shutil.copytree(straight / "checkpoint-7", tmp_path / "last-checkpoint")
    folder, _ = run_recipe(tmp_path, **{**LEARNED, "max_steps": 9}, resume_from_checkpoint=str(renamed))
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == 9
    assert not same(weights(folder), weights(straight))


def test_run_whose_best_evaluation_had_no_checkpoint_ends_all_the_same(run_recipe, tmp_path, worse_and_worse):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    folder, _ = run_recipe(tmp_path, **steps, max_steps=4, save_total_limit=1, ema_decay=0.5, test_split="none")
    state = json.loads((folder / "trainer_state.json").read_text())
    assert state["best_global_step"] == 1 and state["best_model_checkpoint"] is None
    assert (folder / "model.safetensors").is_file() and (folder / "checkpoint-4").is_dir()


def test_checkpoint_of_weights_only_is_not_gone_on_from_but_finishes_a_run(run_recipe, tmp_path):
    steps = {**LEARNED, "max_steps": 2, "save_only_model": True}
    run, _ = run_recipe(tmp_path, **steps)
    bits = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").unlink()
    run_recipe(tmp_path, **steps, resume_from_checkpoint="auto")
    assert (run / "model.safetensors").read_bytes() == bits
    sentence = "checkpoint-1 holds weights only .save_only_model., and optimizer and learning rate would start again"
    with pytest.raises(ValueError, match=sentence):
        run_recipe(tmp_path / "named", **steps, resume_from_checkpoint=str(run / "checkpoint-1"))
    shutil.rmtree(run / "checkpoint-2")
    with pytest.raises(ValueError, match=sentence):
        run_recipe(tmp_path, **steps, resume_from_checkpoint="auto")


def test_run_whose_folder_was_moved_still_ends_with_its_best_checkpoint(run_recipe, tmp_path, worse_and_worse, caplog):
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    run_recipe(tmp_path / "old", **steps, test_split="none")
    run = (tmp_path / "old").rename(tmp_path / "new") / "run"
    (run / "model.safetensors").unlink()
    run_recipe(tmp_path / "new", **steps, test_split="none", resume_from_checkpoint="auto")
    assert same(weights(run), weights(run / "checkpoint-2"))
    longer = {**steps, "max_steps": 6, "test_split": "none", "resume_from_checkpoint": str(run / "checkpoint-4")}
    assert same(weights(run_recipe(tmp_path / "longer", **longer)[0]), weights(run / "checkpoint-2"))
    assert not [record for record in caplog.records if "is gone" in record.message]
    shutil.rmtree(run / "checkpoint-2")
    run_recipe(tmp_path / "new", **steps, test_split="none", resume_from_checkpoint="auto")
    assert same(weights(run), weights(run / "checkpoint-4"))
    assert [record for record in caplog.records if "checkpoint-2, is gone: the last weights" in record.message]


def test_straight_run_learns_at_every_step(straight):
    steps = [weights(straight / f"checkpoint-{step}") for step in range(1, 8)]
    for before, after in zip(steps, steps[1:], strict=False):
        assert not torch.equal(before["text_projection.weight"], after["text_projection.weight"])


def test_checkpoint_of_another_model_is_refused_before_anything_is_written(run_recipe, tmp_path):
    other = tmp_path / "checkpoint-5"
    other.mkdir()
    (other / "trainer_state.json").write_text("{}")
    (other / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="holds a model of type 'clip', not 'clipscratch'"):
        run_recipe(tmp_path / "new", **FROZEN, resume_from_checkpoint=str(other))
    assert not (tmp_path / "new" / "run").exists()


# Folders that are taken


def test_folder_of_a_run_is_refused_and_stays_as_it_is(run_recipe, finished):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ValueError, match="holds another run; use --overwrite_output_dir"):
        run_recipe(folder.parent, **FROZEN)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_folder_of_a_run_is_refused_also_where_resuming_is_declined(monkeypatch, write_recipe, finished):
    class Begun(Exception):
        pass

    def begun(args):
        raise Begun

    monkeypatch.setattr(module, "describe_device", begun)  # the first thing after the folder was opened
    path = write_recipe(finished[0].parent, **FROZEN)
    with pytest.raises(ValueError, match="holds another run"):
        train(*parse_recipe([str(path), "--resume_from_checkpoint", "false"]))


def test_overwriting_begins_anew_and_keeps_nothing_of_the_old_run(run_recipe, tmp_path):
    short = {**LEARNED, "max_steps": 2}
    folder, _ = run_recipe(tmp_path, **short)
    for name in ("metrics.json", "model.safetensors"):
        (folder / name).write_text("of the old run")
    (folder / "checkpoint-99").mkdir()
    run_recipe(tmp_path, **{**short, "max_steps": 1, "seed": 5}, overwrite_output_dir=True)
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-1"}
    assert "digits" in json.loads((folder / "metrics.json").read_text())
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["seed"] == 5
    assert ClipScratchModel.from_pretrained(folder) is not None


# A full disk


def test_failing_save_leaves_the_earlier_checkpoint_whole_and_says_so(run_recipe, tmp_path, monkeypatch):
    own, saves = ClipScratchModel.save_pretrained, []

    def full_at_the_second(self, folder, *given, **named):
        saves.append(Path(folder))
        if len(saves) == 2:
            (Path(folder) / "model.safetensors").write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        return own(self, folder, *given, **named)

    monkeypatch.setattr(ClipScratchModel, "save_pretrained", full_at_the_second)
    with pytest.raises(OSError, match="run cannot be written .No space left.* checkpoint-1 is complete: make room"):
        run_recipe(tmp_path, **LEARNED)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "checkpoint-1"}
    assert ClipScratchModel.from_pretrained(folder / "checkpoint-1").logit_scale.isfinite()
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} < {p.name for p in (folder / "checkpoint-1").iterdir()}


def test_failing_last_save_leaves_no_half_written_result(run_recipe, tmp_path, monkeypatch):
    def full(state, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_draw_curves", full)
    with pytest.raises(OSError, match="No space left.* checkpoint-1 is complete: make room"):
        run_recipe(tmp_path, **{**LEARNED, "max_steps": 1})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"recipe.yaml", "checkpoint-1"}


def test_library_is_silent_about_a_run_that_goes_well(run_recipe, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="modeling_clipscratch"):
        run_recipe(tmp_path, **{**LEARNED, "max_steps": 1})
    assert not [record for record in caplog.records if record.name.startswith("modeling_clipscratch")]


@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"ema_decay": 0.5, "eval_strategy": "steps"}])
def test_run_that_has_made_all_its_steps_is_finished_without_another(run_recipe, tmp_path, changes):
    """As after a kill between the last checkpoint and the folder's files; three batches an epoch, so it is amid one."""
    steps = {"max_steps": 4, "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2}
    steps |= {"eval_strategy": "no", "eval_steps": 2, **changes}
    run, expected = run_recipe(tmp_path, **steps)
    bits = (run / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "config.json", "metrics.json"):
        (run / name).unlink()
    _, found = run_recipe(tmp_path, **steps, resume_from_checkpoint="auto")
    assert (run / "model.safetensors").read_bytes() == bits and found == expected
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_picture_is_one_sentence_from_a_worker_too(run_recipe, tmp_path, workers, write_files):
    names = [f"{place}/{number}.png" for place in ("train/cat", "train/dog", "validation/cat") for number in range(8)]
    folder = write_files({**dict.fromkeys(names), "train/dog/3.png": b"no picture"})
    recipe = {"dataset": str(folder), "per_device_train_batch_size": 16, "max_steps": 1, "test_split": "none"}
    recipe |= {"keep_in_memory": False, "dataloader_num_workers": workers, "encode_chunk_size": 16}
    with pytest.raises(ValueError, match=r"dog/3.png: cannot be decoded") as caught:
        run_recipe(tmp_path / str(workers), **recipe)
    assert "Traceback" not in str(caught.value)


def test_second_run_with_cached_states_opens_no_picture(run_recipe, tmp_path, monkeypatch):
    frozen = {**FROZEN, "freeze_vision": True, "random_shift": 0, "test_split": "none", "dataloader_num_workers": 0}
    first, expected = run_recipe(tmp_path, **frozen)
    bits = (first / "model.safetensors").read_bytes()
    monkeypatch.setattr(Preprocess, "__call__", lambda *given: pytest.fail("a picture was opened"))
    again, found = run_recipe(tmp_path, **frozen, overwrite_output_dir=True)
    assert found == expected and (again / "model.safetensors").read_bytes() == bits


def test_mixed_pictures_are_trained_with_weighted_targets(run_recipe, tmp_path):
    run, metrics = run_recipe(tmp_path, cutmix=0.5, mixup=0.5, encode_chunk_size=150)
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    plain, _ = run_recipe(tmp_path / "plain", encode_chunk_size=150)
    before = json.loads((plain / "trainer_state.json").read_text())["log_history"]
    # A mixed picture belongs to two of ten classes nearly always.
    assert log[0]["positive_share"] > 1.6 * before[0]["positive_share"]
    assert set(metrics["digits"]) >= {"top1"}


def test_mixing_pictures_whose_states_are_cached_is_refused(run_recipe, tmp_path):
    with pytest.raises(ValueError, match="its features are cached; leave it out, or set cache_features to false"):
        run_recipe(tmp_path, freeze_vision=True, mixup=0.5)
