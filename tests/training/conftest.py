"""Changes to a tiny recipe on digits go in; a finished run, or a trainer, comes out. Steps take milliseconds."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from modeling_clipscratch.data import load_rows
from modeling_clipscratch.data.augment import Augment
from modeling_clipscratch.data.batches import PairDataset
from modeling_clipscratch.data.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.pixels import Preprocess
from modeling_clipscratch.training.arguments import ClipScratchTrainingArguments, ModelArguments
from modeling_clipscratch.training.build import build_model
from modeling_clipscratch.training.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.trainer import ClipScratchTrainer

TOWERS = {
    "text_tower": "distilbert", "text_hidden_size": 16, "text_num_layers": 1, "text_num_heads": 2,
    "vision_tower": "vit", "vision_hidden_size": 16, "vision_num_layers": 1, "vision_num_heads": 2,
    "image_size": 8, "patch_size": 4, "projection_dim": 16,
}  # fmt: skip
# 1,257 pictures are three batches of 400, the rest is left out.
RECIPE = {
    "dataset": "digits", **TOWERS, "per_device_train_batch_size": 400, "max_steps": 6, "random_shift": 1,
    "precision": "fp32", "attention": "sdpa", "disable_tqdm": True, "logging_steps": 1, "metric_for_best_model": "top1",
}  # fmt: skip


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
    """Changes of model and training arguments, options -> `ClipScratchTrainer` on 64 digits, nothing trained yet."""

    def make(model_changes=None, *, rows=64, muon_matrices=frozenset(), options=None, **changes):
        chosen = load_rows("digits", "train").select(np.arange(rows))
        captions = CaptionTable(chosen)
        torch.manual_seed(0)
        model, processor = build_model(ModelArguments(**{**TOWERS, **(model_changes or {})}), captions.texts)
        preprocess = Preprocess(processor.image_processor)
        tokens = TokenTable(captions.texts, processor.tokenizer, processor.tokenizer.model_max_length)
        pairs = PairDataset(chosen, captions, seed=0, pixels=preprocess.read_all(chosen)[0], tokens=tokens)
        defaults = {
            "output_dir": str(tmp_path / "run"), "per_device_train_batch_size": 16, "max_steps": 2,
            "precision": "fp32", "disable_tqdm": True, "eval_strategy": "no", "save_strategy": "no",
        }  # fmt: skip
        options = {"model": model, **(options or {})}
        return ClipScratchTrainer(
            args=ClipScratchTrainingArguments(**{**defaults, **changes}),
            train_dataset=pairs,
            eval_dataset=pairs,
            processing_class=processor,
            augment=Augment(mean=preprocess.mean, std=preprocess.std),
            muon_matrices=muon_matrices,
            **options,
        )

    return make
