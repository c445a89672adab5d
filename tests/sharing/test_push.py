"""Trained folders go in; what is on the Hub afterwards, and what is said where it is not, is checked."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from transformers import AutoModel

from modeling_clipscratch import hub as package
from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.evaluation.report.metric_tables import weights_sha256
from modeling_clipscratch.sharing.push_model import check_folder, push_folder

ROOT = Path(__file__).parents[2]
CODE = {path.name for path in Path(package.__file__).parent.glob("*_clipscratch.py")}
MODEL = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
RESULTS = {"README.md", "recipe.yaml", "metrics.json", "versions.json", "trainer_state.json", "curves.png"}


@pytest.fixture
def command(monkeypatch, capsys):
    """Words of a `clipscratch share` command line -> (exit status, stdout, stderr)."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.setattr("modeling_clipscratch.cli.command_line.quiet_libraries", lambda: None)
    from modeling_clipscratch.cli import share as run_share

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["clipscratch share", *map(str, words)])
        status = 0
        try:
            run_command(run_share.main)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


def leave_more(folder):
    """What else may lie in a folder, and must not be published."""
    for name in ("checkpoint-3", ".incomplete", ".pushing", "thesis"):
        (folder / name).mkdir()
        (folder / name / "optimizer.pt").write_bytes(b"state")
    for name in ("training_args.bin", "notes.txt", ".env", "recipe.yaml.part"):
        (folder / name).write_text("mine")
    written = ["report.html", "table.md", "digits/sheet.png", "digits/predictions.parquet"]
    for name in (*written, "private/sheet.png"):  # the last is an earlier report's
        (folder / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "report" / name).write_bytes(b"of the report")
    account = {"weights_sha256": weights_sha256(folder), "files": [*written, "../../of_others.json"]}
    (folder.parent / "of_others.json").write_text("{}")
    (folder / "report" / "evaluation.json").write_text(json.dumps(account))


def test_model_code_processor_card_and_results_are_published_and_nothing_else(hub, trained, caplog):
    caplog.set_level("INFO", "modeling_clipscratch")
    leave_more(trained)
    assert push_folder(trained, "you/clip") == f"{hub.url}/you/clip"
    repo = hub.repos["model", "you/clip"]
    report = {f"report/{name}" for name in ("report.html", "table.md", "digits/sheet.png", "evaluation.json")}
    assert set(repo.files()) - {".gitattributes"} == CODE | MODEL | RESULTS | report
    assert repo.history == ["initial commit", "Trained ClipScratch model"]
    assert all(repo.files()[name] == (trained / name).read_bytes() for name in CODE | MODEL | RESULTS)
    assert "not pushed, since no run wrote them: notes.txt, recipe.yaml.part, thesis, training_args.bin" in caplog.text


def test_what_loaded_an_earlier_model_goes_and_what_others_added_stays(hub, trained):
    earlier = ("vocab.txt", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "old_clipscratch.py")
    added = ("notes.md", "report/report.html", "last-checkpoint/config.json", "adapter.safetensors")
    hub.add("you/clip", dict.fromkeys((*earlier, *added), b"there"))
    push_folder(trained, "you/clip")
    assert set(hub.repos["model", "you/clip"].files()) == CODE | MODEL | RESULTS | set(added)


def test_a_new_report_takes_the_place_of_the_one_that_is_there(hub, trained):
    hub.add("you/clip", {"report/report.html": b"old", "report/other/sheet.png": b"old"})
    leave_more(trained)
    push_folder(trained, "you/clip")
    files = hub.repos["model", "you/clip"].files()
    assert files["report/report.html"] == b"of the report" and "report/other/sheet.png" not in files


@pytest.mark.parametrize("same", [True, False])
def test_a_report_on_the_hub_stays_as_long_as_it_is_of_these_weights(hub, trained, same):
    account = json.dumps({"weights_sha256": weights_sha256(trained) if same else "0123"}).encode()
    hub.add("you/clip", {"report/evaluation.json": account, "report/report.html": b"there", "notes.md": b"mine"})
    push_folder(trained, "you/clip")
    there = {name for name in hub.repos["model", "you/clip"].files() if name.startswith(("report/", "notes"))}
    assert there == {"notes.md", *(("report/evaluation.json", "report/report.html") if same else ())}


def test_sharded_weights_are_published_whole(hub, trained):
    model = AutoModel.from_pretrained(trained)
    (trained / "model.safetensors").unlink()
    model.save_pretrained(trained, max_shard_size="20KB")
    shards = {path.name for path in trained.glob("model-*.safetensors")}
    push_folder(trained, "you/clip")
    there = set(hub.repos["model", "you/clip"].files())
    assert len(shards) > 1 and shards | {"model.safetensors.index.json"} <= there and "model.safetensors" not in there


