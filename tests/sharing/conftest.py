"""Nothing goes in; folders as training leaves them, with tiny models, come out."""

import json
import shutil

import pytest

from modeling_clipscratch.training.saving.run_folder import versions


@pytest.fixture(scope="session")
def trained_once(make_model, word_processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    make_model().save_pretrained(folder)
    word_processor.save_pretrained(folder)
    (folder / "recipe.yaml").write_text("dataset: digits\n")
    (folder / "metrics.json").write_text(json.dumps({"digits": {"top1": 0.5}}))
    (folder / "versions.json").write_text(json.dumps(versions()))
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": []}))
    (folder / "curves.png").write_bytes(b"a picture")
    return folder


@pytest.fixture
def trained(trained_once, tmp_path):
    """A copy of one folder for every test."""
    return shutil.copytree(trained_once, tmp_path / "run")


@pytest.fixture(scope="session")
def save_model(make_model, word_processor, tmp_path_factory):
    """Settings of `make_model` -> (folder of a model with its processor, the model)."""

    def save(**settings):
        folder, model = tmp_path_factory.mktemp("model"), make_model(**settings)
        model.save_pretrained(folder)
        word_processor.save_pretrained(folder)
        return folder, model

    return save
