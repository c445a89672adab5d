"""Check what a task measures, saves and refuses, on datasets of both kinds and a tiny model."""

import copy

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from modeling_clipscratch import ClipScratchTrainer, ClipScratchTrainingArguments
from modeling_clipscratch.data.load import ImageTextData
from modeling_clipscratch.evaluation import evaluate_models
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.evaluate_models import text_summary
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.evaluation.rank_labels import rank_labels
from modeling_clipscratch.evaluation.report.write_report import save_predictions, write_report

COLOURS = ["red", "green", "blue"]


@pytest.mark.parametrize("kind", ["class", "caption"])
def test_a_trainer_and_a_loaded_model_report_the_same_digits(model, processor, make_rows, kind, tmp_path):
    """Also after training in half precision, with cached features, in batches of another size."""
    words = {"labels": np.arange(30) % 3} if kind == "class" else {"captions": [[f"bright {n % 7}"] for n in range(30)]}
    train, test = make_rows(30, **words), make_rows(30, **words, name="others")
    args = {"max_steps": 2, "bf16": True, "global_batch_size": 8, "eval_strategy": "no", "save_strategy": "no"}
    args |= {
        "use_cpu": True,
        "per_device_eval_batch_size": 7,
        "cache_dir": str(tmp_path / "cache"),
        "report_to": "none",
    }
    args = ClipScratchTrainingArguments(str(tmp_path / "run"), learning_rate=0.1, **args)
    trainer = ClipScratchTrainer(copy.deepcopy(model), args, train_dataset=train, processing_class=processor)
    trainer.train()
    reported = {name.removeprefix("test_"): value for name, value in trainer.predict(test).metrics.items()}
    trainer.save_model()
    loaded = load_model(tmp_path / "run", "cpu")
    metrics = evaluate_dataset(*loaded, test, batch_size=256).metrics
    config, learned = loaded[0].config, kind == "class"
    assert (config.class_names, config.templates) == ((COLOURS, ["a photo of a {}."]) if learned else (None, None))
    assert reported.keys() == metrics.keys()
    for name, value in metrics.items():
        assert reported[name] == pytest.approx(value, abs=1e-5), name


@pytest.fixture
def with_classes(model, monkeypatch):
    """The model as if it was trained on the three colours with prompts of its own."""
    monkeypatch.setattr(model.config, "class_names", ["red", "green", "blue"])
    monkeypatch.setattr(model.config, "templates", ["bright {}", "a {}"])
    return model


def test_templates_default_to_those_of_the_training_on_the_same_classes(with_classes, processor, class_rows, templates):
    own, data = ["bright {}", "a {}"], ImageTextData(test=class_rows)
    assert evaluate_dataset(with_classes, processor, class_rows).templates == own
    assert evaluate_dataset(with_classes, processor, class_rows, templates=templates).templates == templates
    assert evaluate_dataset(with_classes, processor, other_classes(class_rows)).templates == ["a photo of a {}."]
    for given, settings, expected in [
        (["a photo of a {}."], {}, own),  # what `load_data` gives for data without templates
        (["a photo of a {}."], {"templates": ["a photo of a {}."]}, ["a photo of a {}."]),
        (templates, {}, templates),
    ]:
        data.templates = given
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(evaluate_models, "load_model", lambda *_: (with_classes, processor))
            found = evaluate_models.evaluate_models(["m"], {"d": data}, **settings)["m"]["d"]
        assert found.templates == expected


def test_labels_and_templates_default_to_those_of_the_training(with_classes, processor):
    image = [Image.new("RGB", (8, 8))]
    (own,) = rank_labels(with_classes, processor, image)
    options = {"labels": ["red", "green", "blue"], "templates": ["bright {}", "a {}"]}
    assert own == rank_labels(with_classes, processor, image, **options)[0]
    with_classes.config.class_names = None
    with pytest.raises(ValueError, match="labels are missing, and the model was not trained on classes; give"):
        rank_labels(with_classes, processor, image)


