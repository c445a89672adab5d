"""Write reports of odd datasets and of several models, and check the page and its images."""

import base64
import csv
import io
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modeling_clipscratch.evaluation.report.comparison import markdown_comparison, text_comparison, verdict
from modeling_clipscratch.evaluation.report.html_parts import as_data_uri
from PIL import Image
from torch.nn.functional import normalize

from modeling_clipscratch.data.dataset import build_dataset, image_bytes, ppm
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_embeddings
from modeling_clipscratch.evaluation.plots import embedding_map
from modeling_clipscratch.evaluation.report.write_report import write_report

EVIL = '<script>alert(1)</script> & $x$ "quoted"'


def direction(text):
    return normalize(torch.randn(16, generator=torch.Generator().manual_seed(sum(text.encode()))), dim=0)


def encode(texts):
    """Texts -> unit embeddings that depend on the text only."""
    return torch.stack([direction(text) for text in texts])


def picture(index):
    return np.random.default_rng(index).integers(0, 256, (12, 9 + index % 5, 3), dtype=np.uint8)


def result_of(count, *, labels=None, names=None, captions=None, noise=1.0):
    """A result of pictures that lie near their text, the farther the more noise."""
    words = {"captions": captions} if labels is None else {"labels": labels, "class_names": names}
    images, keys = image_bytes([ppm(picture(index)) for index in range(count)]), [f"k{i}" for i in range(count)]
    dataset = build_dataset(images, keys, **words)
    first = [own[0] for own in captions] if labels is None else [f"a photo of {names[label]}." for label in labels]
    texts = encode(first)
    images = normalize(texts + noise * torch.randn(texts.shape, generator=torch.Generator().manual_seed(0)) / 4, dim=-1)
    return evaluate_embeddings(encode, images, dataset, ["a photo of {}."], logit_scale=2.0)


def with_intervals(result):
    ends = {f"{name}_ci95": [0.9 * value, min(1.0, 1.1 * value)] for name, value in result.metrics.items()}
    return replace(result, metrics={**result.metrics, **ends})


