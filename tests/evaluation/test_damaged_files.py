"""Each file of a saved model, damaged in each way: loading says in one sentence which file it is."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from modeling_clipscratch.evaluation.load_model import load_model

TEXTS = {"empty": "", "cut": None, "list": "[]", "null": "null", "text": '"x"', "garbage": b"\x80\xff\x00" * 50}
JSON = ["config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json"]


@pytest.fixture
def folder(model, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(folder, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        load_model(folder, "cpu")
    assert "\n" not in str(error.value) and type(error.value) is ValueError


@pytest.mark.parametrize("damage", TEXTS)
@pytest.mark.parametrize("name", [*JSON, "model.safetensors"])
def test_a_damaged_file_is_named(folder, name, damage):
    path, content = folder / name, TEXTS[damage]
    whole = path.read_bytes()
    content = whole[: len(whole) // 2] if content is None else content
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(folder, f"model/{name} is damaged .*; copy")


@pytest.mark.parametrize("name", JSON)
def test_values_of_a_wrong_type_are_told_with_their_file(folder, name):
    odd = {str: ["x"], int: "x", float: "x", bool: "x", list: "x", dict: "x"}
    settings = json.loads((folder / name).read_text())
    settings = {key: value if key == "model_type" else odd.get(type(value)) for key, value in settings.items()}
    (folder / name).write_text(json.dumps(settings))
    refused(folder, f"model/{name} (holds a value that cannot be used|cannot be used)")


@pytest.mark.parametrize(("key", "value"), [("size", {"height": "x", "width": 8}), ("image_mean", "x")])
def test_a_value_that_only_an_image_meets_is_told_when_loaded(folder, key, value):
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"][key] = value
    (folder / "processor_config.json").write_text(json.dumps(settings))
    refused(folder, "processor_config.json holds a value that cannot be used")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


@pytest.mark.parametrize("content", [b"", b"garbage", [1], {"logit_scale": Evil()}, "whole"])
def test_a_pickle_that_is_more_than_weights_is_not_read(folder, content, monkeypatch, tmp_path):
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
        refused(folder, "pytorch_model.bin is damaged, or holds more than weights, which is not read")
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ("{", "index.json is damaged"),
        ("{}", "index.json is damaged .it has no weight_map"),
        ('{"weight_map": {"a": "model-2.safetensors"}}', "model-2.safetensors is missing, which .*index.json names"),
    ],
)
def test_a_damaged_table_of_shards_is_named(folder, index, sentence):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    refused(folder, sentence)


def test_weights_of_other_shapes_are_told(folder):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "projection_dim": 7}))
    refused(folder, "the weights have other shapes than config.json says")
