"""Write a tiny recipe on digits, and make a trainer of 64 digits; steps take milliseconds."""

import gc
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from modeling_clipscratch.data.batches.captions import CaptionTable
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments, ModelArguments
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.towers.build import build_model
from modeling_clipscratch.training.trainer import ClipScratchTrainer

TOWERS = {
    "text_tower": "distilbert", "text_hidden_size": 16, "text_num_layers": 1, "text_num_heads": 2,
    "vision_tower": "vit", "vision_hidden_size": 16, "vision_num_layers": 1, "vision_num_heads": 2,
    "image_size": 8, "patch_size": 4, "projection_dim": 16,
}  # fmt: skip
# 1,257 images are three batches of 400, the rest is left out.
RECIPE = {
    "dataset": "digits", **TOWERS, "per_device_train_batch_size": 400, "max_steps": 6, "random_shift": 1,
    "bf16": False, "attention": "sdpa", "disable_tqdm": True, "logging_steps": 1, "metric_for_best_model": "top1",
    "eval_strategy": "epoch",
}  # fmt: skip


def weights(folder):
    """Return the state dict of a run's folder or a checkpoint."""
    files = Path(folder).glob("model*.safetensors")
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def state_of(folder):
    """Return the content of a folder's `trainer_state.json`."""
    return json.loads((Path(folder) / "trainer_state.json").read_text())


def history(folder, name):
    """Return the values of a name in the log, in the order of the steps."""
    return [line[name] for line in state_of(folder)["log_history"] if name in line]


def same(first, second):
    """Return whether two dicts of tensors are equal to the bit."""
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.fixture(scope="session", autouse=True)
def quick_runs():
    """Draw no curves, which takes a third of a tiny run's time, and let no collection walk through the libraries."""
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        name = "modeling_clipscratch.evaluation.plots.curves.plot_curves"
        patch.setattr(name, lambda history, path: path.write_bytes(b""))
        yield


@pytest.fixture(scope="session")
def write_recipe():
    """(folder, changes) -> path of the tiny recipe with them; its run and its cache lie in the folder, too."""

    def write(folder, **changes):
        folder.mkdir(parents=True, exist_ok=True)
        settings = {**RECIPE, "output_dir": str(folder / "run"), "cache_dir": str(folder / "cache"), **changes}
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


@pytest.fixture(scope="session")
def run_recipe(write_recipe):
    """(folder, changes) -> (folder of the run, metrics that `train` returned)."""

    def run(folder, **changes):
        model, data, args, settings = parse_recipe([str(write_recipe(folder, **changes))])
        return Path(args.output_dir), train(model, data, args, settings)

    return run


@pytest.fixture
def make_trainer(tmp_path):
    """Changes of model and training arguments, parameters of the trainer -> a `ClipScratchTrainer`, not trained yet."""

    def make(model_changes=None, *, rows=64, options=None, **changes):
        data = load_data("digits", splits=["train"])
        chosen = data["train"].select(range(rows))
        torch.manual_seed(0)
        texts = CaptionTable.of(chosen, data.templates).texts
        model, processor = build_model(ModelArguments(**{**TOWERS, **(model_changes or {})}), texts)
        defaults = {
            "output_dir": str(tmp_path / "run"), "cache_dir": str(tmp_path / "cache"), "max_steps": 2,
            "per_device_train_batch_size": 16, "bf16": False, "disable_tqdm": True, "eval_strategy": "no",
            "save_strategy": "no",
        }  # fmt: skip
        given = {"model": model, "train_dataset": chosen, "eval_dataset": chosen, "processing_class": processor}
        given |= {"templates": data.templates, **(options or {})}
        return ClipScratchTrainer(args=ClipScratchTrainingArguments(**{**defaults, **changes}), **given)

    return make
