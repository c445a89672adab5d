"""Write tables, plots and the folder of a report from metrics, logs and results."""

import base64
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.nn.functional import normalize

from modeling_clipscratch.data.dataset import build_dataset, image_bytes, ppm
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_embeddings
from modeling_clipscratch.evaluation.evaluate_models import text_summary
from modeling_clipscratch.evaluation.metrics.intervals import Difference
from modeling_clipscratch.evaluation.plots import figures, result_plots
from modeling_clipscratch.evaluation.plots.curves import plot_curves
from modeling_clipscratch.evaluation.report import write_report as report
from modeling_clipscratch.evaluation.report.metric_tables import shown_difference, text_table, write_json
from modeling_clipscratch.evaluation.report.write_report import check_report_folder, write_report

EVIL = '<script>alert(1)</script> & $x$ "quoted"'
LONG = "a_file_name_without_any_space_" * 10


def direction(text):
    return normalize(torch.randn(16, generator=torch.Generator().manual_seed(sum(text.encode()))), dim=0)


def encode(texts):
    """Texts -> unit embeddings that depend on the text only."""
    return torch.stack([direction(text) for text in texts])


def image(index):
    return np.random.default_rng(index).integers(0, 256, (12, 9 + index % 5, 3), dtype=np.uint8)


def result_of(count, *, labels=None, names=None, captions=None, noise=1.0):
    """A result of images close to their text, the farther the more noise."""
    words = {"captions": captions} if labels is None else {"labels": labels, "class_names": names}
    images, keys = image_bytes([ppm(image(index)) for index in range(count)]), [f"k{i}" for i in range(count)]
    dataset = build_dataset(images, keys, **words)
    first = [own[0] for own in captions] if labels is None else [f"a photo of {names[label]}." for label in labels]
    texts = encode(first)
    images = normalize(texts + noise * torch.randn(texts.shape, generator=torch.Generator().manual_seed(0)) / 4, dim=-1)
    return evaluate_embeddings(encode, images, dataset, ["a photo of {}."], logit_scale=2.0)


def with_intervals(result):
    ends = {f"{name}_ci95": [0.9 * value, min(1.0, 1.1 * value)] for name, value in result.metrics.items()}
    return replace(result, metrics={**result.metrics, **ends})


# Tables


def test_names_are_on_one_line_and_move_no_cursor():
    table = text_table({"two\nlines \x1b[31m": {"top1": 0.5}})
    assert table.splitlines() == ["      two lines \ufffd[31m", "top1           50.0 %"]


def test_json_is_written_whole_and_never_with_nan(tmp_path):
    write_json(tmp_path / "metrics.json", {"top1": 0.98251})
    with pytest.raises(ValueError):
        write_json(tmp_path / "metrics.json", {"top1": float("nan")})
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"top1": 0.98251}


def difference(value, low, high, p_value):
    return Difference(value=value, low=low, high=high, p_value=p_value)


def test_comparison_table_has_a_model_and_its_difference_side_by_side():
    first = SimpleNamespace(metrics={"top1": 0.5, "top1_ci95": [0.4, 0.6]}, skipped=0)
    both = {"./runs/a": {"d": first}, "./runs/b": {"d": SimpleNamespace(metrics={"top1": 0.75}, skipped=0)}}
    gain = {"d": {"./runs/b": {"top1": difference(0.25, 0.1, 0.4, 0.004)}}}
    assert [line.split("  ") for line in re.sub("   +", "  ", text_summary(both, gain)).splitlines()] == [
        ["d"],
        ["", "a", "b", "b - a"],
        ["top1", "50.0 % (40.0 to 60.0)", "75.0 %", "+25.0 (+10.0 to +40.0, p 0.004), better"],
    ]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("top1", (0.1, 0.05, 0.15, 0.01), "better"),
        ("top1", (0.1, -0.01, 0.2, 0.01), "may be chance"),
        ("top1", (0.1, 0.01, 0.2, 0.06), "may be chance"),
        ("expected_calibration_error", (0.1, 0.05, 0.15, 0.01), "worse"),
        ("text_to_image_median_rank", (-2.0, -3.0, -1.0, 0.01), "better"),
    ],
)
def test_a_difference_counts_only_where_interval_and_p_agree(name, values, expected):
    assert shown_difference(name, difference(*values))[2] == expected


