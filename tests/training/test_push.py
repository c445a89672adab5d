"""Train with `push_to_hub`, and check what is on the Hub during and after the training."""

import sys
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, TrainerCallback

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.training.recipe.arguments import ModelArguments
from modeling_clipscratch.training.saving.run_folder import OUR_CARD, begin_run_folder
from modeling_clipscratch.training.towers.adapters import add_adapters

ROOT = Path(__file__).parents[2]
# Two steps, a checkpoint after each; every one is pushed, also where the one before is on its way.
SAVES = {"push_to_hub": True, "hub_model_id": "you/clip", "hub_always_push": True, "save_strategy": "steps",
    "save_steps": 1, "eval_strategy": "no"}  # fmt: skip
PROGRESS = ["Training in progress, step 1", "Training in progress, step 2"]
STATE = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "SHA256SUMS"}


@pytest.fixture
def train(make_trainer, tmp_path):
    """(callbacks, changes) -> (folder of a run that was pushed, trainer)."""

    def call(*callbacks, **changes):
        trainer = make_trainer(**{**SAVES, **changes})
        for callback in callbacks:
            trainer.add_callback(callback)
        trainer.train()
        return tmp_path / "run", trainer

    return call


def at(hub, message):
    """Files of the commit to `you/clip` with this message."""
    repo = hub.repos["model", "you/clip"]
    return repo.commits[next(sha for sha, said in repo.messages.items() if said == message)]


def weights(folder, step):
    return (folder / f"checkpoint-{step}" / "model.safetensors").read_bytes()


def test_every_save_is_one_commit_with_model_processor_and_code(hub, train):
    folder, _ = train()
    assert hub.repos["model", "you/clip"].history == ["initial commit", *PROGRESS]
    for step, message in enumerate(PROGRESS, start=1):
        there = {path.name for path in (folder / f"checkpoint-{step}").iterdir()}
        assert {"modeling_clipscratch.py", "tokenizer.json", "processor_config.json", *STATE} <= there
        assert set(at(hub, message)) - {".gitattributes"} == there - STATE
        assert at(hub, message)["model.safetensors"] == weights(folder, step)
    assert not (folder / ".pushing").exists()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("checkpoint", {"last-checkpoint": 2}), ("all_checkpoints", {"checkpoint-1": 1, "checkpoint-2": 2}), ("end", {})],
)
def test_strategy_says_what_goes_with_the_model(hub, train, strategy, expected):
    folder, _ = train(hub_strategy=strategy)
    files = hub.repos["model", "you/clip"].files()
    assert {path.partition("/")[0] for path in files if "/" in path} == set(expected)
    assert ("config.json" in files) == bool(expected)
    for place, step in expected.items():
        local = {f"{place}/{path.name}": path.read_bytes() for path in (folder / f"checkpoint-{step}").iterdir()}
        assert {path: data for path, data in files.items() if path.startswith(f"{place}/")} == local


def test_failed_push_is_a_warning_and_comes_with_the_next_one(hub, train, naps, caplog):
    hub.fail("commit/main", status=500, times=5)  # the first push gives up
    folder, _ = train(hub_strategy="all_checkpoints")
    assert hub.repos["model", "you/clip"].history == ["initial commit", PROGRESS[1]]
    files = at(hub, PROGRESS[1])
    assert {"checkpoint-1/optimizer.pt", "checkpoint-2/optimizer.pt"} <= set(files)
    assert files["model.safetensors"] == weights(folder, 2)
    assert "has trouble of its own (500" in caplog.text and "what is missing comes with the next push" in caplog.text


def test_push_that_failed_last_is_tried_again_at_the_end(hub, train, naps):
    hub.fail("commit/main", status=500, times=10)  # both pushes give up
    folder, _ = train()
    assert hub.repos["model", "you/clip"].history == ["initial commit", PROGRESS[1]]
    assert at(hub, PROGRESS[1])["model.safetensors"] == weights(folder, 2)


