"""Check that code which a tower, a CLIP or an older folder names never reaches a folder, a repository or a page."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import DistilBertModel, ViTModel

from modeling_clipscratch import ClipScratchModel, hub
from modeling_clipscratch.cli import train as run_train
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.hub.configuration_clipscratch import AUTO_MAP
from modeling_clipscratch.sharing.push_model import push_folder

FOREIGN = "evil_module"
OURS = {path.name for path in Path(hub.__file__).parent.glob("*_clipscratch.py")}
AUTO = ("AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification", "AutoProcessor", "AutoImageProcessor")
SETTINGS = ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json")


def plant(folder, *names):
    """Add references to code in `folder` to its JSON files (default: all), also to the configs inside them.

    Returns: the file that is made when the code runs.
    """
    mark = folder.parent / f"{folder.name}-ran"
    (folder / f"{FOREIGN}.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    reference = f"{folder}--{FOREIGN}.Evil"
    for path in (folder / name for name in names or SETTINGS if (folder / name).is_file()):
        settings = json.loads(path.read_text())
        nested = [
            part for part in settings.values() if isinstance(part, dict) and {"model_type", "image_mean"} & {*part}
        ]
        for part in (settings, *nested):
            own = part.get("auto_map", {})
            part["auto_map"] = {**dict.fromkeys(AUTO, reference), "AutoTokenizer": [None, reference], **own}
            part["custom_pipelines"] = {"zero-shot-image-classification": {"impl": reference, "pt": ["AutoModel"]}}
        path.write_text(json.dumps(settings))
    return mark


def check_clean(folder):
    """Check that no file names the planted code, no JSON file any but ours, and the only code is ours."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert not [path for path in paths if FOREIGN.encode() in path.read_bytes()]
    assert {path.name for path in paths if path.suffix == ".py"} <= OURS
    for path in paths:
        if path.suffix == ".json":
            json.loads(path.read_text(), object_hook=check_part)
    return paths


def check_part(part):
    assert part.get("auto_map", AUTO_MAP) == AUTO_MAP and "custom_pipelines" not in part
    return part


@pytest.fixture(scope="module")
def towers(tower_config, word_processor, tmp_path_factory):
    """(folder of a text tower, of a vision tower, marks); the image processor lies in a file of each kind."""
    base = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    DistilBertModel(tower_config("distilbert")).save_pretrained(base / "text")
    ViTModel(tower_config("vit")).save_pretrained(base / "vision")
    word_processor.save_pretrained(base / "text")
    word_processor.image_processor.save_pretrained(base / "vision")
    return base / "text", base / "vision", [plant(base / "text"), plant(base / "vision")]


@pytest.fixture(scope="module")
def trained(towers, tmp_path_factory):
    """Folder of a run on the two towers with a checkpoint after each of its two steps."""
    base = tmp_path_factory.mktemp("trained")
    recipe = {
        "dataset": "digits", "text_tower": str(towers[0]), "vision_tower": str(towers[1]), "projection_dim": 8,
        "cache_dir": str(base / "cache"), "max_steps": 2, "save_strategy": "steps", "save_steps": 1,
        "eval_strategy": "no", "bf16": False, "disable_tqdm": True,
    }  # fmt: skip
    (base / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run_train.main([str(base / "recipe.yaml"), "--output_dir", str(base / "run")])
    return base / "run"


@pytest.fixture
def older(make_model, word_processor, tmp_path):
    """(ClipScratch folder that an older version wrote around such towers, mark)."""
    make_model().save_pretrained(tmp_path / "older")
    word_processor.save_pretrained(tmp_path / "older")
    return tmp_path / "older", plant(tmp_path / "older")


def test_training_saves_references_to_our_code_alone(trained, towers):
    names = {path.relative_to(trained).as_posix() for path in check_clean(trained)}
    for place in ("", "checkpoint-1/", "checkpoint-2/"):
        files = {"config.json", "tokenizer_config.json", "processor_config.json", *OURS}
        assert {place + name for name in files} <= names
    assert not any(mark.exists() for mark in towers[2])


@pytest.mark.parametrize("file", SETTINGS[:3])
def test_folder_that_names_other_code_is_not_pushed(hub, older, file):
    folder, _ = older
    for name in {*SETTINGS[:3]} - {file}:
        ours = json.loads((folder / name).read_text())
        kept = {key: value for key, value in ours.items() if key not in ("auto_map", "custom_pipelines")}
        (folder / name).write_text(re.sub(rf"[^\"]*{FOREIGN}[^\"]*", "", json.dumps(kept)))
    with pytest.raises(ValueError, match=rf"{file} names code that is not ClipScratch's \(.*{FOREIGN}.Evil\), which"):
        push_folder(folder, "you/clip")
    assert not hub.seen


@pytest.mark.parametrize("saved_by", ["from_towers", "from_pretrained", "load_model"])
def test_what_a_user_saves_names_our_code_alone(towers, older, tmp_path, saved_by):
    if saved_by == "from_towers":
        text, vision = DistilBertModel.from_pretrained(towers[0]), ViTModel.from_pretrained(towers[1])
        text.config.nested = {"auto_map": {"AutoModel": f"{FOREIGN}.Evil"}}
        assert FOREIGN in str(text.config) and FOREIGN in str(vision.config)
        for part in ClipScratchModel.from_towers(text, vision, tokenizer=towers[0], image_processor=towers[1]):
            part.save_pretrained(tmp_path / "saved")
    elif saved_by == "from_pretrained":
        model = ClipScratchModel.from_pretrained(older[0])
        assert FOREIGN in str(model.config.text_config)
        model.save_pretrained(tmp_path / "saved")
        model.config.save_pretrained(tmp_path / "saved")
    else:  # what an export and a page are made of
        for part in load_model(older[0], "cpu"):
            part.save_pretrained(tmp_path / "saved")
    assert check_clean(tmp_path / "saved")