ODD = {
    "one row, two classes": lambda: result_of(1, labels=np.array([1]), names=["a", "b"]),
    "two classes, nothing wrong": lambda: result_of(9, labels=np.arange(9) % 2, names=["no", "yes"], noise=0),
    "a class without pictures": lambda: result_of(8, labels=np.arange(8) % 2 * 2, names=["a", "none", "c"]),
    "a thousand classes": lambda: result_of(60, labels=np.arange(60) * 16, names=[f"class {i}" for i in range(1000)]),
    "long names": lambda: result_of(7, labels=np.arange(7), names=["x" * 300 + str(i) for i in range(6)] + [EVIL]),
    "one picture, one caption": lambda: result_of(1, captions=[["a cat"]]),
    "few captions, uneven": lambda: result_of(4, captions=[["a"], [EVIL, "b" * 500, "c"], ["d"], ["e", "f"]]),
    "captions alike": lambda: result_of(8, captions=[["the same"]] * 8, noise=0),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_data_sets_have_whole_reports(case, tmp_path, recwarn):
    result = ODD[case]()
    written = write_report(tmp_path, {"owner/model": {"odd": result}})
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    pictures = [path for path in written if path.suffix == ".png"]
    for path in pictures:
        with Image.open(path) as found:
            assert np.asarray(found.convert("L")).std() > 5, f"{path} is blank"
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img ") == len(pictures) >= 3
    assert not re.search(r"\bnan\b|\binf\b|None", re.sub(r"base64,[^\"]+", "", page))
    assert not [str(found.message) for found in recwarn if issubclass(found.category, (RuntimeWarning, UserWarning))]


def test_map_of_a_collapsed_model_is_one_point_with_one_name(tmp_path, monkeypatch, recwarn):
    result = result_of(60, labels=np.arange(60) % 3, names=["a", "b", "c"])
    saved = []
    monkeypatch.setattr(embedding_map, "save_figure", lambda figure, path: saved.append(figure))
    embedding_map.plot_embeddings(replace(result, image_embeds=torch.ones(60, 16) / 4), tmp_path / "map.png")
    assert [text.get_text() for text in saved[0].axes[0].texts] == ["a"]
    assert not recwarn.list


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A report of two models on data of both kinds."""
    folder = tmp_path_factory.mktemp("compared")
    names = ["cat", "dog", "owl", "elk", "bee", "ant", EVIL]
    sets = {
        "some/classes": [result_of(21, labels=np.arange(21) % 7, names=names, noise=noise) for noise in (1.0, 3.0)],
        "captions": [result_of(6, captions=[[f"{EVIL} {i}", f"b {i}"] for i in range(6)], noise=n) for n in (0.5, 2.0)],
    }
    run = folder / EVIL.replace("/", "")
    run.mkdir()
    log = [{"step": step, "loss": 3.0 - step / 10, "eval_top1": 0.9 + step / 100} for step in range(1, 6)]
    (run / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    models = ["runs/first", str(run)]
    evaluations = {
        model: {name: with_intervals(found[number]) for name, found in sets.items()}
        for number, model in enumerate(models)
    }
    worse = SimpleNamespace(value=-0.25, low=-0.4, high=-0.1, p_value=0.0001)
    unsure = SimpleNamespace(value=0.01, low=-0.02, high=0.04, p_value=0.4)
    differences = {"some/classes": {models[1]: {"top1": worse, "top5": unsure}}}
    written = write_report(folder / "report", evaluations, differences, command=f"run_eval.py {EVIL}")
    return SimpleNamespace(
        folder=folder / "report", written=written, models=models, evaluations=evaluations, differences=differences,
        page=(folder / "report" / "report.html").read_text(),
    )  # fmt: skip


def test_page_needs_no_other_file_and_no_network(compared):
    sources = re.findall(r"""(?:src|href|srcset|action|data|poster)\s*=\s*["']([^"']*)""", compared.page)
    assert sources and all(source.startswith(("data:image/", "#")) for source in sources)
    assert not re.search(r"https?://|@import|url\(|<script|<link|<iframe", compared.page)


def test_names_captions_and_commands_are_escaped(compared):
    assert "<script" not in compared.page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in compared.page
    assert "run_eval.py &lt;script&gt;" in compared.page


def test_every_picture_is_in_the_page_and_has_words_beside_it(compared):
    images = re.findall(r"<img src=\"data:image/(?:png|jpeg);base64,([^\"]+)\" alt=\"([^\"]*)\"", compared.page)
    pictures = [path for path in compared.written if path.suffix == ".png"]
    assert len(images) == compared.page.count("<img ") == len(pictures)
    for source, alt in images:
        assert alt.strip()
        Image.open(io.BytesIO(base64.b64decode(source))).load()
    assert len(re.findall(r"<figcaption>[^<]{20,}", compared.page)) == len(images)


def test_page_shows_values_with_their_intervals(compared):
    found = compared.evaluations["runs/first"]["some/classes"].metrics
    low, high = (f"{100 * end:.1f}" for end in found["top1_ci95"])
    assert f"<b>{100 * found['top1']:.1f} %</b>" in compared.page
    assert f"95 % interval {low} to {high}" in compared.page
    assert "ci95" not in compared.page


def test_page_says_which_differences_are_real(compared):
    assert "\N{MINUS SIGN}25.0 points, worse" in compared.page
    assert "+1.0 points, may be chance" in compared.page


def test_several_models_have_a_folder_each_and_one_comparison(compared):
    names = {str(path.relative_to(compared.folder)) for path in compared.written}
    assert {"report.html", "curves.png", "comparison.csv", "comparison.json", "comparison.md"} < names
    assert {"runs-first/metrics.json", "runs-first/some-classes/confusion.png"} < names
    assert "runs-first/table.md" not in names
    stored = json.loads((compared.folder / "runs-first" / "metrics.json").read_text())
    assert stored == {name: found.metrics for name, found in compared.evaluations["runs/first"].items()}


def test_comparison_files_hold_every_figure_once(compared):
    with open(compared.folder / "comparison.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    keys = [(line["data_set"], line["model"], line["metric"]) for line in lines]
    assert len(set(keys)) == len(keys) == 2 * (4 + 8)
    line = lines[keys.index(("some/classes", "runs/first", "top1"))]
    metrics = compared.evaluations["runs/first"]["some/classes"].metrics
    assert [float(line[key]) for key in ("value", "low", "high")] == [metrics["top1"], *metrics["top1_ci95"]]
    stored = json.loads((compared.folder / "comparison.json").read_text())
    assert stored["differences"]["some/classes"][compared.models[1]]["top5"]["p_value"] == 0.4


def test_comparison_table_has_a_model_and_its_difference_side_by_side():
    metrics = {"runs/a": {"d": {"top1": 0.5, "top1_ci95": [0.4, 0.6]}}, "runs/b": {"d": {"top1": 0.75}}}
    gain = {"d": {"runs/b": {"top1": SimpleNamespace(value=0.25, low=0.1, high=0.4, p_value=0.004)}}}
    assert markdown_comparison(metrics, gain).splitlines() == [
        "## d",
        "",
        "| metric | a | b | b - a |",
        "| --- | ---: | ---: | ---: |",
        "| `top1` | 50.0 % (40.0 to 60.0) | 75.0 % | +25.0 (+10.0 to +40.0), p 0.004, better |",
    ]
    assert "d\n" in text_comparison(metrics, gain)


@pytest.mark.parametrize(
    ("name", "value", "low", "high", "p_value", "expected"),
    [
        ("top1", 0.1, 0.05, 0.15, 0.01, "better"),
        ("top1", 0.1, -0.01, 0.2, 0.01, "may be chance"),
        ("top1", 0.1, 0.01, 0.2, 0.06, "may be chance"),
        ("expected_calibration_error", 0.1, 0.05, 0.15, 0.01, "worse"),
        ("text_to_image_median_rank", -2.0, -3.0, -1.0, 0.01, "better"),
    ],
)
def test_a_difference_is_real_only_where_interval_and_p_agree(name, value, low, high, p_value, expected):
    assert verdict(name, SimpleNamespace(value=value, low=low, high=high, p_value=p_value)) == expected


def test_a_model_in_the_working_folder_has_a_column_head_too(tmp_path, monkeypatch):
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    table = text_comparison({".": {"digits": {"top1": 0.5}}, "../second": {"digits": {"top1": 0.75}}})
    assert table.splitlines()[1].split() == ["first", "second"]


def test_photographs_travel_as_jpeg_and_drawings_as_png(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(tmp_path / "drawing.png")
    assert as_data_uri(tmp_path / "photo.png").startswith("data:image/jpeg;base64,")
    assert as_data_uri(tmp_path / "drawing.png").startswith("data:image/png;base64,")
