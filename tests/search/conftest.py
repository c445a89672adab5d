"""Provide a tiny model and a folder of small, different images."""

import numpy as np
import pytest
from PIL import Image

from modeling_clipscratch.search.image_index import update_index


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()


@pytest.fixture(scope="session")
def save_image():
    """(path, seed) -> an 11x8 image of noise that only this seed has."""

    def save(path, seed):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (11, 8, 3), dtype=np.uint8)).save(path)

    return save


@pytest.fixture
def images(tmp_path, save_image):
    """Folder of ten images: `0.png` to `4.png` and `deep/er/5.png` to `deep/er/9.png`."""
    folder = tmp_path / "images"
    for seed in range(10):
        save_image(folder / ("" if seed < 5 else "deep/er") / f"{seed}.png", seed)
    return folder


@pytest.fixture
def update(model, word_processor):
    """(folder, settings) -> what `update_index` returns."""

    def call(folder, *, model=model, processor=word_processor, **settings):
        return update_index(folder, model, processor, model_name="a model", **settings)

    return call