def test_report_that_does_not_name_its_files_is_left_where_it_is(hub, trained):
    hub.add("you/clip", {"report/report.html": b"there"})
    (trained / "report").mkdir()
    account = {"weights_sha256": weights_sha256(trained)}  # as an earlier version wrote it
    (trained / "report" / "evaluation.json").write_text(json.dumps(account))
    push_folder(trained, "you/clip")
    assert hub.repos["model", "you/clip"].files()["report/report.html"] == b"there"


@pytest.mark.parametrize("account", ['{"weights_sha256": "0123"}', '{"weights_sha256": null}', None])
def test_report_of_other_weights_is_named_and_not_published(hub, trained, caplog, account):
    caplog.set_level("INFO", "modeling_clipscratch")
    (trained / "report").mkdir()
    (trained / "report" / "report.html").write_text("of another model")
    if account is not None:
        (trained / "report" / "evaluation.json").write_text(account)
    push_folder(trained, "you/clip")
    assert not any(name.startswith("report") for name in hub.repos["model", "you/clip"].files())
    assert f"not pushed, since it is not of these weights: {trained / 'report'}" in caplog.text


@pytest.mark.parametrize(
    ("gone", "lacks"),
    [
        ("model.safetensors", "the weights"),
        ("modeling_clipscratch.py", "the model's code"),
        ("tokenizer_config.json", "the tokenizer"),
        ("processor_config.json", "the image processor"),
    ],
)
def test_folder_that_nobody_could_load_is_refused(hub, trained, gone, lacks):
    (trained / gone).unlink()
    with pytest.raises(ValueError, match=f"lacks {lacks}, so nobody could load it"):
        push_folder(trained, "you/clip")
    assert not hub.seen and not (trained / "README.md").exists()


def test_folder_of_another_library_is_refused(trained):
    (trained / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="holds a model of type 'bert', not 'clipscratch'"):
        check_folder(trained)
    (trained / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        check_folder(trained)


# The command


def test_command_publishes_and_says_where(hub, trained, command):
    status, out, _ = command("push", trained, "clip", "--private", "true", "--revision", "trial")
    assert (status, out) == (0, f"published: {hub.url}/you/clip/tree/trial\n")
    repo = hub.repos["model", "you/clip"]
    assert repo.private and "config.json" in repo.files("trial") and "config.json" not in repo.files("main")


def test_licence_and_language_are_those_that_were_said(hub, trained, command):
    assert command("push", trained, "you/clip", "--license", "mit", "--language", "de")[0] == 0
    card = hub.repos["model", "you/clip"].files()["README.md"].decode()
    assert "license: mit\n" in card and "language: de\n" in card


def test_command_writes_the_card(trained, command):
    status, out, _ = command("card", trained, "--repo_id", "you/clip")
    assert (status, out) == (0, f"wrote {trained / 'README.md'}\n") and (trained / "README.md").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("push", "RUN", "you/my clip"), "error: repo_id='you/my clip' is no name of a repository; give you/name"),
        (("push", "NOWHERE", "you/clip"), "has no config.json, so it holds no model; give the folder"),
        (("push", "RUN", "other/clip"), "error: pushing to other/clip failed: this token may not write there"),
        (("card", "NOWHERE"), "has no config.json"),
    ],
)  # fmt: skip
def test_command_says_one_sentence_and_exits_with_2(hub, trained, command, words, sentence):
    places = {"RUN": trained, "NOWHERE": trained.parent / "nowhere"}
    status, out, said = command(*(places.get(word, word) for word in words))
    assert status == 2 and sentence in said and len(said.splitlines()) == 1 and not out
    assert not hub.repos


def test_command_says_so_where_the_hub_stays_in_trouble(hub, trained, command, naps):
    hub.fail("commit/main", status=500, times=99)
    status, out, said = command("push", trained, "you/clip")
    assert status == 2 and not out and naps == [1, 2, 4, 8]
    assert said.splitlines()[-1].startswith("error: pushing to you/clip failed: the Hub has trouble of its own (500")
    assert set(hub.repos["model", "you/clip"].files()) == {".gitattributes"}


# transformers' own calls


def test_model_and_processor_are_pushed_as_transformers_users_do(hub, trained, word_processor):
    model = AutoModel.from_pretrained(trained)
    for repo_id, settings in {"you/open": {}, "you/hidden": {"private": True}}.items():
        model.push_to_hub(repo_id, **settings)
        word_processor.push_to_hub(repo_id)
        repo = hub.repos["model", repo_id]
        assert set(repo.files()) - {".gitattributes", "README.md"} == CODE | MODEL and repo.private == bool(settings)
    shutil.rmtree(trained)
    again = AutoModel.from_pretrained("you/hidden")
    assert again.state_dict().keys() == model.state_dict().keys()


def test_model_is_not_pushed_to_a_gated_repository_of_others(hub, trained):
    hub.add("other/gated", {}, gated=True)
    with pytest.raises(OSError):
        AutoModel.from_pretrained(trained).push_to_hub("other/gated")
    assert hub.repos["model", "other/gated"].history == ["initial commit"]
