"""Load whole, damaged and foreign models: what loads is measured right, and every other gets one sentence."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    ViTImageProcessorPil,
)

from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.evaluation.encode import encode_pixels
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.training.recipe.arguments import ModelArguments
from modeling_clipscratch.training.towers.build import build_model

TEXTS = {"empty": "", "cut": None, "list": "[]", "null": "null", "text": '"x"', "garbage": b"\x80\xff\x00" * 50}
TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def folder(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def clip(processor, tmp_path):
    """A folder with a CLIP of transformers, which does not normalise images."""
    text = {**TOWER, "vocab_size": 20, "max_position_embeddings": 16, "eos_token_id": 3}
    vision = {**TOWER, "image_size": 8, "patch_size": 4}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(tmp_path)
    square = {"height": 8, "width": 8}
    images = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=square, do_normalize=False)
    CLIPProcessor(images, processor.tokenizer).save_pretrained(tmp_path)
    return tmp_path


def refused(folder, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        load_model(folder, "cpu")
    assert "\n" not in str(error.value) and type(error.value).__name__ == "ClipScratchError"


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_saved_model_loads_in_eval_mode_with_its_processor(folder, model):
    loaded, processor = load_model(folder, "cpu")
    assert not loaded.training and type(loaded) is type(model)
    assert processor.tokenizer.model_max_length == 64 and type(processor.image_processor) is ViTImageProcessorPil
    with pytest.raises(ValueError, match="device=abacus cannot be used here"):
        load_model(folder, "abacus")


@pytest.mark.parametrize("damage", TEXTS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "processor_config.json", "model.safetensors"])
def test_a_damaged_file_is_named(folder, name, damage):
    path, content = folder / name, TEXTS[damage]
    whole = path.read_bytes()
    content = whole[: len(whole) // 2] if content is None else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(folder, f"model/{name} is damaged .*; copy")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("content", [b"", b"garbage", [1], {"logit_scale": Evil()}, "whole"])
def test_a_pickle_is_read_only_if_it_holds_weights_alone(folder, content, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(weights if content == "whole" else content, folder / "pytorch_model.bin")
    if content == "whole":
        load_model(folder, "cpu")
    else:
        refused(folder, "model cannot be loaded|model lacks|is incomplete")
    assert not (tmp_path / "it-ran").exists()


def test_weights_that_are_missing_or_of_other_shapes_are_named(folder):
    change(folder / "config.json", projection_dim=7)
    refused(folder, "the weights have other shapes than config.json says")
    change(folder / "config.json", projection_dim=8)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"], weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "lacks 2 weights of a ClipScratchModel .text_projection.weight, ....; save the whole")


@pytest.mark.parametrize(
    ("removed", "sentence"),
    [
        ("model.safetensors", "is incomplete"),
        ("processor_config.json", "is incomplete|has no processor|image processor .* could not be loaded"),
        ("config.json", "has no config.json, so it holds no model; give the folder"),
    ],
)
def test_a_missing_file_is_reported(folder, removed, sentence):
    (folder / removed).unlink()
    refused(folder, sentence)


def test_what_is_no_clip_is_named(tmp_path):
    refused("no/such/model/here", "no/such/model/here is neither a folder with a model nor the id of one")
    for step in (5, 900, 1000):
        BertConfig().save_pretrained(tmp_path / f"checkpoint-{step}")
    refused(tmp_path, "did you mean .*checkpoint-1000")
    refused(tmp_path / "checkpoint-5", "type 'bert', which has no image and text features")


def test_a_missing_library_is_named(clip, monkeypatch):
    def needs(*_, **__):
        raise ImportError("SiglipTokenizer requires the SentencePiece library but it was not found.")

    monkeypatch.setattr("modeling_clipscratch.evaluation.load_model.AutoProcessor.from_pretrained", needs)
    refused(clip, "cannot be loaded .ImportError: SiglipTokenizer requires .*; try pip install sentencepiece")


def test_a_clip_of_transformers_is_read_as_it_was_trained(clip):
    model, processor = load_model(clip, "cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (11, 14, 3), dtype=np.uint8))
    with torch.no_grad():
        expected = model.get_image_features(**processor(images=image, return_tensors="pt")).pooler_output
    preprocess = Preprocess(processor.image_processor)
    found = encode_pixels(model, preprocess(image)[None].copy(), preprocess.mean, preprocess.std)
    assert torch.allclose(found, torch.nn.functional.normalize(expected), atol=1e-6)


# Code in a folder

CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel
class Config(PretrainedConfig):
    model_type = "stranger"
class Model(PreTrainedModel):
    config_class = Config
"""
CONFIG = {"AutoConfig": "stranger.Config", "AutoModel": "stranger.Model"}


