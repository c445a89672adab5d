"""Check what each sub-command prints, writes and refuses. What they call has tests of its own."""

import argparse
import dataclasses
import json
import logging
import math
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_clipscratch.cli import eval as evaluation
from modeling_clipscratch.cli import export
from modeling_clipscratch.data.columns import DATA_OPTIONS, DataOptions


@pytest.fixture(scope="session")
def saved(make_model, word_processor, tmp_path_factory):
    """Folder of a model with random weights."""
    folder = tmp_path_factory.mktemp("saved")
    make_model().save_pretrained(folder)
    word_processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def images(tmp_path):
    """A folder of ten different images: `0.png` to `4.png` and `deep/er/5.png` to `deep/er/9.png`."""
    for seed in range(10):
        path = tmp_path / "images" / ("" if seed < 5 else "deep/er") / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (11, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def run(capsys):
    """Words of a command line -> what the command printed."""

    def call(command, *words):
        import_module(f"modeling_clipscratch.cli.{command}").main([str(word) for word in words])
        return capsys.readouterr().out

    return call


def words_of(options):
    return [word for name, words in options.items() for word in (f"--{name}", *map(str, words))]


# classify


def test_classify_prints_json_or_bars_and_leaves_broken_images_out_with_a_count(run, saved, images, caplog):
    paths = [images / "0.png", __file__, "nowhere.png", images / "1.png"]
    options = ["--model", saved, "--images", *paths, "--labels", "red", "blue"]
    entries = json.loads(run("classify", *options, "--json"))
    assert [entry["image"] for entry in entries] == [str(images / "0.png"), str(images / "1.png")]
    assert f"2 of 4 images cannot be read: {__file__}: cannot be decoded" in caplog.text
    assert all(math.isclose(sum(x["score"] for x in entry["labels"]), 1, abs_tol=1e-6) for entry in entries)
    lines = run("classify", *options).splitlines()
    assert len(lines) == 6 and lines[3] == str(images / "1.png")
    assert all(re.match(r"  (red |blue) +\d+\.\d %", line) for line in lines[1:3])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"labels": ["red"]}, "two labels or more"),
        ({"labels": ["red", "blue", "red"]}, "label 'red' is given twice"),
        ({"template": ["a photo"]}, "has no {}"),
        ({"images": ["nowhere.png"]}, "nowhere.png: there is no such"),
        ({"images": [__file__, "nowhere.png"]}, "test_commands.py: cannot be decoded"),
        ({"model": ["no/such/model/here"]}, "no/such/model/here is neither a folder"),
        ({"device": ["abacus"]}, "device=abacus cannot be used here"),
    ],
)
def test_classify_refuses_in_a_sentence(run, saved, images, changed, sentence):
    options = {"model": [saved], "images": [images / "0.png"], "labels": ["red", "blue"], **changed}
    with pytest.raises(ValueError) as error:
        run("classify", *words_of(options))
    assert sentence in str(error.value) and "\n" not in str(error.value)


# index and search


def test_index_reports_what_it_did_and_search_finds_by_text_and_by_image(run, saved, images, tmp_path):
    report = "10 images in the index: {} encoded, 0 recognised, {} unchanged, 0 gone, 0 unreadable\n"
    assert run("index", images, "--model", saved) == report.format(10, 0)
    assert run("index", images, "--model", saved) == report.format(0, 10)
    words = ["--model", saved, "--index", images]
    lines = run("search", *words, "a red square", "--top", "3").splitlines()
    assert len(lines) == 3 and all(Path(line.split()[-1]).is_file() for line in lines)
    hits = json.loads(run("search", *words, "--image", images / "4.png", "--json", "--page", tmp_path / "page.html"))
    assert len(hits) == 10 and hits[0]["image"] == str(images / "4.png") and hits[0]["score"] > 0.9999
    assert (tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "neither is given"),
        (["red", "--image", "a.jpg"], "both are given"),
        ([""], "is empty"),
        (["red", "--top", "-1"], "top=-1"),
        (["red"], "holds no index"),
    ],
)
def test_search_refuses_in_a_sentence_before_it_loads_the_model(run, images, words, sentence):
    with pytest.raises(ValueError, match=sentence):
        run("search", *words, "--model", "nowhere", "--index", images)


# eval


@pytest.mark.parametrize(
    ("splits", "words", "measured"),
    [
        (("validation", "test"), [], "test"),
        (("train", "validation"), [], "validation"),
        (("train",), [], "validation"),
        (("validation", "test"), ["--split", "val"], "validation"),
    ],
)
def test_the_test_split_is_measured_or_where_there_is_none_validation(
    run, encode, monkeypatch, tmp_path, caplog, splits, words, measured
):
    for split in splits:
        for number in range(12):
            path = tmp_path / split / ("red", "blue")[number % 2] / f"{split}-{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode("red"))
    calls = []
    monkeypatch.setattr(evaluation, "evaluate_models", lambda models, data, **options: calls.append(data) or {}["end"])
    caplog.set_level(logging.INFO, "modeling_clipscratch")
    with pytest.raises(KeyError, match="end"):
        run("eval", "--model", "m", "--dataset", tmp_path, *words)
    assert [list(parts) for parts in calls[0].values()] == [[measured]]
    assert ("has no test split; its validation split is measured" in caplog.text) == ("test" not in splits)
    assert f"{measured}: " in caplog.text and " rows, 2 classes: " in caplog.text


