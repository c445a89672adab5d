"""Load a published folder by id, by revision and from the cache, in a process without the package."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.loopback_hub import LoopbackHub

pytestmark = pytest.mark.slow  # fresh processes

# Load a model for each question, with the package blocked.
SCRIPT = """
import json, sys
sys.modules["modeling_clipscratch"] = None
import torch
from transformers import AutoModel, AutoProcessor

inputs, questions = sys.argv[1], json.loads(sys.argv[2])
batch = torch.load(inputs)

def ask(repo_id, **settings):
    model = AutoModel.from_pretrained(repo_id, trust_remote_code=True, **settings).eval()
    processor = AutoProcessor.from_pretrained(repo_id, **settings)
    with torch.no_grad():
        logits = model(**batch).logits_per_image
    words = processor(text=["a red square"], return_tensors="pt")["input_ids"].tolist()
    if repo_id == "you/again":
        model.push_to_hub("you/from-afar")
    return {"logits": logits.tolist(), "generation": type(model).generation, "words": words}

print("ANSWERS", json.dumps({name: ask(**question) for name, question in questions.items()}))
"""
WAYS = {
    "newest": {"repo_id": "you/clip"},
    "by commit": {"repo_id": "you/clip", "revision": None},  # the first one's sha
    "hidden": {"repo_id": "you/hidden"},
}


def ask(hub, base, questions, **more):
    """Return the answers of a fresh process."""
    environment = {**os.environ, **hub.environment(base / "home"), "HF_MODULES_CACHE": str(base / "modules"), **more}
    command = [sys.executable, "-I", "-c", SCRIPT, base / "inputs.pt", json.dumps(questions)]
    done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True)
    _, _, answers = done.stdout.partition("ANSWERS ")  # transformers prints to stdout, too
    assert answers, done.stderr[-3000:]
    return json.loads(answers)


@pytest.fixture(scope="module")
def published(trained_once, make_model, tmp_path_factory):
    """(the Hub after all, answers with it, answers without it, {generation: logits})."""
    base = tmp_path_factory.mktemp("load")
    input_ids = torch.tensor([[2, 4, 8, 10, 3], [2, 9, 3, 0, 0]])
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": input_ids, "attention_mask": (input_ids > 0).long(), "pixel_values": pixels}
    torch.save(batch, base / "inputs.pt")
    expected, repos = {}, {}
    for generation in (1, 2):
        model = make_model(seed=generation)
        with torch.no_grad():
            expected[generation] = model(**batch).logits_per_image
        folder = base / str(generation)
        model.save_pretrained(folder)
        files = {
            path.name: path.read_bytes() for path in (*trained_once.iterdir(), *folder.iterdir()) if path.is_file()
        }
        code = files["modeling_clipscratch.py"].decode()
        marked = code.replace("    base_model_prefix =", f"    generation = {generation}\n    base_model_prefix =")
        repos[generation] = {**files, "modeling_clipscratch.py": marked.encode()}
    with LoopbackHub() as hub:
        repo = hub.add("you/clip", repos[1])
        first = repo.sha("main")
        repo.commit(repos[2], "second")
        hub.add("you/hidden", repos[2], private=True)
        hub.add("you/again", repos[2])
        hub.fail("GET /you/clip/resolve/.*/model.safetensors", drop=True)
        ways = {name: {**way, "revision": first} if name == "by commit" else way for name, way in WAYS.items()}
        online = ask(hub, base, {**ways, "again": {"repo_id": "you/again"}})
    return hub, online, ask(hub, base, ways, HF_HUB_OFFLINE="1"), expected


GENERATION = {"newest": 2, "by commit": 1, "hidden": 2}


@pytest.mark.parametrize("way", WAYS)
def test_code_and_weights_are_those_of_the_revision(published, way):
    _, online, _, expected = published
    answer = online[way]
    assert answer["generation"] == GENERATION[way] and answer["words"] == [[2, 4, 8, 10, 3]]
    assert torch.equal(torch.tensor(answer["logits"]), expected[GENERATION[way]])
    assert not torch.equal(expected[1], expected[2])


def test_a_download_resumes_after_a_lost_connection(published):
    hub = published[0]
    asked = [request for request in hub.seen if request.startswith("GET /you/clip") and "model.safetensors" in request]
    assert hub.faults[0].times == 0 and len(asked) == 3  # the first revision asked for in two pieces, and the other


@pytest.mark.parametrize("way", WAYS)
def test_a_fetched_model_is_loaded_again_without_the_hub(published, way):
    _, online, offline, _ = published
    assert offline[way] == online[way]


def test_a_model_from_the_hub_is_pushed_again_with_its_code(published):
    hub, online, *_ = published
    files, before = hub.repos["model", "you/from-afar"].files(), hub.repos["model", "you/again"].files()
    assert online["again"]["generation"] == 2
    code = {name for name in before if name.endswith("_clipscratch.py")}
    assert len(code) > 5 and all(files[name] == before[name] for name in (*code, "model.safetensors"))
