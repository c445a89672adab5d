"""Check what `run_eval.py` and `run_inference.py` print, write and refuse."""

import argparse
import copy
import dataclasses
import io
import json
import logging
import math
import os
import re
import shutil
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, CLIPConfig, CLIPModel

from modeling_clipscratch.cli.command_line import DATA_OPTIONS, add_data_options, run_command
from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.dataset import prepare_dataset
from modeling_clipscratch.data.load import ImageTextData
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.load_model import find_device, load_model
from modeling_clipscratch.evaluation.rank_labels import rank_labels

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def saved(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in ("one", "two")]
    for seed, path in enumerate(paths):
        pixels = np.random.default_rng(seed).integers(0, 256, (11, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    import run_eval
    import run_inference

    return run_eval, run_inference


def test_probabilities_are_those_of_the_model_s_own_logits(model, processor, pictures):
    labels = ["red", "green", "blue"]
    images = [Image.open(path) for path in pictures]
    ranked = rank_labels(model, processor, images, labels, template="bright {}")
    inputs = processor(text=[f"bright {x}" for x in labels], images=images, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.softmax(-1)
    for found, row in zip(ranked, expected, strict=True):
        assert {x["label"]: x["score"] for x in found} == pytest.approx(
            dict(zip(labels, row.tolist(), strict=True)), abs=1e-5
        )
        assert found == sorted(found, key=lambda x: -x["score"])


def test_inference_prints_json_that_sums_to_one(scripts, saved, pictures, capsys):
    scripts[1].main(["--model", saved, "--images", *pictures, "--labels", "red", "blue", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [entry["image"] for entry in found] == pictures
    assert all(math.isclose(sum(x["score"] for x in entry["labels"]), 1, abs_tol=1e-6) for entry in found)


def test_inference_prints_a_bar_for_each_label(scripts, saved, pictures, capsys):
    scripts[1].main(["--model", saved, "--images", pictures[0], "--labels", "red", "blue"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == pictures[0] and len(lines) == 3 and all(" %  " in line or "0.0 %" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"labels": ["red"]}, "two labels or more"),
        ({"labels": ["red", "blue", "red"]}, "label 'red' is given twice"),
        ({"template": ["a photo"]}, "has no {}"),
        ({"images": ["nowhere.png"]}, "nowhere.png: there is no such image"),
        ({"images": [__file__]}, "cannot be decoded"),
        ({"model": ["no/such/model/here"]}, "no/such/model/here is neither a folder"),
        ({"device": ["abacus"]}, "device=abacus cannot be used here"),
    ],
)
def test_inference_refuses_in_a_sentence(scripts, saved, pictures, changed, sentence):
    options = {"model": [saved], "images": pictures, "labels": ["red", "blue"], **changed}
    arguments = [word for name, words in options.items() for word in (f"--{name}", *words)]
    with pytest.raises(ValueError) as error:
        scripts[1].main(arguments)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_evaluation_prints_a_table_and_writes_a_report(scripts, saved, tmp_path, capsys):
    report = tmp_path / "report"
    scripts[0].main(["--model", saved, "--dataset", "digits", "--split", "validation", "--output_dir", str(report)])
    table = capsys.readouterr().out
    metrics = json.loads((report / "metrics.json").read_text())["digits"]
    assert f"{100 * metrics['top1']:.1f} %" in table
    assert (report / "digits" / "confusion.png").is_file() and (report / "table.md").is_file()
    assert f"wrote {report / 'report.html'} and " in table and "run_eval.py" in (report / "report.html").read_text()


def test_splits_classes_and_origin_are_logged_before_anything_is_measured(scripts, caplog):
    caplog.set_level(logging.INFO, "modeling_clipscratch")
    with pytest.raises(ValueError, match="nowhere"):
        scripts[0].main(["--model", "./nowhere", "--dataset", "digits", "--task", "knn"])
    assert [record.getMessage() for record in caplog.records] == [
        f"digits, {split}: {rows} rows, 10 classes: zero, one, two, three, four, five, six, seven, eight, nine (from "
        "scikit-learn's load_digits)"
        for split, rows in (("train", "1,257"), ("test", "360"))
    ]


def test_every_option_of_data_has_a_help_and_reaches_the_loader(scripts, monkeypatch):
    values = {"class_names": ["a", "b"], "templates": ["a {}"], "folder_names": "splits", "caption_lines": "join"}
    values |= {"on_bad_row": "skip"}
    words, expected = [], {"splits": ["dev"], "validation_fraction": 0.2}
    for option, field in DATA_OPTIONS.items():
        value = values.get(field.name, f"my-{field.name}")
        words += [f"--{option}", *(value if isinstance(value, list) else [value])]
        expected[field.name] = value
    calls = []
    monkeypatch.setattr(scripts[0], "load_data", lambda name, **options: calls.append(options) or {}["end"])
    with pytest.raises(KeyError, match="end"):
        scripts[0].main(["--model", "m", "--dataset", "d", "--split", "dev", "--validation_fraction", "0.2", *words])
    assert calls == [expected] and set(expected) >= {field.name for field in dataclasses.fields(DataOptions)}
    parser = argparse.ArgumentParser()
    add_data_options(parser)
    assert all(action.help for action in parser._actions)


def test_one_class_alone_is_refused_before_the_model_is_loaded(scripts, class_rows, monkeypatch):
    table = {"image": class_rows["image"][:], "label": ["cat"] * 12}
    data = ImageTextData(test=prepare_dataset(datasets.Dataset.from_dict(table), name="cats", split="test"))
    monkeypatch.setattr(scripts[0], "load_data", lambda *given, **options: data)
    with pytest.raises(ValueError, match="cats, split test: 'cat' is the only class, so every answer would be right"):
        scripts[0].main(["--model", "./nowhere", "--dataset", "cats"])


def test_two_models_are_compared_on_the_same_pictures(scripts, saved, model, processor, tmp_path, capsys):
    other = tmp_path / "other"
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.visual_projection.weight.neg_()
    changed.save_pretrained(other)
    processor.save_pretrained(other)
    report = tmp_path / "report"
    options = ["--seeds", "--save_predictions", "--save_embeddings", "--output_dir", str(report)]
    scripts[0].main(["--model", saved, str(other), "--dataset", "digits", "--split", "validation", *options])
    printed = capsys.readouterr().out
    found = json.loads((report / "comparison.json").read_text())
    tops = [found["metrics"][name]["digits"]["top1"] for name in (saved, str(other))]
    assert found["differences"]["digits"][str(other)]["top1"]["value"] == pytest.approx(tops[1] - tops[0])
    assert f"{50 * sum(tops):.1f} %" in printed and "mean of 2 seeds" in printed
    for name in ("predictions.parquet", "embeddings.safetensors"):
        assert len(list(report.glob(f"*/digits/{name}"))) == 2


def test_a_wrong_model_leaves_no_empty_report(scripts, tmp_path):
    with pytest.raises(ValueError, match="nowhere is neither a folder"):
        scripts[0].main(["--model", "nowhere", "--dataset", "digits", "--output_dir", str(tmp_path / "new" / "report")])
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_is_no_utf8_is_refused_and_a_path_of_any_bytes_is_printed(
    scripts, saved, pictures, tmp_path, monkeypatch
):
    strict = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", strict)
    monkeypatch.setattr("modeling_clipscratch.cli.command_line.quiet_libraries", lambda: None)
    raw = str(tmp_path / os.fsdecode(b"caf\xe9.png"))
    shutil.copy(pictures[0], raw)
    words = ["run_inference.py", "--model", saved, "--images", raw, "--labels", "red"]
    monkeypatch.setattr(sys, "argv", [*words, "blue"])
    run_command(scripts[1].main)
    strict.flush()
    assert "caf\\udce9.png\n  " in strict.buffer.getvalue().decode()
    with pytest.raises(ValueError, match=r"the text 'a photo of a bl\\udce9.' holds bytes that are no UTF-8"):
        scripts[1].main([*words[1:], os.fsdecode(b"bl\xe9"), "--template", "a photo of a {}."])


def test_a_probe_learns_from_the_training_split(scripts, saved, capsys):
    scripts[0].main(["--model", saved, "--dataset", "digits", "--task", "knn", "--split", "validation"])
    top1 = float(re.search(r"top1 +([\d.]+) %", capsys.readouterr().out)[1])
    assert top1 > 50  # untrained features of digits still lie by class; prompts give chance, 10 %


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"dataset": ["digits", "digits"]}, "digits is named twice"),
        ({"batch_size": ["0"]}, "batch_size=0"),
        ({"split": ["nosuch"]}, "nosuch"),
        ({"model": ["a", "a"]}, "model a is named twice"),
        ({"seeds": []}, "--seeds needs the models of two seeds"),
        ({"save_predictions": []}, "need --output_dir"),
        ({"task": ["retrieval"]}, "digits, split test: the data have classes and task=retrieval needs captions"),
        ({"task": ["knn"], "split": ["training"]}, "task=knn learns from the training split"),
        ({"class_names": ["a", "b", "a"]}, "label 'a' is given twice"),
        ({"class_names": ["a", ""]}, "label 2 of 2 is empty"),
        ({"templates": ["imagnet"]}, "did you mean imagenet"),
    ],
)
def test_evaluation_refuses_before_it_loads_the_model(scripts, changed, sentence):
    options = {"model": ["nowhere"], "dataset": ["digits"], **changed}
    arguments = [word for name, words in options.items() for word in (f"--{name}", *words)]
    with pytest.raises(ValueError, match=sentence):
        scripts[0].main(arguments)