def test_hub_that_never_comes_back_does_not_stop_the_training(hub, train, naps):
    hub.fail("commit/main", status=503, times=999)
    folder, trainer = train()
    assert trainer.state.global_step == 2 and (folder / "checkpoint-2").is_dir() and not (folder / ".pushing").exists()
    assert set(hub.repos["model", "you/clip"].files()) == {".gitattributes"}


def test_full_disk_costs_a_push_and_not_the_training(hub, train, monkeypatch, caplog):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modeling_clipscratch.training.saving.push_checkpoints._link", full)
    folder, _ = train()
    assert (folder / "checkpoint-2").is_dir() and hub.repos["model", "you/clip"].history == ["initial commit"]
    assert (
        not (folder / ".pushing").exists()
        and "this save is not pushed" in caplog.text
        and "No space left on device" in caplog.text
    )


def test_disk_without_hard_links_will_do(hub, train, monkeypatch):
    def none(source, target):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", none)
    train()
    assert hub.repos["model", "you/clip"].history == ["initial commit", *PROGRESS]


class AfterTheSecondSave(TrainerCallback):
    def __init__(self):
        self.event = threading.Event()

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 2:
            self.event.set()


def test_save_during_a_push_is_left_out_unless_all_are_wanted(hub, train):
    second = AfterTheSecondSave()
    hub.fail("commit/main", meanwhile=second.event.wait)
    train(second, hub_always_push=False)
    assert hub.repos["model", "you/clip"].history == ["initial commit", PROGRESS[0]]


def test_checkpoint_that_is_rotated_away_while_it_is_sent_arrives_whole(hub, train):
    second = AfterTheSecondSave()
    hub.fail("POST .*/preupload", meanwhile=second.event.wait)
    folder, _ = train(second, save_total_limit=1)
    assert not (folder / "checkpoint-1").exists()
    assert hub.repos["model", "you/clip"].history == ["initial commit", *PROGRESS]
    assert at(hub, PROGRESS[0])["model.safetensors"] != at(hub, PROGRESS[1])["model.safetensors"]


class LooksForSnapshots(TrainerCallback):
    found = ()

    def on_save(self, args, state, control, **kwargs):
        self.found = [*self.found, *Path(args.output_dir, ".pushing").iterdir()]


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_adapters_are_no_model_until_they_are_merged(hub, make_trainer, strategy):
    pytest.importorskip("peft")
    trainer = make_trainer({"freeze_vision": True}, **SAVES, hub_strategy=strategy)
    add_adapters(trainer.model, ModelArguments(freeze_vision=True, vision_lora_rank=2))
    looks = LooksForSnapshots()
    trainer.add_callback(looks)
    trainer.train()
    files = hub.repos["model", "you/clip"].files()
    assert ("last-checkpoint/model.safetensors" in files) == (strategy == "checkpoint")
    assert "model.safetensors" not in files and (strategy == "checkpoint" or not looks.found)


# Runs


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"hub_token": "hf_wrong"}, "the Hub does not know this token"),
        ({"hub_token": "hf_reader"}, "this token may not write there"),
        ({"hub_model_id": "other/clip"}, "this token may not write there"),
        ({"hub_model_id": "a b"}, "repo_id='a b' is no name of a repository"),
    ],
)
def test_refusal_is_known_before_anything_is_read(hub, run_recipe, tmp_path, monkeypatch, changes, sentence):
    hub.add("other/clip", {})
    monkeypatch.setattr("modeling_clipscratch.training.run.open_source", lambda *a, **k: pytest.fail("data were read"))
    with pytest.raises((ValueError, OSError), match=sentence):
        run_recipe(tmp_path, **{**SAVES, **changes})
    assert not (tmp_path / "run").exists()