def test_probabilities_of_labels_are_those_of_the_logits_of_the_model(model, processor):
    labels = ["red", "green", "blue"]
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (11, 8, 3), dtype=np.uint8)) for n in (0, 1)]
    ranked = rank_labels(model, processor, images, labels, templates=["bright {}"])
    inputs = processor(text=[f"bright {x}" for x in labels], images=images, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        expected = model(**inputs).logits_per_image.softmax(-1)
    for found, row in zip(ranked, expected, strict=True):
        scores = {entry["label"]: entry["score"] for entry in found}
        assert scores == pytest.approx(dict(zip(labels, row.tolist(), strict=True)), abs=1e-5)
        assert found == sorted(found, key=lambda entry: -entry["score"])


def test_broken_images_are_counted_in_the_table_and_on_the_page(model, processor, make_rows, quick_plots, tmp_path):
    rows = make_rows(12, labels=np.arange(12) % 3, broken={4, 9})
    result = {"model": {"colours": evaluate_dataset(model, processor, rows, on_bad_row="skip")}}
    assert text_summary(result, {}).endswith("\n\ncolours: 2 broken images left out.")
    write_report(tmp_path, result, {})
    assert "10, split test; 2 broken images left out" in (tmp_path / "report.html").read_text()


def test_rows_without_a_caption_stop_the_run_or_are_left_out(model, processor, make_rows, caplog):
    dataset = make_rows(4, captions=[["red"], ["green"], ["blue"], ["red"]])
    dataset = Dataset.from_dict({"image": dataset["image"][:], "captions": [["red"], [], ["blue"], ["red"]]})
    with pytest.raises(ValueError, match="row-00000001 has no caption; every row needs a caption"):
        evaluate_dataset(model, processor, dataset)
    assert len(evaluate_dataset(model, processor, dataset, on_bad_row="skip").dataset) == 3
    assert "left out 1 of 4 rows" in caplog.text


def one_class(rows):
    return Dataset.from_dict({"image": rows["image"][:], "label": ["cat"] * 12})


def other_classes(rows):
    return rows.cast_column("label", datasets.ClassLabel(names=["green", "red", "blue"]))


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        (lambda c, t: {"test": c}, {}, "a dict cannot be measured; give one split, a map-style datasets.Dataset"),
        (lambda c, t: c.to_iterable_dataset(), {}, "an? IterableDataset cannot be measured; give one split"),
        (lambda c, t: c, {"templates": ["a photo"]}, "template 'a photo' has no {}"),
        (lambda c, t: one_class(c), {}, "'cat' is the only class, so every answer would be right; give the folder"),
        (lambda c, t: c.select([]), {}, "colours, split test: no rows"),
        (lambda c, t: t.select([0]), {}, "colours, split test: there is only one image, so every search"),
    ],
)
def test_data_without_a_meaningful_figure_are_refused(
    model, processor, class_rows, caption_rows, dataset, options, sentence
):
    with pytest.raises(ValueError, match=sentence):
        evaluate_dataset(model, processor, dataset(class_rows, caption_rows), **options)


def test_saved_predictions_give_the_metrics_again(model, processor, make_rows, caption_rows, tmp_path):
    rows = make_rows(12, labels=np.arange(12) % 3, keys=["caf\x1b[31m.png", *map(str, range(11))])
    result = evaluate_dataset(model, processor, rows)
    save_predictions(tmp_path / "class.parquet", result)
    table = Dataset.from_parquet(str(tmp_path / "class.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table["key"][0] == "caf\ufffd[31m.png" and table["class_name"][3] == "red"
    assert np.mean(np.array(table["label"]) == np.array(table["predicted"])) == result.metrics["top1"]
    assert np.mean(np.array(table["rank"]) == 1) == result.metrics["top1"]
    result = evaluate_dataset(model, processor, caption_rows)
    save_predictions(tmp_path / "caption.parquet", result)
    table = Dataset.from_parquet(str(tmp_path / "caption.parquet"), cache_dir=str(tmp_path / "cache"))
    assert len(table) == 12 and table["key"][2] == "colours-1"
    assert np.mean(np.array(table["text_to_image_rank"]) <= 5) == result.metrics["text_to_image_recall@5"]
    first = {key: rank for key, rank in zip(table["key"], table["image_to_text_rank"], strict=True)}
    assert np.mean(np.array(list(first.values())) <= 5) == result.metrics["image_to_text_recall@5"]
