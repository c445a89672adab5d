"""Write tables, images and the report's folder from metrics, logs and results."""

import io
import json
import os
import stat
import tempfile
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.plots import confusion as confusions
from modeling_clipscratch.evaluation.plots.all_plots import FILES, draw_pictures
from modeling_clipscratch.evaluation.plots.class_sheets import plot_examples
from modeling_clipscratch.evaluation.plots.curves import plot_curves
from modeling_clipscratch.evaluation.report import write_report as report
from modeling_clipscratch.evaluation.report.metric_tables import markdown_table, text_table, write_metrics
from modeling_clipscratch.evaluation.report.write_report import open_folder, write_report
from modeling_clipscratch.utils.atomic_files import write_whole

METRICS = {"digits": {"top1": 0.98251}, "owner/birds": {"top1": 0.5, "text_to_image_median_rank": 3.0}}


def test_columns_of_the_text_table_are_aligned():
    assert text_table(METRICS).splitlines() == [
        "                           digits  owner/birds",
        "top1                       98.3 %       50.0 %",
        "text_to_image_median_rank       -          3.0",
    ]


def test_names_stand_on_one_line_and_move_no_cursor():
    table = text_table({"two\nlines \x1b[31m": {"top1": 0.5}})
    assert table.splitlines() == ["      two lines \ufffd[31m", "top1           50.0 %"]


def test_an_interval_is_shown_with_both_its_ends():
    table = markdown_table({"a|b": {"top1": 0.3, "top1_ci95": [0.25, 0.5], "median_rank": 2.0}})
    assert table.splitlines() == [
        "| metric | a\\|b |",
        "| --- | ---: |",
        "| `top1` | 30.0 % (25.0 to 50.0) |",
        "| `median_rank` | 2.0 |",
    ]


def test_metrics_file_holds_fractions_and_never_nan(tmp_path):
    write_metrics(tmp_path / "metrics.json", METRICS)
    assert json.loads((tmp_path / "metrics.json").read_text()) == METRICS
    with pytest.raises(ValueError):
        write_metrics(tmp_path / "metrics.json", {"digits": {"top1": float("nan")}})
    assert json.loads((tmp_path / "metrics.json").read_text()) == METRICS


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path):
    def fail(path):
        path.write_text("half")
        raise RuntimeError

    (tmp_path / "old.txt").write_text("whole")
    with pytest.raises(RuntimeError):
        write_whole(tmp_path / "old.txt", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["old.txt"]
    assert (tmp_path / "old.txt").read_text() == "whole"


def test_written_files_can_be_read_by_those_whom_the_umask_lets(tmp_path):
    before = os.umask(0o022)
    try:
        write_metrics(tmp_path / "metrics.json", METRICS)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "metrics.json").stat().st_mode) == 0o644


