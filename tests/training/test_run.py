"""Run tiny recipes on digits, and check the folders of finished, resumed, overwritten and failed runs."""

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
from modeling_clipscratch.utils.errors import ClipScratchError
from tests.training.conftest import same, state_of, weights

# The features of a frozen text tower are cached, and the best of two epochs is kept.
FROZEN = {"freeze_text": True, "max_steps": -1, "num_train_epochs": 2, "dataloader_num_workers": 1}
# Seven steps are two epochs of three and a step, with dropout in the text tower and random augmentation.
LEARNED = {
    "freeze_text": False, "max_steps": 7, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 20,
    "eval_strategy": "no", "test_split": "none", "random_erasing": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(run_recipe, tmp_path_factory):
    """(folder, metrics) of a run with a frozen text tower."""
    return run_recipe(tmp_path_factory.mktemp("finished"), **FROZEN)


@pytest.fixture(scope="module")
def straight(run_recipe, tmp_path_factory):
    """Folder of a run of seven steps with a checkpoint after each."""
    return run_recipe(tmp_path_factory.mktemp("straight"), **LEARNED)[0]


@pytest.fixture
def two_classes(write_files):
    """A folder of 20 red and 20 blue images without splits."""
    return write_files([f"{name}/{number}.png" for name in ("red", "blue") for number in range(20)])


@pytest.fixture
def worse_and_worse(monkeypatch):
    """Every evaluation gives a lower metric than the one before."""
    metrics = lambda trainer, *args, **named: {"eval_top1": 1 / (1 + trainer.state.global_step)}  # noqa: E731
    monkeypatch.setattr(ClipScratchTrainer, "evaluate", metrics)


# A finished run


def test_run_folder_holds_what_the_design_lists_and_nothing_else(finished):
    folder, _ = finished
    code = {path.name for path in Path(hub.__file__).parent.glob("*_clipscratch.py")}
    model = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    results = {"recipe.yaml", "trainer_state.json", "metrics.json", "versions.json", "curves.png", "SHA256SUMS"}
    assert {path.name for path in folder.iterdir()} == code | model | results | {"checkpoint-3", "checkpoint-6"}


def test_metrics_are_fractions_with_intervals_under_the_name_of_the_dataset(finished):
    folder, returned = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == returned and set(metrics) == {"digits"}
    names = {"top1", "top5", "mean_per_class_recall", "expected_calibration_error"}
    assert set(metrics["digits"]) == names | {f"{name}_ci95" for name in names}
    for name in names:
        low, high = metrics["digits"][f"{name}_ci95"]
        assert 0 <= low <= metrics["digits"][name] <= high <= 1


def test_recipe_and_versions_are_those_of_the_run(finished):
    folder, _ = finished
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    written = yaml.safe_load((folder.parent / "recipe.yaml").read_text()) | {"global_batch_size": 400}
    free = {"output_dir", "cache_dir", "disable_tqdm"}
    assert recipe == {name: value for name, value in written.items() if name not in free}
    versions = json.loads((folder / "versions.json").read_text())
    assert versions["torch"] == torch.__version__ and {"python", "platform", "device", "transformers"} <= set(versions)


def test_run_folder_is_opened_by_the_auto_classes(finished):
    folder, _ = finished
    model = AutoModel.from_pretrained(folder, trust_remote_code=False)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    assert type(model) is ClipScratchModel and model.config.projection_dim == 16
    inputs = processor(text="the digit three.", images=torch.zeros(8, 8, 3, dtype=torch.uint8), return_tensors="pt")
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]
    with torch.no_grad():
        assert model(**inputs).logits_per_image.shape == (1, 1)