def test_run_keeps_its_token_to_itself_and_goes_on_with_other_hub_settings(hub, run_recipe, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    named = {**SAVES, "hub_model_id": None, "hub_token": "hf_owner", "freeze_text": True, "test_split": "none"}
    secret = {"hub_private_repo": True, "hub_revision": "trial", "hub_strategy": "checkpoint"}
    folder, _ = run_recipe(tmp_path, **{**named, **secret, "max_steps": 2})
    repo = hub.repos["model", "you/run"]  # named after the folder
    assert repo.private and repo.history[1:] == PROGRESS and "config.json" not in repo.files("main")
    for name in ("recipe.yaml", "last-checkpoint/recipe.yaml"):
        assert repo.files("trial")[name] == (folder / "recipe.yaml").read_bytes()
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 20 and not any(b"hf_owner" in path.read_bytes() for path in written)
    assert not any(b"hf_owner" in data for files in repo.commits.values() for data in files.values())

    (folder / "README.md").write_text("a card")
    changes = {"hub_model_id": "you/again", "hub_strategy": "end", "resume_from_checkpoint": "auto"}
    run_recipe(tmp_path, **{**named, **changes, "max_steps": 2})
    assert (folder / "README.md").read_text() == "a card" and ("model", "you/again") in hub.repos


def test_overwriting_deletes_what_pushing_left(tmp_path):
    begin_run_folder(tmp_path, {"dataset": "digits"}, resume=False)
    (tmp_path / ".pushing" / "checkpoint-3").mkdir(parents=True)
    for name in ("README.md", ".gitattributes", "merges.txt", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_text(OUR_CARD)
    begin_run_folder(tmp_path, {"dataset": "scenes"}, resume=False)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml"}


# transformers' own calls


@pytest.mark.parametrize("access", ["new", "private", "gated"])
def test_trainer_is_pushed_as_transformers_users_do(hub, train, access):
    if access != "new":
        hub.add("you/clip", {}, **{access: True})
    _, trainer = train(hub_strategy="end")
    trainer.push_to_hub()
    repo = hub.repos["model", "you/clip"]
    assert repo.history == ["initial commit", "End of training"]
    files = set(repo.files())
    assert {"config.json", "model.safetensors", "modeling_clipscratch.py", "tokenizer.json", "README.md"} <= files
    assert not {"training_args.bin", "optimizer.pt"} & files and not any("/" in path for path in files)
    again = AutoModel.from_pretrained("you/clip")
    assert torch.equal(again.visual_projection.weight, trainer.model.visual_projection.weight)


def test_trainer_says_one_sentence_where_it_may_not_push(hub, make_trainer):
    hub.add("other/gated", {}, gated=True)
    with pytest.raises(OSError, match="it is gated and your account not on its list"):
        make_trainer(push_to_hub=True, hub_model_id="other/gated")


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


def test_finished_folder_is_pushed_by_the_script_or_how_to_do_it_later_is_said(
    hub, run_train, write_recipe, tmp_path, naps
):
    named = {"hub_strategy": "end", "hub_private_repo": True, "hub_revision": "trial"}
    recipe = write_recipe(tmp_path, **{**SAVES, **named, "freeze_text": True, "max_steps": 1})
    hub.fail("commit/trial", status=500, times=5)
    status, _, said = run_train(recipe)
    run = tmp_path / "run"
    assert status == 2 and said.splitlines()[-1].endswith(
        f"The trained folder is whole; later: clipscratch share push {run} you/clip --private true --revision trial"
    )
    assert hub.repos["model", "you/clip"].history == ["initial commit"] and (run / "metrics.json").is_file()

    status, out, _ = run_train(recipe, "--resume_from_checkpoint", "auto")  # nothing is left to be trained
    assert status == 0 and out.splitlines()[-1] == f"published: {hub.url}/you/clip/tree/trial"
    files = hub.repos["model", "you/clip"].files("trial")
    assert {"README.md", "metrics.json", "curves.png", "recipe.yaml", "modeling_clipscratch.py"} <= set(files)
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_refused_push_ends_the_script_with_2_before_the_training(hub, run_train, write_recipe, tmp_path):
    status, out, said = run_train(write_recipe(tmp_path, **SAVES, hub_token="hf_reader"))
    assert status == 2 and said.splitlines()[-1].startswith("error: pushing to you/clip failed: this token may not")
    assert not out and not (tmp_path / "run").exists() and not hub.repos
