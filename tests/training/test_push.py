"""Train with `push_to_hub`, and check what is on the Hub, and that nothing of a stranger's code is pushed."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

from modeling_clipscratch.cli.command_line import run_command

ROOT = Path(__file__).parents[2]
SAVES = {"push_to_hub": True, "hub_model_id": "you/clip", "save_strategy": "steps", "save_steps": 1,
    "eval_strategy": "no"}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hub_token": "hf_wrong"}, "401 Unauthorized"),
        ({"hub_token": "hf_reader"}, "403 Forbidden"),
        ({"hub_model_id": "other/clip"}, "403 Forbidden"),
        ({"hub_model_id": "a b"}, "pushing to a b failed: Repo id must"),
        ({"hub_strategy": "every_save"}, "hub_strategy=every_save is not supported: the finished folder is pushed"),
    ],
)
def test_push_that_cannot_be_is_refused_before_anything_is_read(
    hub, run_recipe, tmp_path, monkeypatch, changes, sentence
):
    hub.add("other/clip", {})
    monkeypatch.setattr("modeling_clipscratch.training.run.open_source", lambda *a, **k: pytest.fail("data were read"))
    with pytest.raises((ValueError, OSError), match=sentence):
        run_recipe(tmp_path, **{**SAVES, **changes})
    assert not (tmp_path / "run").exists()


def test_run_keeps_its_token_to_itself_and_resumes_with_other_hub_settings(hub, run_recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    named = {**SAVES, "hub_model_id": None, "hub_token": "hf_owner", "hub_private_repo": True, "max_steps": 2}
    folder, _ = run_recipe(tmp_path, **named, test_split="none")
    assert hub.repos["model", "you/run"].private  # named after the folder; the command pushes, once the run is done
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 20 and not any(b"hf_owner" in path.read_bytes() for path in written)
    changes = {"hub_model_id": "you/again", "resume_from_checkpoint": "auto", "test_split": "none"}
    run_recipe(tmp_path, **{**named, **changes})
    assert ("model", "you/again") in hub.repos


# transformers' own calls


@pytest.mark.parametrize("access", ["new", "private"])
def test_trainer_is_pushed_as_transformers_users_do(hub, make_trainer, access):
    if access != "new":
        hub.add("you/clip", {}, **{access: True})
    trainer = make_trainer(**SAVES)
    trainer.train()
    assert hub.repos["model", "you/clip"].history == ["initial commit"]  # no checkpoint is pushed
    trainer.push_to_hub()
    files = set(hub.repos["model", "you/clip"].files())
    assert {"config.json", "model.safetensors", "modeling_clipscratch.py", "tokenizer.json", "README.md"} <= files
    assert not {"training_args.bin", "optimizer.pt"} & files and not any("/" in path for path in files)
    again = AutoModel.from_pretrained("you/clip")
    assert torch.equal(again.visual_projection.weight, trainer.model.visual_projection.weight)


# The command


@pytest.fixture
def run_train(monkeypatch, capsys):
    """Words of a `run_train.py` command line -> (exit status, stdout, stderr)."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr("modeling_clipscratch.cli.command_line.quiet_libraries", lambda: None)
    from modeling_clipscratch.cli import train as script

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["run_train.py", *map(str, words)])
        status = 0
        try:
            run_command(script.main)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


def test_finished_folder_is_pushed_by_the_command_which_else_says_how_to_push_it_later(
    hub, run_train, write_recipe, tmp_path, naps
):
    named = {"hub_private_repo": True, "hub_revision": "trial", "max_steps": 1}
    recipe = write_recipe(tmp_path, **{**SAVES, **named})
    hub.fail("commit/trial", status=500)
    status, _, message = run_train(recipe)
    run = tmp_path / "run"
    assert status == 2 and message.splitlines()[-1].endswith(
        f"is complete; push it later with: clipscratch share push {run} you/clip --private true --revision trial"
    )
    assert hub.repos["model", "you/clip"].history == ["initial commit"] and (run / "metrics.json").is_file()

    status, out, _ = run_train(recipe, "--resume_from_checkpoint", "auto")  # nothing is left to be trained
    assert status == 0 and out.splitlines()[-1] == f"published: {hub.url}/you/clip/tree/trial"
    files = hub.repos["model", "you/clip"].files("trial")
    assert {"README.md", "metrics.json", "curves.png", "recipe.yaml", "modeling_clipscratch.py"} <= set(files)
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