def test_finished_run_is_its_best_checkpoint_to_the_bit_with_the_frozen_tower_unchanged(finished):
    folder, _ = finished
    history = state_of(folder)["log_history"]
    scores = {line["step"]: line["eval_top1"] for line in history if "eval_top1" in line}
    assert [line["step"] for line in history if "loss" in line] == [1, 2, 3, 4, 5, 6] and set(scores) == {3, 6}
    best = max(scores, key=lambda step: (scores[step], step))  # the last of equals
    first, last = (weights(folder / f"checkpoint-{step}") for step in (3, 6))
    assert same(weights(folder), first if best == 3 else last)
    for name, tensor in first.items():
        if "k_proj.bias" not in name:  # these have no gradient
            assert torch.equal(tensor, last[name]) == name.startswith("text_model."), name


@pytest.mark.slow
def test_of_equal_checkpoints_the_last_is_kept(run_recipe, tmp_path):
    still = {**FROZEN, "learning_rate": 1e-30, "weight_decay": 0.0}  # no weight changes, so all evaluations are equal
    assert state_of(run_recipe(tmp_path, **still)[0])["best_global_step"] == 6


def test_library_logs_no_warning_in_a_run_that_goes_well(run_recipe, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="modeling_clipscratch"):
        run_recipe(tmp_path, **{**LEARNED, "max_steps": 1})
    assert not [record for record in caplog.records if record.name.startswith("modeling_clipscratch")]


# The data of a run


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
    assert reached.value.args == (DataOptions(**names, revision="v", on_bad_row="skip"),)
    others = {item.name for item in fields(DataOptions)} - names.keys() - {"revision", "on_bad_row"}
    assert others == {"caption_column", "cache_dir"}  # excluded by label_column; that of cached features is another


# Files of a folder, changes of the recipe, the sentence. All are raised before a model is built or a file written.
REFUSED = [
    ({}, {"dataset": None}, "dataset is missing; give --dataset"),
    ({"cat/1.png", "dog/2.png"}, {"test_split": "no"}, "too few .* eval_strategy no"),
    ({f"daisy/{n}.png" for n in range(20)}, {}, "has one class, 'daisy', and training needs two"),
    ({f"{c}/{n}.png" for c in "ab" for n in range(9)}, {"test_split": "test"}, "no split 'test'"),
    (
        {f"{c}/{n}.png" for c in "ab" for n in range(9)},
        {"metric_for_best_model": "top5"},
        "top5 is not measured on this",
    ),
    ({f"{c}/{n}.png" for c in "ab" for n in range(9)}, {"label_column": "kind"}, "label_column='kind'"),
    ({}, {"metric_for_best_model": "text_to_image_recall@5"}, "metric_for_best_model=text_to_image_recall@5 is not"),
    (
        {},
        {"freeze_vision": True, "random_erasing": 0.5},
        "its features are cached; leave it out",
    ),
]


@pytest.mark.parametrize(("files", "changes", "sentence"), REFUSED)
def test_what_does_not_fit_the_data_is_refused_before_anything_is_encoded(
    run_recipe, tmp_path, write_files, monkeypatch, files, changes, sentence
):
    monkeypatch.setattr(Preprocess, "__call__", lambda *args: pytest.fail("an image was decoded"))
    dataset = {"dataset": str(write_files(sorted(files)))} if files else {}
    with pytest.raises(ClipScratchError, match=sentence):
        run_recipe(tmp_path, **{**dataset, **changes})
    assert not (tmp_path / "run").exists()


def test_data_without_a_test_split_are_measured_on_validation(run_recipe, tmp_path, two_classes, caplog):
    caplog.set_level("INFO", "modeling_clipscratch")
    recipe = {"dataset": str(two_classes), "max_steps": 1, "eval_strategy": "no", "save_strategy": "no"}
    folder, metrics = run_recipe(tmp_path, **recipe, validation_fraction=0.3)
    assert "top1" in metrics[str(two_classes)]
    assert "has no test split: the finished run is measured on validation, if any" in caplog.text
    assert "global_batch_size=400 is more than the 28 training rows: the batch is 28" in caplog.text
    facts = state_of(folder)["stateful_callbacks"]["TrainingRecord"]["attributes"]
    assert facts["dataset"]["rows"] == {"train": 28, "validation": 12}
    none = {**recipe, "validation_fraction": 0.0, "test_split": "none"}
    assert run_recipe(tmp_path / "none", **none)[1] == {str(two_classes): {}}


