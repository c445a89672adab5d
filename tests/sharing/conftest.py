"""Provide folders with tiny models, as training leaves them."""

import json
import shutil

import pytest
import torch


@pytest.fixture(scope="session")
def save_model(make_model, word_processor, tmp_path_factory):
    """Settings of `make_model` -> (folder of a model with its processor, the model)."""

    def save(**settings):
        folder, model = tmp_path_factory.mktemp("model"), make_model(**settings)
        model.save_pretrained(folder)
        word_processor.save_pretrained(folder)
        return folder, model

    return save


@pytest.fixture(scope="session")
def trained_once(save_model):
    folder, _ = save_model()
    (folder / "recipe.yaml").write_text("dataset: digits\n")
    (folder / "metrics.json").write_text(json.dumps({"digits": {"top1": 0.5}}))
    (folder / "versions.json").write_text(json.dumps({"torch": torch.__version__}))
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": []}))
    (folder / "curves.png").write_bytes(b"a plot")
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of the same folder for each test."""
    return shutil.copytree(trained_once, tmp_path / "run")
