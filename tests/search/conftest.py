"""A tiny model and a folder of small pictures, all different, come out; without faiss the tests are skipped."""

import numpy as np
import pytest
from PIL import Image

from modeling_clipscratch.search.update_index import update_index


@pytest.fixture(scope="session", autouse=True)
def faiss():
    return pytest.importorskip("faiss", reason="faiss is not installed: pip install 'clipscratch[search]'")


@pytest.fixture(scope="session")
def model(make_model):
    return make_model()


@pytest.fixture(scope="session")
def save_picture():
    """(path, seed) -> an 11x8 picture of noise that only this seed has."""

    def save(path, seed):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (11, 8, 3), dtype=np.uint8)).save(path)

    return save


@pytest.fixture
def pictures(tmp_path, save_picture):
    """Ten of them: `0.png` to `4.png` and `deep/er/5.png` to `deep/er/9.png`."""
    folder = tmp_path / "pictures"
    for seed in range(10):
        save_picture(folder / ("" if seed < 5 else "deep/er") / f"{seed}.png", seed)
    return folder


@pytest.fixture
def update(model, word_processor):
    """(folder, settings) -> what `update_index` gives."""

    def call(folder, *, model=model, **settings):
        return update_index(folder, model, word_processor, model_name="a model", **settings)

    return call