# Plots


@pytest.fixture(autouse=True, scope="module")
def coarse_plots():
    figures.DPI = 50
    yield
    figures.DPI = 130


@pytest.fixture
def saved(monkeypatch):
    """Figures as they were saved."""
    figures_, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures_.append(self), save(self, *a, **k))[1])
    return figures_


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_curves_have_a_panel_for_each_logged_quantity(tmp_path, saved):
    log = [
        {"loss": 2.0, "loss_floor": 1.0, "learning_rate": 1e-3, "grad_norm": 1.0, "images_seen": 640, "step": 10},
        {"eval_top1": 0.5, "eval_runtime": 1.0, "step": 10},
        {"loss": 1.7, "step": 20},  # logged again by the run that resumed
        {"loss": 1.0, "loss_floor": 1.0, "learning_rate": 5e-4, "images_seen": 1280, "step": 20},
        {"loss": float("nan"), "step": 30},
        {"train_runtime": 3.0, "train_loss": 1.5, "step": 20},
    ]
    plot_curves(log, tmp_path / "curves.png")
    assert titles(saved[0]) == ["loss", "zero-shot accuracy", "learning rate"]
    loss, accuracy, _ = saved[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 2.0], [20, 1.0]]
    assert [line.get_label() for line in loss.lines] == ["loss", "loss floor"]
    assert accuracy.lines[0].get_xydata().tolist() == [[10, 50.0]] and accuracy.lines[0].get_marker() == "o"
    assert loss.get_xlabel() == "step (of 64 images)"


def test_lines_that_coincide_are_all_visible_and_panels_fill_their_rows(tmp_path, saved):
    ways = [f"eval_{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]
    log = [{"step": 1, **dict.fromkeys(ways, 1.0), "temperature": 0.07, "image_to_text_accuracy": 0.5, "loss": 1.0}]
    plot_curves(log, tmp_path / "curves.png")
    panels = ["loss", "image to text recall", "text to image recall", "in-batch accuracy", "temperature"]
    assert titles(saved[0]) == panels
    lines = saved[0].axes[1].lines
    assert [line.get_label() for line in lines] == [f"eval image to text recall@{k}" for k in (1, 5, 10)]
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths, reverse=True) and len(set(widths)) == 3
    assert [len(row.axes) for row in saved[0].subfigs] == [2, 3]


@pytest.mark.parametrize("classes", [2, 30, 60, 300])
def test_nothing_of_a_confusion_plot_is_cut_off(tmp_path, saved, classes):
    confusion = np.eye(classes, dtype=int) * 1234
    confusion[1] = 0  # a class without images
    names = [f"class_{i} costs $5 or $6, {LONG}" for i in range(classes)]
    result_plots.plot_confusion(confusion, names, tmp_path / "c.png")
    axes = saved[0].axes[0]
    labels = [*axes.get_xticklabels(), *axes.get_yticklabels()] if classes <= result_plots.MOST_TICKS else []
    for part in (axes.xaxis.label, axes.yaxis.label, axes.title, *labels):
        box, whole = part.get_window_extent(), saved[0].bbox
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= whole.x1 and box.y1 <= whole.y1


def test_small_images_are_enlarged_without_smoothing(tmp_path, saved):
    result = result_of(9, labels=np.arange(9) % 3, names=["a", "b", "c"], noise=0)
    result_plots.plot_predictions(result, tmp_path / "hits.png", right=True)
    marks = [axes.get_title()[:3] for axes in saved[0].axes]
    assert len(marks) == 9 and set(marks[:3]) == {"✓ a", "✓ b", "✓ c"}  # the classes in turn
    shown = np.asarray(saved[0].axes[0].images[0].get_array())
    assert max(shown.shape) == figures.SIDE and len(np.unique(shown.reshape(-1, 3), axis=0)) <= 12 * 13  # no mixtures


