"""Folders that bring code of their own go in; it never runs, and what needs it is refused with the files' names."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoModel

from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.training.recipe.arguments import ModelArguments
from modeling_clipscratch.training.towers.build import build_model

ROOT = Path(__file__).parents[2]
CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import PretrainedConfig, PreTrainedModel
class Config(PretrainedConfig):  # classes of their own: transformers marks what it loads, for good
    model_type = "stranger"
class Model(PreTrainedModel):
    config_class = Config
"""
CONFIG = {"AutoConfig": "stranger.Config", "AutoModel": "stranger.Model"}


@pytest.fixture
def stranger(model, processor, tmp_path, monkeypatch):
    """(JSON file, changes of it) -> a folder with code that leaves a mark when it runs; and the mark.

    Whoever asks whether to run it is told yes.
    """
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    mark, folder = tmp_path / "it-ran", tmp_path / "folder"

    def make(file, changes):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        path = folder / file
        settings = json.loads(path.read_text())
        for name, value in changes.items():
            settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
        path.write_text(json.dumps(settings))
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


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "stranger", "auto_map": CONFIG}),
        ("tokenizer_config.json", {"tokenizer_class": "T", "auto_map": {"AutoTokenizer": [None, "stranger.Model"]}}),
        ("tokenizer_config.json", {"tokenizer_class": "T", "auto_map": ["stranger.Model", None]}),
        ("processor_config.json", {"processor_class": "P", "auto_map": {"AutoProcessor": "stranger.Model"}}),
        (
            "processor_config.json",
            {"image_processor": {"image_processor_type": "I", "auto_map": {"AutoImageProcessor": "stranger.Model"}}},
        ),
    ],
    ids=["model", "tokenizer", "older tokenizer", "processor", "image processor"],
)
def test_what_needs_a_stranger_s_code_is_refused_with_its_files(stranger, file, changes):
    folder = stranger[0](file, changes)
    with pytest.raises(ValueError, match=r"folder cannot be read without code of its own.* \(it names .*stranger.py\)"):
        load_model(folder)


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"auto_map": CONFIG}),
        ("config.json", {"text_config": {"auto_map": CONFIG}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "stranger.Model"]}}),
        ("tokenizer_config.json", {"auto_map": ["stranger.Model", None]}),
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "stranger.Model"}}}),
    ],
    ids=["model", "tower", "tokenizer", "older tokenizer", "image processor"],
)
def test_of_known_types_our_own_classes_are_used(stranger, file, changes):
    loaded, _ = load_model(stranger[0](file, changes))
    assert type(loaded).__module__ == "modeling_clipscratch.hub.modeling_clipscratch"


@pytest.mark.parametrize("part", ["text_tower", "vision_tower", "tokenizer"])
def test_training_runs_no_code_of_a_tower_either(stranger, part):
    file = "tokenizer_config.json" if part == "tokenizer" else "config.json"
    changes = {"model_type": "stranger", "tokenizer_class": "T"}
    folder = stranger[0](file, {**changes, "auto_map": {**CONFIG, "AutoTokenizer": [None, "stranger.Model"]}})
    towers = {"text_tower": "distilbert", "vision_tower": "vit", "image_size": 8, "patch_size": 4, "max_length": 12}
    with pytest.raises(ValueError, match=r"folder cannot be read without code of its own.* \(it names .*stranger.py\)"):
        build_model(ModelArguments(**{**towers, part: str(folder)}), ["a red square"])


@pytest.mark.parametrize("script", ["run_eval", "run_inference"])
def test_commands_say_so_in_one_sentence_with_status_2(stranger, script, monkeypatch, capsys, tmp_path):
    folder = stranger[0]("config.json", {"model_type": "stranger", "auto_map": CONFIG})
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    rest = ["--dataset", "digits"] if script == "run_eval" else ["--images", str(picture), "--labels", "a", "b"]
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr(sys, "argv", [script, "--model", str(folder), *rest])
    with pytest.raises(SystemExit) as stopped:
        __import__(script).program()
    said = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert said[-1].startswith(f"error: {folder} cannot be read without code of its own") and "stranger.py" in said[-1]