def test_validation_rows_are_the_same_whatever_the_seed(tmp_path, two_classes, write_recipe):
    kept = []
    for seed in (0, 1):
        _, data, args, _ = parse_recipe([str(write_recipe(tmp_path, dataset=str(two_classes), seed=seed))])
        kept.append(module._load(data, args)[0]["validation"]["key"][:])
    assert kept[0] == kept[1] == load_data(str(two_classes))["validation"]["key"][:] and len(kept[0]) == 4


@pytest.mark.parametrize("in_memory", [pytest.param(True, marks=pytest.mark.slow), False])
def test_broken_validation_images_are_skipped_in_memory_and_on_disk(
    run_recipe, tmp_path, two_classes, in_memory, monkeypatch
):
    broken = two_classes / "red" / load_data(str(two_classes))["validation"][0]["key"].rpartition("/")[2]
    broken.write_bytes(b"not an image")
    monkeypatch.setattr(pairs, "_IN_MEMORY", 4e9 if in_memory else 0)
    recipe = {"dataset": str(two_classes), "max_steps": 2, "on_bad_row": "skip", "save_strategy": "no"}
    _, metrics = run_recipe(tmp_path, **recipe, eval_strategy="steps", eval_steps=1)
    assert 0 <= metrics[str(two_classes)]["top1"] <= 1


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_broken_image_is_one_sentence_from_a_worker_too(run_recipe, tmp_path, workers, write_files):
    names = [f"{place}/{number}.png" for place in ("train/cat", "train/dog", "validation/cat") for number in range(8)]
    folder = write_files({**dict.fromkeys(names), "train/dog/3.png": b"not an image"})
    recipe = {"dataset": str(folder), "max_steps": 1, "keep_in_memory": False, "dataloader_num_workers": workers}
    with pytest.raises(ClipScratchError, match=r"dog/3.png: cannot be decoded") as caught:
        run_recipe(tmp_path, **recipe, encode_chunk_size=16)
    assert "Traceback" not in str(caught.value)


def test_second_run_with_cached_features_decodes_no_image(run_recipe, tmp_path, monkeypatch):
    frozen = {
        **FROZEN,
        "num_train_epochs": 1,
        "freeze_vision": True,
        "random_shift": 0,
        "test_split": "none",
        "dataloader_num_workers": 0,
    }
    first, expected = run_recipe(tmp_path, **frozen)
    bits = (first / "model.safetensors").read_bytes()
    monkeypatch.setattr(Preprocess, "__call__", lambda *args: pytest.fail("an image was decoded"))
    again, metrics = run_recipe(tmp_path, **frozen, overwrite_output_dir=True)
    assert metrics == expected and (again / "model.safetensors").read_bytes() == bits


# Resuming