def test_ten_classes_differ_in_colour_and_in_marker_on_the_map(tmp_path, saved):
    names = [f"class {number}" for number in range(12)]
    result_plots.plot_embeddings(result_of(60, labels=np.arange(60) % 12, names=names), tmp_path / "map.png")
    *classes, rest = saved[0].axes[0].collections
    assert len(classes) == 10 and rest.get_label() == "2 other classes"
    assert len({tuple(points.get_facecolor()[0]) for points in classes}) == 10
    assert len({points.get_paths()[0].vertices.tobytes() for points in classes}) == 10


# Reports


ODD = {
    "one row, two classes": lambda: result_of(1, labels=np.array([1]), names=["a", "b"]),
    "two classes, nothing wrong": lambda: result_of(9, labels=np.arange(9) % 2, names=["no", "yes"], noise=0),
    "a class without images": lambda: result_of(8, labels=np.arange(8) % 2 * 2, names=["a", "none", "c"]),
    "a thousand classes": lambda: result_of(60, labels=np.arange(60) * 16, names=[f"class {i}" for i in range(1000)]),
    "long names": lambda: result_of(7, labels=np.arange(7), names=[f"{LONG}{i}" for i in range(6)] + [EVIL]),
    "one image, one caption": lambda: result_of(1, captions=[["a cat"]]),
    "few captions, uneven": lambda: result_of(4, captions=[["a"], [EVIL, LONG, "c"], ["d"], ["e", "f"]]),
    "captions alike": lambda: result_of(8, captions=[["the same"]] * 8, noise=0),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_datasets_have_whole_reports(case, tmp_path, recwarn):
    (tmp_path / "odd").mkdir()
    for name in result_plots.FILES:
        (tmp_path / "odd" / name).write_bytes(b"of an earlier report")
    result = ODD[case]()
    written = write_report(tmp_path, {"owner/model": {"odd": result}}, {})
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert json.loads((tmp_path / "metrics.json").read_text()) == {"odd": result.metrics}
    plots = [path for path in written if path.suffix == ".png"]
    assert {path.name for path in plots} <= set(result_plots.FILES)
    for path in plots:
        with Image.open(path) as found:
            assert np.asarray(found.convert("L")).std() > 5, f"{path} is blank"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img ") == len(plots) >= 1
    assert not re.search(r"\bnan\b|\binf\b|None", re.sub(r"base64,[^\"]+", "", page))
    assert not [str(found.message) for found in recwarn if issubclass(found.category, (RuntimeWarning, UserWarning))]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A report of two models on data of both kinds, with names of any length and characters."""
    folder = tmp_path_factory.mktemp("compared")
    names = ["cat", "dog", "owl", "elk", "bee", LONG, EVIL]
    sets = {
        "some/classes": [result_of(21, labels=np.arange(21) % 7, names=names, noise=noise) for noise in (1.0, 3.0)],
        "captions": [
            result_of(6, captions=[[f"{EVIL} {i}", f"{LONG} {i}"] for i in range(6)], noise=n) for n in (0, 2)
        ],
    }
    models = ["runs/first", EVIL.replace("/", "") + LONG[:100]]
    evaluations = {
        model: {name: with_intervals(found[number]) for name, found in sets.items()}
        for number, model in enumerate(models)
    }
    worse, unsure = difference(-0.25, -0.4, -0.1, 0.0001), difference(0.01, -0.02, 0.04, 0.4)
    differences = {"some/classes": {models[1]: {"top1": worse, "top5": unsure}}}
    written = write_report(folder / "report", evaluations, differences, command=f"clipscratch eval {EVIL}")
    return SimpleNamespace(
        folder=folder / "report", written=written, models=models, evaluations=evaluations,
        page=(folder / "report" / "report.html").read_text(),
    )  # fmt: skip


def test_page_needs_no_other_file_and_no_network_and_escapes_names(compared):
    sources = re.findall(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']([^"']*)""", compared.page)
    assert sources and all(source.startswith(("data:image/", "#")) for source in sources)
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", compared.page)

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in compared.page
    assert "clipscratch eval &lt;script&gt;" in compared.page


