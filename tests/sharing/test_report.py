"""Reports go in; what is on the Hub beside the model, and what is said where it is not, is checked."""

import sys
from pathlib import Path

import pytest

from modeling_clipscratch.sharing.push_model import push_folder
from modeling_clipscratch.sharing.push_report import push_report

ROOT = Path(__file__).parents[2]


@pytest.fixture
def evaluate(monkeypatch, capsys, trained):
    """Words of a `clipscratch eval` command line -> what it printed."""
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from modeling_clipscratch.cli import eval as run_eval

    def call(*words):
        run_eval.main(["--model", str(trained), "--dataset", "digits", *map(str, words)])
        return capsys.readouterr().out

    return call


def test_report_is_published_beside_the_model_in_one_commit(hub, trained, evaluate, tmp_path):
    push_folder(trained, "you/clip")
    before = hub.repos["model", "you/clip"].files()
    report = tmp_path / "there"
    printed = evaluate("--output_dir", report, "--save_predictions", "--push_to_hub", "you/clip")
    assert printed.splitlines()[-1] == f"published: {hub.url}/you/clip/tree/main/report"
    repo = hub.repos["model", "you/clip"]
    assert repo.history[2:] == ["Evaluation report"]
    local = {path.relative_to(report).as_posix(): path for path in report.rglob("*") if path.is_file()}
    assert {"report.html", "table.md", "metrics.json", "digits/predictions.parquet"} <= set(local)
    expected = {f"report/{name}": path.read_bytes() for name, path in local.items() if path.suffix != ".parquet"}
    assert repo.files() == before | expected
    assert {path.suffix for path in map(Path, expected)} == {".html", ".md", ".json", ".png"}


def test_files_of_an_earlier_report_go_and_the_model_stays(hub, tmp_path):
    hub.add("you/clip", {"report/old/sheet.png": b"old", "report/table.md": b"old", "config.json": b"{}"})
    (tmp_path / "table.md").write_text("new")
    push_report(tmp_path, [tmp_path / "table.md"], "you/clip")
    assert hub.repos["model", "you/clip"].files() == {"report/table.md": b"new", "config.json": b"{}"}


def test_refusal_is_known_before_anything_is_measured(hub, evaluate, tmp_path, monkeypatch):
    hub.add("other/clip", {})
    monkeypatch.setattr("modeling_clipscratch.cli.eval.evaluate_models", lambda *a, **k: pytest.fail("it was measured"))
    for repo_id, sentence in {
        "you/nowhere": "there is no such repository",
        "other/clip": "may not write there",
    }.items():
        with pytest.raises(OSError, match=sentence):
            evaluate("--output_dir", tmp_path / "report", "--push_to_hub", repo_id)
    with pytest.raises(ValueError, match="--push_to_hub need --output_dir"):
        evaluate("--push_to_hub", "you/clip")
    assert set(hub.repos) == {("model", "other/clip")}
