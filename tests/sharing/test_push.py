"""Check what is on the Hub after a push, and what is reported if there is nothing."""

import json
from pathlib import Path

import pytest

from modeling_clipscratch import hub as package
from modeling_clipscratch.evaluation.report.metric_tables import weights_sha256
from modeling_clipscratch.sharing.model_card import check_folder
from modeling_clipscratch.sharing.push_model import push_folder
from modeling_clipscratch.utils.checksums import SUMS, write_sums
from modeling_clipscratch.utils.names import hide_paths

CODE = {path.name for path in Path(package.__file__).parent.glob("*_clipscratch.py")}
MODEL = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
RESULTS = {"README.md", "recipe.yaml", "metrics.json", "versions.json", "trainer_state.json", "curves.png"}
REPORT = ["report.html", "table.md", "digits/grid.png", "digits/predictions.parquet"]


def write_account(folder, **account):
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "evaluation.json").write_text(json.dumps(account))


def add_more(folder):
    """Add what else a folder may hold and must not be published."""
    for name in ("checkpoint-3", ".incomplete", "thesis"):
        (folder / name).mkdir()
        (folder / name / "optimizer.pt").write_bytes(b"state")
    for name in ("training_args.bin", "notes.txt", ".env", "recipe.yaml.part"):
        (folder / name).write_text("private")
    for name in (*REPORT, "private/grid.png"):  # the last belongs to an earlier report
        (folder / "report" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "report" / name).write_bytes(b"of the report")
    write_account(folder, weights_sha256=weights_sha256(folder), files=REPORT)


def test_model_code_processor_card_and_results_are_published_and_nothing_else(hub, trained, caplog):
    caplog.set_level("INFO", "modeling_clipscratch")
    hub.add("you/clip", {"report/report.html": b"old", "report/other/grid.png": b"old", ".gitattributes": b""})
    add_more(trained)
    assert push_folder(trained, "you/clip") == f"{hub.url}/you/clip"
    repo = hub.repos["model", "you/clip"]
    report = {f"report/{name}" for name in (*REPORT[:3], "evaluation.json")}
    assert set(repo.files()) - {".gitattributes"} == CODE | MODEL | RESULTS | report
    assert repo.history == ["initial commit", "Trained ClipScratch model"]
    assert all(repo.files()[name] == (trained / name).read_bytes() for name in CODE | MODEL | RESULTS | report)


def test_no_path_of_this_machine_is_published(hub, trained):
    secret = "/home/ann/my secret/birds"
    (trained / "recipe.yaml").write_text(f"dataset: {secret}\ntext_tower: ../secret/bert\nhub: you/bert\n")
    (trained / "metrics.json").write_text(json.dumps({secret: {"top1": 0.5}}))
    (trained / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": f"{secret}/run/checkpoint-5"}))
    write_sums(trained)
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    push_folder(trained, "you/clip")
    files = hub.repos["model", "you/clip"].files()
    texts = b"".join(content for name, content in files.items() if not name.endswith(".safetensors"))
    assert b"secret" not in texts and str(trained.parent).encode() not in texts
    assert files["recipe.yaml"] == b"dataset: birds\ntext_tower: bert\nhub: you/bert\n"
    assert {path: path.read_bytes() for path in before} == before  # the local folder keeps its paths
    assert SUMS not in files  # it is of the files with the paths


def test_relative_paths_of_the_recipe_are_hidden_if_they_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "birds").mkdir(parents=True)
    recipe = {"dataset": "secret/birds", "text_tower": "you/bert", "templates": ["a photo of a {}."], "steps": 3}
    text = "secret/birds, you/bert, a photo of a {}."
    assert hide_paths(text, recipe) == "birds, you/bert, a photo of a {}."


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ('{"a": "/home/ann/x", "b": "~/x/y/"}', '{"a": "x", "b": "y"}'),
        ("of a {}/{}. data:image/jpeg;base64,/9j/4A/x/", "of a {}/{}. data:image/jpeg;base64,/9j/4A/x/"),
        ("`/tmp/x/y`, (/tmp/x/y) and https://huggingface.co/a/b", "`y`, (y) and https://huggingface.co/a/b"),
        ("</b> and/or 1 / 2, 1rem/1.5 \\_e\\_ /bin", "</b> and/or 1 / 2, 1rem/1.5 \\_e\\_ /bin"),
    ],
)
def test_other_slashes_are_not_taken_for_paths(text, public):
    assert hide_paths(text, {}) == public


def test_files_of_an_earlier_model_are_deleted_and_those_of_others_kept(hub, trained):
    earlier = ("vocab.txt", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "old_clipscratch.py")
    others = ("notes.md", "last-checkpoint/config.json", "adapter.safetensors")
    hub.add("you/clip", dict.fromkeys((*earlier, *others, "report/report.html"), b"there"))
    push_folder(trained, "you/clip")
    assert set(hub.repos["model", "you/clip"].files()) == CODE | MODEL | RESULTS | set(others)


def test_a_report_of_other_weights_is_not_published(hub, trained, caplog):
    caplog.set_level("INFO", "modeling_clipscratch")
    write_account(trained, weights_sha256="0123")
    push_folder(trained, "you/clip")
    assert not any(name.startswith("report") for name in hub.repos["model", "you/clip"].files())
    assert "is of other weights and is not published" in caplog.text


@pytest.mark.parametrize("gone", ["model.safetensors", "modeling_clipscratch.py", "processor_config.json"])
def test_an_incomplete_folder_is_refused(hub, trained, gone):
    (trained / gone).unlink()
    with pytest.raises(ValueError, match=f"has no .*{gone[-11:]}, so nobody could load it"):
        push_folder(trained, "you/clip")
    assert not hub.seen


def test_a_folder_of_another_library_is_refused(trained):
    (trained / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="type 'bert', not 'clipscratch'"):
        check_folder(trained)


def test_visibility_branch_licence_and_language_reach_the_hub(hub, trained):
    where = {"private": True, "revision": "trial", "license": "mit", "language": "de"}
    assert push_folder(trained, "clip", **where) == f"{hub.url}/you/clip/tree/trial"
    repo = hub.repos["model", "you/clip"]
    assert repo.private and "config.json" not in repo.files("main")
    card = repo.files("trial")["README.md"].decode()
    assert "license: mit\n" in card and "language: de\n" in card
