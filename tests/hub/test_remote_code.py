"""Open a saved folder in a process without the package, compare the outputs, and save it again."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from modeling_clipscratch import ClipScratchModel, hub
from modeling_clipscratch.hub import configuration_clipscratch
from modeling_clipscratch.hub.configuration_clipscratch import AUTO_MAP

PROCESSOR = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
# Runs with the package blocked, in another folder, with a cache of remote code of its own.
SCRIPT = """
import builtins, sys
sys.modules["modeling_clipscratch"] = None
builtins.input = lambda question: sys.exit(question)  # transformers catches every Exception
from pathlib import Path
import torch
from PIL import Image
from transformers import (
    AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, AutoTokenizer, pipeline
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor

folder, copy, renamed, answers = map(Path, sys.argv[1:])
texts, image = ["a red square", "a photo of the blue circle", "red", "circle"], Image.new("RGB", (13, 9), "red")
images = [image.rotate(60 * turn) for turn in range(4)]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
batch = processor(text=texts, images=images, padding=True, return_tensors="pt")
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
assert tokenizer(texts)["input_ids"][2:] == [[2, 8, 3], [2, 11, 3]]
alone = AutoImageProcessor.from_pretrained(folder, backend="pil")(image, return_tensors="pt")
assert torch.equal(alone.pixel_values[0], batch["pixel_values"][0])
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).projection_dim == 8
results = {"batch": dict(batch)}

def load(name, place, auto=AutoModel):
    model = auto.from_pretrained(place, trust_remote_code=True).eval()
    with torch.no_grad():
        output = model(**batch, group=torch.tensor([0, 1, 0, 2]), return_loss=True)
    results[name] = {
        "code": type(model).__module__,
        "frozen": not any(p.requires_grad for p in model.text_model.parameters()),
        **{part: output[part] for part in ("loss", "logits_per_image", "text_embeds", "image_embeds")},
    }
    return model

model = load("first", folder)
load("zero-shot", folder, AutoModelForZeroShotImageClassification)
with torch.no_grad():
    model.logit_scale.fill_(1.25)
model.save_pretrained(folder)
load("own folder", folder)
model.save_pretrained(copy)
processor.save_pretrained(copy)
load("other folder", copy)
towers = {"text": model.config.text_config, "vision": model.config.vision_config, "text_pooling": "mean"}
_, own = type(model).from_towers(**towers, tokenizer=str(folder), image_processor=str(folder))
assert type(own) is type(processor) and own.tokenizer(texts)["input_ids"] == tokenizer(texts)["input_ids"]
copy.rename(renamed)
load("renamed folder", renamed)
zero_shot = pipeline("zero-shot-image-classification", model=str(renamed), trust_remote_code=True)
results["pipeline"] = zero_shot(images, candidate_labels=texts, hypothesis_template="{}")
torch.save(results, answers)
"""


@pytest.fixture(scope="module")
def remote(make_model, word_processor, tmp_path_factory):
    """(model, batch, folder, its copy under another name, answers of the other process)."""
    base = tmp_path_factory.mktemp("remote")
    folder, copy, renamed = base / "my-model", base / "copy", base / "my model v1.0 (best)"
    model = make_model(loss="sigmoid", text_pooling="mean", projection="mlp", vision="dinov2", vision_pooling="tower")
    model.save_pretrained(folder)
    word_processor.save_pretrained(folder)
    environment = {**os.environ, "HF_MODULES_CACHE": str(base / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-I", "-c", SCRIPT, folder, copy, renamed, base / "answers.pt"]
    done = subprocess.run(arguments, cwd=base, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "of type" not in done.stderr  # transformers' warning of an unknown model type
    answers = torch.load(base / "answers.pt", weights_only=True)
    return model, answers.pop("batch"), folder, renamed, answers


def outputs(model, batch):
    with torch.no_grad():
        return model(**batch, group=torch.tensor([0, 1, 0, 2]), return_loss=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first", "zero-shot"])
def test_process_without_the_package_gives_the_same_outputs_to_the_bit(remote, name):
    model, batch, _, _, answers = remote
    expected = outputs(model, batch)
    for part in ("loss", "logits_per_image", "text_embeds", "image_embeds"):
        assert torch.equal(answers[name][part], expected[part]), part
    assert answers[name]["code"].startswith("transformers_modules.") and answers[name]["frozen"]


@pytest.mark.slow
def test_pipeline_from_remote_code_gives_the_softmax_of_the_logits(remote):
    *_, answers = remote
    for result, logits in zip(answers["pipeline"], answers["renamed folder"]["logits_per_image"], strict=True):
        expected = sorted(logits.softmax(-1).tolist(), reverse=True)
        assert [part["score"] for part in result] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own folder", "other folder", "renamed folder"])
def test_remote_model_can_be_saved_again(remote, name):
    model, batch, folder, copy, answers = remote
    place = folder if name == "own folder" else copy
    changed = ClipScratchModel.from_pretrained(place)
    assert changed.logit_scale.item() == 1.25
    expected = outputs(changed, batch)
    assert torch.equal(answers[name]["logits_per_image"], expected.logits_per_image)
    assert not torch.equal(expected.logits_per_image, outputs(model, batch).logits_per_image)
    assert torch.equal(outputs(AutoModel.from_pretrained(place), batch).loss, answers[name]["loss"])


@pytest.mark.slow
def test_saved_folders_hold_the_code_weights_and_config_and_nothing_else(remote):
    _, _, folder, copy, _ = remote
    code = {path.name: path.read_text() for path in Path(hub.__file__).parent.glob("*_clipscratch.py")}
    for place in (folder, copy):
        assert {path.name for path in place.iterdir()} == {"config.json", "model.safetensors", *PROCESSOR, *code}
        assert json.loads((place / "config.json").read_text())["auto_map"] == AUTO_MAP
        assert all((place / name).read_text() == source for name, source in code.items())


def test_older_transformers_is_refused_in_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "5.8.1")
    with pytest.raises(ImportError, match=r"transformers>=5.* is required .*==5.8.1\.\s.*pip install"):
        importlib.reload(configuration_clipscratch)