@pytest.fixture
def figures(monkeypatch):
    """Figures as they were saved."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))[1])
    return saved


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_curves_have_a_panel_for_what_is_logged_and_none_for_what_is_not(tmp_path, figures):
    log = [
        {"loss": 2.0, "learning_rate": 1e-3, "grad_norm": 1.0, "images_seen": 640, "step": 10},
        {"eval_top1": 0.5, "eval_runtime": 1.0, "step": 10},
        {"loss": 1.0, "learning_rate": 5e-4, "images_seen": 1280, "step": 20},
        {"train_runtime": 3.0, "train_loss": 1.5, "step": 20},
    ]
    plot_curves(log, tmp_path / "curves.png")
    assert titles(figures[0]) == ["loss", "zero-shot accuracy", "learning rate"]
    loss, accuracy, _ = figures[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 2.0], [20, 1.0]]
    assert accuracy.lines[0].get_xydata().tolist() == [[10, 50.0]]
    assert loss.get_xlabel() == "step (of 64 pictures)"
    assert Image.open(tmp_path / "curves.png").format == "PNG"


def test_curves_of_a_resumed_run_take_the_later_of_two_entries(tmp_path, figures):
    log = [
        {"loss": 3.0, "step": 1},
        {"loss": 2.0, "step": 2},
        {"loss": 1.5, "step": 2},
        {"loss": float("nan"), "step": 3},
    ]
    plot_curves(log, tmp_path / "curves.png")
    assert figures[0].axes[0].lines[0].get_xydata().tolist() == [[1, 3.0], [2, 1.5]]


def test_recalls_and_the_temperature_have_panels_of_their_own(tmp_path, figures):
    ways = [f"eval_{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    log = [{"step": 1, **dict.fromkeys(ways, 0.25), "temperature": 0.07, "image_to_text_accuracy": 0.5}]
    plot_curves(log, tmp_path / "curves.png")
    names = ["image to text recall", "text to image recall", "in-batch accuracy", "temperature"]
    assert titles(figures[0]) == names
    assert [line.get_label() for line in figures[0].axes[0].lines] == ["@1", "@5", "@10"]


def test_curves_of_several_runs_share_panels_and_keep_their_colour_and_marker(tmp_path, figures):
    first = [{"loss": 2.0, "eval_top1": 0.9, "eval_top5": 1.0, "step": 1}, {"loss": 1.0, "step": 2}]
    second = [{"loss": 3.0, "eval_top1": 0.8, "step": 2}]
    plot_curves({"runs/$a$": first, "runs/b": second}, tmp_path / "curves.png")
    assert titles(figures[0]) == ["loss", "zero-shot accuracy"]
    loss, accuracy = figures[0].axes
    assert [line.get_xydata().tolist() for line in loss.lines] == [[[1, 2.0], [2, 1.0]], [[2, 3.0]]]
    looks = [(line.get_color(), line.get_marker()) for line in (*loss.lines, *accuracy.lines)]
    assert looks[0] == looks[2] == looks[3] != looks[1] == looks[4]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["runs/$a$", "runs/b"]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [([0.1, 0.98], -3, 107), ([0.92, 0.98], 88, 100), ([0.99, 1.0], 96.5, 100.3), ([0.4, 0.4], 38, 42)],
)
def test_accuracies_fill_their_panel_and_start_at_0_only_where_they_come_near_it(tmp_path, figures, values, low, high):
    plot_curves([{"eval_top1": value, "step": step} for step, value in enumerate(values)], tmp_path / "curves.png")
    found = figures[0].axes[0].get_ylim()
    assert low <= found[0] <= 100 * min(values) and 100 * max(values) <= found[1] <= high


def test_an_empty_log_draws_no_empty_picture(tmp_path):
    plot_curves([{"train_runtime": 1.0, "step": 1}], tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [2, 30, 60, 300])
def test_nothing_of_a_confusion_plot_is_cut_off(tmp_path, figures, classes):
    confusion = np.eye(classes, dtype=int) * 1234
    confusion[1] = 0  # a class without pictures
    confusions.plot_confusion(
        confusion, [f"class_{i} costs $5 or $6, a long name" for i in range(classes)], tmp_path / "c.png"
    )
    axes = figures[0].axes[0]
    names = [*axes.get_xticklabels(), *axes.get_yticklabels()] if classes <= confusions.MOST_TICKS else []
    for part in (axes.xaxis.label, axes.yaxis.label, axes.title, *names):
        box, whole = part.get_window_extent(), figures[0].bbox
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.x1 and box.y1 <= whole.y1


@pytest.mark.parametrize("kind", ["class_rows", "caption_rows"])
def test_a_report_has_the_files_it_says_it_wrote_and_no_others(model, processor, kind, request, tmp_path):
    result = evaluate_dataset(model, processor, request.getfixturevalue(kind))
    written = write_report(tmp_path, {"owner/model": {"owner/colours": result}})
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    folder = tmp_path / "owner-colours"
    assert (folder / "similarity.png").is_file()
    assert (folder / "confusion.png").exists() == (kind == "class_rows")
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"owner/colours": result.metrics}


def test_pictures_of_an_earlier_report_do_not_get_into_the_next(model, processor, class_rows, tmp_path):
    stale = [tmp_path / "curves.png", tmp_path / "owner-colours" / "text_maps.png"]
    stale[1].parent.mkdir()
    for path in stale:
        path.write_bytes(b"another model's")
    result = evaluate_dataset(model, processor, class_rows)
    assert not set(stale) & set(write_report(tmp_path, {"owner/model": {"owner/colours": result}}))
    assert not any(path.exists() for path in stale)


WRITERS = ["write_metrics", "draw_pictures", "plot_curves", "render_page", "save_predictions", "_write_account"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_report_that_cannot_be_written_leaves_the_earlier_one_whole(
    model, processor, class_rows, tmp_path, monkeypatch, writer
):
    result = evaluate_dataset(model, processor, class_rows)
    write_report(tmp_path / "report", {"a/model": {"a/set": result}}, predictions=True)
    killed = tmp_path / "report" / ".new-0123abcd.part"
    before = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    killed.mkdir()
    write = getattr(report, writer)

    def full(*given, **named):
        write(*given, **named)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, writer, full)
    with pytest.raises(OSError, match=r"report cannot be written \(No space left on device; [\d,]+ MB free there\)"):
        write_report(tmp_path / "report", {"a/model": {"a/set": replace(result, skipped=3)}}, predictions=True)
    assert {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()} == before
    assert not killed.exists()


@pytest.mark.parametrize("state", ["", '{"log_history": [{"lo', "[]", '{"log_history": "x"}', '{"log_history": [1]}'])
def test_a_damaged_log_of_a_run_costs_the_curves_only(model, processor, class_rows, tmp_path, caplog, state):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "trainer_state.json").write_text(state)
    result = evaluate_dataset(model, processor, class_rows)
    written = write_report(tmp_path / "report", {str(tmp_path / "run"): {"a/set": result}})
    assert written[0].is_file() and not (tmp_path / "report" / "curves.png").exists()
    assert "trainer_state.json is damaged" in caplog.text


def test_all_pictures_that_a_report_may_have_are_known(model, processor, class_rows, caption_rows, tmp_path):
    for rows in (class_rows, caption_rows):
        draw_pictures(evaluate_dataset(model, processor, rows), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} | {"text_maps.png"} == set(FILES)


def test_a_full_disk_is_found_before_anything_is_measured(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    with pytest.raises(ValueError, match=r"cannot be written to \(No space left on device; .* MB free there\)"):
        open_folder(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_folder_that_a_report_cannot_have_is_refused(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model, with figures of its own; choose .*report"):
        open_folder(tmp_path)

    def full(dir):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(
        ValueError, match=r"cannot be written to \(Permission denied; .*MB free there\); choose another folder"
    ):
        open_folder(tmp_path / "new")


def test_small_pictures_are_enlarged_without_smoothing(model, processor, class_rows, tmp_path, figures):
    result = evaluate_dataset(model, processor, class_rows)
    plot_examples(result, tmp_path / "examples.png")
    marks = [axes.get_title()[0] for axes in figures[0].axes]
    assert marks == ["✓" if hit else "✗" for hit in result.predicted == result.outcomes.labels]
    shown = figures[0].axes[0].images[0].get_array()
    assert shown.shape == (224, 224, 3)
    assert len(np.unique(np.asarray(shown).reshape(-1, 3), axis=0)) <= 64  # the 8 x 8 pixels and no mixtures
