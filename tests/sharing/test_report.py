"""Check that a report is pushed by the command, and that a refusal comes before the evaluation."""

import pytest

from modeling_clipscratch.cli import eval as run_eval
from modeling_clipscratch.sharing.push_model import push_folder


def evaluate(trained, *words):
    run_eval.main(["--model", str(trained), "--dataset", "digits", *map(str, words)])


@pytest.mark.slow
def test_command_publishes_its_report_beside_the_model(hub, trained, tmp_path, capsys):
    push_folder(trained, "you/clip")
    before, report = hub.repos["model", "you/clip"].files(), tmp_path / "report"
    evaluate(trained, "--output_dir", report, "--save_predictions", "--push_to_hub", "you/clip")
    assert capsys.readouterr().out.splitlines()[-1] == f"published: {hub.url}/you/clip/tree/main/report"
    files = {f"report/{path.relative_to(report).as_posix()}" for path in report.rglob("*") if path.is_file()}
    published = hub.repos["model", "you/clip"].files()
    assert set(published) == set(before) | (files - {"report/digits/predictions.parquet"})
    assert not any(str(tmp_path).encode() in content for content in published.values())


def test_a_refusal_comes_before_anything_is_measured(hub, trained, tmp_path, monkeypatch):
    hub.add("other/clip", {})
    monkeypatch.setattr("modeling_clipscratch.cli.eval.evaluate_models", lambda *a, **k: pytest.fail("it was measured"))
    for repo_id, message in {"you/nowhere": "Repository Not Found", "other/clip": "don't have the rights"}.items():
        with pytest.raises(OSError, match=message):
            evaluate(trained, "--output_dir", tmp_path / "report", "--push_to_hub", repo_id)
    assert set(hub.repos) == {("model", "other/clip")}
