"""A saved folder goes in; a process without the package opens it, with the same outputs, and saves it again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from modeling_clipscratch import ClipScratchModel, hub

# Runs with the package blocked, in another folder, with a cache of remote code of its own.
SCRIPT = """
import sys
sys.modules["modeling_clipscratch"] = None
from pathlib import Path
import torch
from transformers import AutoModel, AutoModelForZeroShotImageClassification

folder, copy, inputs, answers = map(Path, sys.argv[1:])
batch = torch.load(inputs)
found = {}

def load(name, place, auto=AutoModel):
    model = auto.from_pretrained(place, trust_remote_code=True).eval()
    with torch.no_grad():
        output = model(**batch, group=torch.tensor([0, 1, 0, 2]), return_loss=True)
    found[name] = {
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
load("other folder", copy)
torch.save(found, answers)
"""


@pytest.fixture(scope="module")
def remote(make_model, tmp_path_factory):
    """(model, batch, folder, copy, answers of the other process)."""
    base = tmp_path_factory.mktemp("remote")
    folder, copy = base / "my-model", base / "copy"
    model = make_model(loss="sigmoid", text_pooling="mean", projection="mlp", vision="dinov2", vision_pooling="tower")
    model.save_pretrained(folder)
    input_ids = torch.tensor([[2, 4, 8, 3], [2, 9, 3, 0], [2, 7, 11, 3], [2, 3, 0, 0]])
    pixels = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "pixel_values": pixels}
    torch.save(batch, base / "inputs.pt")
    environment = {**os.environ, "HF_MODULES_CACHE": str(base / "modules"), "HF_HUB_OFFLINE": "1"}
    arguments = [sys.executable, "-I", "-c", SCRIPT, folder, copy, base / "inputs.pt", base / "answers.pt"]
    done = subprocess.run(arguments, cwd=base, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return model, batch, folder, copy, torch.load(base / "answers.pt")


def outputs(model, batch):
    with torch.no_grad():
        return model(**batch, group=torch.tensor([0, 1, 0, 2]), return_loss=True)


@pytest.mark.parametrize("name", ["first", "zero-shot"])
def test_process_without_the_package_gives_the_same_outputs_to_the_bit(remote, name):
    model, batch, _, _, answers = remote
    expected = outputs(model, batch)
    for part in ("loss", "logits_per_image", "text_embeds", "image_embeds"):
        assert torch.equal(answers[name][part], expected[part]), part
    assert answers[name]["code"].startswith("transformers_modules.")


def test_freezing_travels_with_the_code(remote):
    assert all(answer["frozen"] for answer in remote[-1].values())


@pytest.mark.parametrize("name", ["own folder", "other folder"])
def test_remote_model_can_be_saved_again(remote, name):
    model, batch, folder, copy, answers = remote
    place = folder if name == "own folder" else copy
    changed = ClipScratchModel.from_pretrained(place)
    assert changed.logit_scale.item() == 1.25
    expected = outputs(changed, batch)
    assert torch.equal(answers[name]["logits_per_image"], expected.logits_per_image)
    assert not torch.equal(expected.logits_per_image, outputs(model, batch).logits_per_image)
    assert torch.equal(outputs(AutoModel.from_pretrained(place), batch).loss, answers[name]["loss"])


def test_saved_folders_hold_the_code_weights_and_config_and_nothing_else(remote):
    _, _, folder, copy, _ = remote
    code = {path.name for path in Path(hub.__file__).parent.glob("*_clipscratch.py")}
    for place in (folder, copy):
        assert {path.name for path in place.iterdir()} == {"config.json", "model.safetensors", *code}
        assert json.loads((place / "config.json").read_text())["auto_map"] == {
            "AutoConfig": "configuration_clipscratch.ClipScratchConfig",
            "AutoModel": "modeling_clipscratch.ClipScratchModel",
            "AutoModelForZeroShotImageClassification": "modeling_clipscratch.ClipScratchModel",
        }
    for name in code:
        source = (Path(hub.__file__).parent / name).read_text()
        assert (folder / name).read_text() == (copy / name).read_text() == source