@pytest.fixture
def stranger(folder, tmp_path, monkeypatch):
    """(JSON file, changes) -> a folder with code that leaves a mark when it runs; and the mark.

    Questions whether to run it are answered with yes.
    """
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    mark = tmp_path / "it-ran"

    def make(file, changes):
        settings = json.loads((folder / file).read_text())
        merged = {name: settings.get(name, {}) | new if isinstance(new, dict) else new for name, new in changes.items()}
        change(folder / file, **merged)
        (folder / "stranger.py").write_text(CODE.format(mark=str(mark)))
        return folder

    yield make, mark
    assert not mark.exists()


def test_the_mark_is_left_where_code_runs(stranger):
    """Else the tests below could not fail."""
    make, mark = stranger
    folder = make("config.json", {"model_type": "stranger", "auto_map": CONFIG})
    with pytest.raises((ValueError, TypeError, AttributeError, KeyError, RuntimeError)):
        AutoModel.from_pretrained(folder)
    assert mark.exists()
    mark.unlink()


IMAGES = {"image_processor_type": "I", "auto_map": {"AutoImageProcessor": "stranger.Model"}}
NEEDED = {
    "model": ("config.json", {"model_type": "stranger", "auto_map": CONFIG}),
    "tokenizer": ("tokenizer_config.json", {"tokenizer_class": "T", "auto_map": ["stranger.Model", None]}),
    "processor": ("processor_config.json", {"processor_class": "P", "auto_map": {"AutoProcessor": "stranger.Model"}}),
    "image processor": ("processor_config.json", {"image_processor": IMAGES}),
}
UNUSED = {
    "model": ("config.json", {"auto_map": CONFIG, "text_config": {"auto_map": CONFIG}}),
    "tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "stranger.Model"]}}),
    "image processor": ("processor_config.json", {"image_processor": {"auto_map": IMAGES["auto_map"]}}),
}


@pytest.mark.parametrize("case", NEEDED)
def test_a_folder_that_needs_its_code_is_refused(stranger, case):
    refused(stranger[0](*NEEDED[case]), "model needs code of its own, which is never run here")


@pytest.mark.parametrize("case", UNUSED)
def test_our_own_classes_are_used_for_known_types(stranger, case):
    loaded, _ = load_model(stranger[0](*UNUSED[case]))
    assert type(loaded).__module__ == "modeling_clipscratch.hub.modeling_clipscratch"


@pytest.mark.parametrize("part", ["text_tower", "vision_tower", "tokenizer"])
def test_training_runs_no_code_of_a_tower(stranger, part):
    file = "tokenizer_config.json" if part == "tokenizer" else "config.json"
    changes = {"model_type": "stranger", "tokenizer_class": "T"}
    folder = stranger[0](file, {**changes, "auto_map": {**CONFIG, "AutoTokenizer": [None, "stranger.Model"]}})
    towers = {"text_tower": "distilbert", "vision_tower": "vit", "image_size": 8, "patch_size": 4, "max_length": 12}
    with pytest.raises(ValueError, match="model needs code of its own"):
        build_model(ModelArguments(**{**towers, part: str(folder)}), ["a red square"])