def test_every_option_of_data_has_a_help_and_reaches_the_loader(run, monkeypatch):
    values = {"class_names": ["a", "b"], "templates": ["a {}"], "folder_names": "splits", "caption_lines": "join"}
    values |= {"on_bad_row": "skip"}
    words, expected = [], {"splits": ["dev"], "validation_fraction": 0.2}
    for option, field in DATA_OPTIONS.items():
        value = values.get(field.name, f"my-{field.name}")
        words += [f"--{option}", *(value if isinstance(value, list) else [value])]
        expected[field.name] = value
    calls = []
    monkeypatch.setattr(evaluation, "load_data", lambda name, **options: calls.append(options) or {}["end"])
    with pytest.raises(KeyError, match="end"):
        run("eval", "--model", "m", "--dataset", "d", "--split", "dev", "--validation_fraction", "0.2", *words)
    assert calls == [expected] and set(expected) >= {field.name for field in dataclasses.fields(DataOptions)}
    parser = argparse.ArgumentParser()
    evaluation.add_data_options(parser)
    assert all(action.help for action in parser._actions)


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_images(run, saved, make_model, word_processor, tmp_path):
    other, report = tmp_path / "other", tmp_path / "report"
    make_model(seed=1).save_pretrained(other)
    word_processor.save_pretrained(other)
    options = ["--save_predictions", "--output_dir", report]
    printed = run("eval", "--model", saved, other, "--dataset", "digits", "--split", "validation", *options)
    comparison = json.loads((report / "comparison.json").read_text())
    stored = [json.loads((report / name / "metrics.json").read_text()) for name in (Path(saved).name, "other")]
    tops = [metrics["digits"]["top1"] for metrics in stored]
    assert comparison["digits"]["other"]["top1"]["value"] == pytest.approx(tops[1] - tops[0])
    assert f"{100 * tops[0]:.1f} %" in printed and len(list(report.glob("*/digits/predictions.parquet"))) == 2
    page = (report / "report.html").read_text()
    assert f"clipscratch eval --model {Path(saved).name} other" in page and str(tmp_path.parent) not in page


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"batch_size": ["0"]}, "batch_size=0"),
        ({"split": ["nosuch"]}, "nosuch"),
        ({"save_predictions": []}, "needs --output_dir"),
        ({"class_names": ["a", "b", "a"]}, "label 'a' is given twice"),
        ({"class_names": ["a", ""]}, "label 2 of 2 is empty"),
        ({"templates": ["imagnet"]}, "is not a published list .*imagenet"),
        ({"output_dir": [f"{__file__}/report"]}, "cannot be written"),
    ],
)
def test_eval_refuses_before_it_loads_the_model(run, changed, sentence):
    options = {"model": ["nowhere"], "dataset": ["digits"], **changed}
    with pytest.raises((ValueError, OSError), match=sentence):
        run("eval", *words_of(options))


# demo, export, convert


def test_what_does_not_fit_is_refused_before_a_model_is_loaded(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"pip install 'clipscratch\[demo\]'"):
        run("demo", "--model", "nowhere")
    with pytest.raises(ValueError, match="nothing to write: give --output_dir for ONNX files"):
        run("export", "runs/a")
    with pytest.raises(ValueError, match="--labels and --template are for the page"):
        run("export", "runs/a", "--output_dir", "o", "--images", "i")
    with pytest.raises(ValueError, match="port=0 is not a port; choose 1024 to 65535"):
        run("demo", "--model", "nowhere", "--port", "0")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "page=.*site exists already"),
        (["--labels", "cat"], "1 label given"),
        (["--template", "no braces"], "no braces"),
        (["--images", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_what_the_page_lacks_is_reported_before_the_first_export(run, monkeypatch, tmp_path, words, sentence):
    monkeypatch.setattr(export, "export_onnx", lambda *args, **more: pytest.fail("it was exported"))
    page = tmp_path / "site"
    if not words:
        page.write_text("there")
    with pytest.raises(ValueError, match=sentence):
        run("export", "runs/a", "--output_dir", tmp_path / "onnx", "--page", page, *words)


def test_export_writes_both_forms(run, monkeypatch, tmp_path):
    calls = {}

    def export_onnx(folder, output_dir, *, precisions):
        calls["onnx"] = (folder, output_dir, precisions)
        return {"largest_distance": {"int8": {"text": 0.01, "vision": 0.02}}}

    def write_page(folder, page, **settings):
        calls["page"] = (folder, page, settings["labels"])
        return f"{page}/index.html"

    monkeypatch.setattr(export, "export_onnx", export_onnx)
    monkeypatch.setattr(export, "write_page", write_page)
    monkeypatch.chdir(tmp_path)
    words = ["runs/a", "--output_dir", "o", "--precision", "int8", "--page", "p", "--labels", "cat", "dog"]
    assert run("export", *words).endswith("text 1.0e-02, vision 2.0e-02\nwrote o\nwrote p/index.html\n")
    assert calls == {"onnx": ("runs/a", "o", ["int8"]), "page": ("runs/a", "p", ["cat", "dog"])}