def test_every_plot_is_in_the_page_with_a_description(compared):
    images = re.findall(r"<img src=\"data:image/png;base64,([^\"]+)\" alt=\"([^\"]*)\"", compared.page)
    plots = [path for path in compared.written if path.suffix == ".png"]
    assert len(images) == compared.page.count("<img ") == len(plots)
    for source, alt in images:
        assert alt.strip()
        Image.open(io.BytesIO(base64.b64decode(source))).load()
    assert len(re.findall(r"<figcaption>[^<]{20,}", compared.page)) == len(images)


def test_page_shows_values_with_intervals_and_differences(compared):
    found = compared.evaluations["runs/first"]["some/classes"].metrics
    low, high = (f"{100 * end:.1f}" for end in found["top1_ci95"])
    assert f"<strong>{100 * found['top1']:.1f} %</strong> <small>{low} to {high}</small>" in compared.page
    assert "-25.0, worse</strong> <small>-40.0 to -10.0, p &lt; 0.001" in compared.page
    assert "+1.0, may be chance" in compared.page
    words = re.sub(r"<style>.*</style>|style=\"[^\"]*\"", "", compared.page, flags=re.DOTALL)
    assert "ci95" not in words and not re.search(r"\d%", words)


def test_several_models_have_a_folder_each_and_one_comparison(compared):
    names = {str(path.relative_to(compared.folder)) for path in compared.written}
    assert {"runs-first/metrics.json", "runs-first/some-classes/confusion.png"} < names
    stored = json.loads((compared.folder / "comparison.json").read_text())
    [found] = stored["some/classes"].values()
    assert found["top5"]["p_value"] == 0.4


def test_a_report_calls_folders_by_their_last_part(tmp_path, quick_plots):
    result = result_of(9, labels=np.arange(9) % 2, names=["no", "yes"])
    write_report(tmp_path / "report", {f"{tmp_path}/model": {f"{tmp_path}/birds": result}}, {}, command="clipscratch")
    assert str(tmp_path) not in (tmp_path / "report" / "report.html").read_text()
    account = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert account["data"]["birds"] == {"task": "zero_shot", "split": "-", "rows": 9}


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_page_is_as_wide_as_the_window(compared, browser, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto((compared.folder / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    wider = "[...document.querySelectorAll('table')].filter(t => t.offsetWidth > t.parentElement.clientWidth).length"
    assert page.evaluate(wider) == 0 or width == 390  # on a phone they scroll inside their box


WRITERS = ["write_json", "draw_plots", "render_page", "save_predictions"]


@pytest.mark.parametrize("writer", WRITERS)
def test_a_report_that_cannot_be_written_leaves_the_earlier_one_whole(tmp_path, monkeypatch, quick_plots, writer):
    result = result_of(9, labels=np.arange(9) % 2, names=["no", "yes"])
    write_report(tmp_path / "report", {"a/model": {"a/set": result}}, {}, predictions=True)
    killed = tmp_path / "report" / ".new-0123abcd.part"
    before = {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()}
    killed.mkdir()
    write = getattr(report, writer)

    def full(*given, **named):
        write(*given, **named)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, writer, full)
    with pytest.raises(OSError, match=r"report cannot be written \(No space left on device\)"):
        write_report(tmp_path / "report", {"a/model": {"a/set": replace(result, skipped=3)}}, {}, predictions=True)
    assert {path: path.read_bytes() for path in (tmp_path / "report").rglob("*") if path.is_file()} == before
    assert not killed.exists()


def test_a_report_folder_is_checked_before_anything_is_measured(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model with its own metrics; choose .*report"):
        check_report_folder(tmp_path)
    with pytest.raises(OSError, match=r"cannot be written \(.*\), .* choose"):
        check_report_folder(tmp_path / "config.json" / "new")