@pytest.mark.parametrize("step", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_resumed_run_equals_the_straight_one_to_the_bit(run_recipe, straight, tmp_path, step):
    # After two steps within an epoch; after three at its end.
    resumed, _ = run_recipe(tmp_path, **LEARNED, resume_from_checkpoint=str(straight / f"checkpoint-{step}"))
    assert [path.name for path in resumed.glob("checkpoint-*")] and not (resumed / f"checkpoint-{step}").exists()
    for folder in ("checkpoint-4", "checkpoint-7", "."):
        assert same(weights(resumed / folder), weights(straight / folder)), folder
    ends = [torch.load(run / "checkpoint-7" / "optimizer.pt")["state"] for run in (straight, resumed)]
    assert all(same(ends[0][number], ends[1][number]) for number in ends[0])
    losses = [[line["loss"] for line in state_of(run)["log_history"] if "loss" in line] for run in (straight, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 7


@pytest.mark.slow
def test_run_whose_best_evaluation_had_no_checkpoint_ends_all_the_same(run_recipe, tmp_path, worse_and_worse):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 2}
    folder, _ = run_recipe(tmp_path, **steps, max_steps=4, save_total_limit=1, ema_decay=0.5, test_split="none")
    state = state_of(folder)
    assert state["best_global_step"] == 1 and state["best_model_checkpoint"] is None
    assert (folder / "model.safetensors").is_file() and (folder / "checkpoint-4").is_dir()


@pytest.mark.slow
def test_run_whose_folder_was_moved_still_ends_with_its_best_checkpoint(run_recipe, tmp_path, worse_and_worse, caplog):
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    run_recipe(tmp_path / "old", **steps, test_split="none")
    run = (tmp_path / "old").rename(tmp_path / "new") / "run"
    (run / "model.safetensors").unlink()
    run_recipe(tmp_path / "new", **steps, test_split="none", resume_from_checkpoint="auto")
    assert same(weights(run), weights(run / "checkpoint-2"))
    longer = {**steps, "max_steps": 6, "test_split": "none", "resume_from_checkpoint": str(run / "checkpoint-4")}
    assert same(weights(run_recipe(tmp_path / "longer", **longer)[0]), weights(run / "checkpoint-2"))
    assert not [record for record in caplog.records if "cannot be used" in record.message]
    shutil.rmtree(run / "checkpoint-2")
    run_recipe(tmp_path / "new", **steps, test_split="none", resume_from_checkpoint="auto")
    assert same(weights(run), weights(run / "checkpoint-4"))
    assert [record for record in caplog.records if "checkpoint-2, cannot be used" in record.message]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.5}, {"ema_decay": 0.5, "eval_strategy": "steps"}])
def test_run_that_has_made_all_its_steps_is_finished_without_another(run_recipe, tmp_path, changes):
    # As after a kill between the last checkpoint and the folder's files.
    steps = {"max_steps": 4, "lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 2}
    steps |= {"eval_strategy": "no", "eval_steps": 2, **changes}
    run, expected = run_recipe(tmp_path, **steps)
    bits = (run / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "config.json", "metrics.json"):
        (run / name).unlink()
    _, metrics = run_recipe(tmp_path, **steps, resume_from_checkpoint="auto")
    assert (run / "model.safetensors").read_bytes() == bits and metrics == expected
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


# Folders that are in use, and full disks


@pytest.mark.parametrize("resume", [None, "false"])
def test_folder_of_another_run_is_refused_and_stays_as_it_is(write_recipe, finished, resume):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    path = write_recipe(folder.parent, **FROZEN, resume_from_checkpoint=resume)
    with pytest.raises(ClipScratchError, match="holds another run; use --overwrite_output_dir"):
        train(*parse_recipe([str(path)]))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_failing_save_leaves_the_earlier_checkpoint_complete_and_says_so(run_recipe, tmp_path, monkeypatch):
    own, saves = ClipScratchModel.save_pretrained, []

    def full_at_the_second(self, folder, *args, **named):
        saves.append(Path(folder))
        if len(saves) == 2:
            Path(folder).mkdir(parents=True, exist_ok=True)
            (Path(folder) / "model.safetensors").write_bytes(b"half of it")
            raise OSError(28, "No space left on device")
        return own(self, folder, *args, **named)

    monkeypatch.setattr(ClipScratchModel, "save_pretrained", full_at_the_second)
    with pytest.raises(OSError, match="No space left.*make room"):
        run_recipe(tmp_path, **LEARNED)
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {"recipe.yaml", "checkpoint-1"}
    assert ClipScratchModel.from_pretrained(folder / "checkpoint-1").logit_scale.isfinite()
