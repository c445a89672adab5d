"""A tiny model goes in; a trained folder of it comes out. Without the export's libraries the tests are skipped."""

import pytest


@pytest.fixture(scope="session")
def save_model(make_model, word_processor, tmp_path_factory):
    """Settings of `make_model` -> (folder of a model with its processor, the model)."""

    def save(**settings):
        folder, model = tmp_path_factory.mktemp("model"), make_model(**settings)
        model.save_pretrained(folder)
        word_processor.save_pretrained(folder)
        return folder, model

    return save
