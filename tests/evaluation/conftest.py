"""Make a tiny ClipScratch model with its processor, and prepared datasets of both kinds."""

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, ViTConfig

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from modeling_clipscratch.data.dataset import build_dataset, image_bytes, ppm, prepare_dataset
from modeling_clipscratch.evaluation.plots import result_plots
from tests.conftest import processor_of

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "picture", "of", "something", "bright", *COLOURS]


@pytest.fixture(scope="session")
def processor():
    return processor_of(WORDS, 64)


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    text = DistilBertConfig(
        vocab_size=len(WORDS), dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=12
    )
    vision = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4
    )
    return ClipScratchModel(ClipScratchConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()


@pytest.fixture(scope="session")
def make_rows():
    """Count, and labels or captions -> rows of noisy red, green and blue images in turn; some of them broken."""
    return rows_of


@pytest.fixture
def class_rows():
    return rows_of(12, labels=np.arange(12) % 3)


@pytest.fixture
def caption_rows():
    names = list(COLOURS)
    captions = [[f"a picture of something {names[i % 3]}"] + ["bright " * i + names[i % 3]] * (i % 2) for i in range(8)]
    return rows_of(8, captions=captions)


@pytest.fixture
def templates():
    return ["a picture of something {}", "bright {}"]


@pytest.fixture
def quick_plots(monkeypatch):
    """A report of one small plot, so that a test of its files is quick."""
    kept = dict(list(result_plots._CLASS.items())[:1])
    monkeypatch.setattr(result_plots, "_CLASS", kept)


def rows_of(count, *, labels=None, captions=None, broken=(), keys=None, name="colours", split="test"):
    images = image_bytes([b"broken" if i in broken else ppm(_image(i)) for i in range(count)])
    names = None if labels is None else list(COLOURS)
    keys = keys or [f"colours-{i}" for i in range(count)]
    dataset = build_dataset(images, keys, captions=captions, labels=labels, class_names=names)
    return prepare_dataset(dataset, name=name, split=split)


def _image(index):
    noise = np.random.default_rng(index).integers(0, 30, (8, 8, 3))
    return (noise + np.array(list(COLOURS.values())[index % 3])).clip(0, 255).astype(np.uint8)