def test_a_folder_that_cannot_be_made_is_known_before_anything_is_measured(scripts, saved, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["--model", saved, "--dataset", "digits", "--output_dir", str(tmp_path / "file" / "report")]
    with pytest.raises(ValueError, match="cannot be written to"):
        scripts[0].main(arguments)


def test_a_saved_model_loads_in_eval_mode_with_its_processor(saved, model):
    loaded, processor = load_model(saved, "cpu")
    assert not loaded.training and type(loaded) is type(model)
    assert processor.tokenizer.model_max_length == 64
    assert find_device("cpu") == torch.device("cpu")


def test_a_clip_of_transformers_is_measured_as_ours_is(tmp_path, processor, class_rows):
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**tower, "vocab_size": 20, "max_position_embeddings": 16, "eos_token_id": 3}
    vision = {**tower, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, its_processor = load_model(tmp_path, "cpu")
    metrics = evaluate_dataset(loaded, its_processor, class_rows).metrics
    names = {"top1", "mean_per_class_recall", "expected_calibration_error"}
    assert set(metrics) == names | {f"{name}_ci95" for name in names}


def test_a_folder_without_a_model_points_to_the_model_inside_it(tmp_path):
    with pytest.raises(ValueError, match="has no config.json"):
        load_model(tmp_path)
    for step in (5, 900, 1000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="did you mean .*checkpoint-1000"):
        load_model(tmp_path)


def test_a_model_without_picture_features_is_refused_by_its_type(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'bert', which gives no picture and text features"):
        load_model(tmp_path)


def test_a_folder_without_weights_is_refused_in_one_line(tmp_path, model):
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be loaded whole") as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value)
