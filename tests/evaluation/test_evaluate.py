"""Check what a task measures, saves and refuses, on datasets of both kinds and a tiny model."""

import copy
from functools import partial

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from modeling_clipscratch import ClipScratchTrainer, ClipScratchTrainingArguments
from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import ImageTextData
from modeling_clipscratch.evaluation import evaluate_models
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset, evaluate_embeddings
from modeling_clipscratch.evaluation.evaluate_models import text_summary
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.evaluation.rank_labels import rank_labels
from modeling_clipscratch.evaluation.report.write_report import save_predictions, write_report

COLOURS = ["red", "green", "blue"]


@pytest.mark.parametrize("words", [{"labels": np.arange(8) % 3}, {"captions": [["red"], ["blue"]] * 4}], ids=str)
def test_keys_of_any_characters_are_saved(model, processor, make_rows, words, quick_plots, tmp_path):
    dataset = make_rows(8, keys=["caf\x1b[31m.png", *map(str, range(7))], **words)
    result = evaluate_dataset(model, processor, dataset)
    write_report(tmp_path, {"model": {"colours": result}}, {}, predictions=True)
    saved = Dataset.from_parquet(str(tmp_path / "colours" / "predictions.parquet"), cache_dir=str(tmp_path / "cache"))
    assert saved["key"][0] == "caf\ufffd[31m.png"


def plain_rows(rows):
    """What a user's own `datasets.load_dataset` may give: other columns, images to decode."""
    if "label" in rows.features:
        names = rows.features["label"].names
        words = {"class": [names[label] for label in rows["label"]]}
    else:
        words = {"text": rows["captions"][:]}
    images = ImageReader(rows)
    table = {"photo": [images(row) for row in range(len(rows))], **words, "id": list(range(len(rows)))}
    return Dataset.from_dict(table).cast_column("photo", datasets.Image())


@pytest.mark.parametrize("kind", ["class", "caption"])
def test_any_dataset_has_the_metrics_of_the_prepared_one(model, processor, request, kind):
    rows = request.getfixturevalue(f"{kind}_rows")
    expected = evaluate_dataset(model, processor, rows)
    result = evaluate_dataset(model, processor, plain_rows(rows))
    if kind == "class":  # names in another order: blue, green, red
        assert result.per_class_recall == expected.per_class_recall
        assert result.metrics["top1"] == expected.metrics["top1"]
    else:
        assert result.metrics == expected.metrics and result.dataset["captions"][:] == expected.dataset["captions"][:]


def test_templates_default_to_a_photo_of_and_are_none_for_captions(model, processor, class_rows, caption_rows):
    named = evaluate_dataset(model, processor, class_rows, templates=["a photo of a {}."])
    result = evaluate_dataset(model, processor, class_rows)
    assert result.templates == named.templates == ["a photo of a {}."]
    assert torch.equal(result.text_embeds, named.text_embeds)
    assert evaluate_dataset(model, processor, caption_rows).templates is None


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


def test_labels_and_templates_default_to_those_of_the_training(model, with_classes, processor):
    image = [Image.new("RGB", (8, 8))]
    (own,) = rank_labels(with_classes, processor, image)
    options = {"labels": ["red", "green", "blue"], "templates": ["bright {}", "a {}"]}
    assert own == rank_labels(with_classes, processor, image, **options)[0]
    (one,) = rank_labels(with_classes, processor, image, ["red", "a picture"])
    assert [entry["label"] for entry in one] != [] and len(one) == 2
    assert type(model.config).from_dict(model.config.to_dict()).templates == ["bright {}", "a {}"]


def test_labels_are_missing_for_a_model_that_learned_no_classes(model, processor):
    with pytest.raises(ValueError, match="labels are missing, and the model was not trained on classes; give"):
        rank_labels(model, processor, [Image.new("RGB", (8, 8))])


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


def other_classes(rows):
    return rows.cast_column("label", datasets.ClassLabel(names=["green", "red", "blue"]))


@pytest.mark.parametrize(
    ("dataset", "options", "sentence"),
    [
        (lambda c, t: {"test": c}, {}, "a dict cannot be measured; give one split, a map-style datasets.Dataset"),
        (lambda c, t: c.to_iterable_dataset(), {}, "an? IterableDataset cannot be measured; give one split"),
        (lambda c, t: c, {"templates": ["a photo"]}, "template 'a photo' has no {}"),
        (lambda c, t: c.select([]), {}, "colours, split test: no rows"),
        (lambda c, t: t.select([0]), {}, "colours, split test: there is only one image, so every search"),
    ],
)
def test_data_without_a_meaningful_figure_are_refused(
    model, processor, class_rows, caption_rows, dataset, options, sentence
):
    with pytest.raises(ValueError, match=sentence):
        evaluate_dataset(model, processor, dataset(class_rows, caption_rows), **options)


def test_one_class_alone_is_refused(model, processor, class_rows):
    one = Dataset.from_dict({"image": class_rows["image"][:], "label": ["cat"] * 12})
    with pytest.raises(ValueError, match="'cat' is the only class, so every answer would be right; give the folder"):
        evaluate_dataset(model, processor, one)


def test_embeddings_are_measured_without_intervals(model, processor, class_rows):
    """Each process of a trainer calls this, and one alone needs intervals."""
    result = evaluate_dataset(model, processor, class_rows)
    encode = partial(encode_texts, model, processor.tokenizer)
    again = evaluate_embeddings(encode, result.image_embeds, class_rows, logit_scale=2.0)
    assert again.metrics["top1"] == result.metrics["top1"] and not any("ci95" in name for name in again.metrics)


def test_every_metric_comes_with_an_interval_that_holds_it(model, processor, class_rows, caption_rows):
    for rows in (class_rows, caption_rows):
        metrics = evaluate_dataset(model, processor, rows).metrics
        names = [name for name in metrics if not name.endswith("_ci95")]
        assert set(metrics) == set(names) | {f"{name}_ci95" for name in names}
        for name in names:
            low, high = metrics[f"{name}_ci95"]
            # Calibration is measured too high by its nature, so its interval may lie below the figure.
            assert low <= high and (name == "expected_calibration_error" or low <= metrics[name] <= high), name


def test_saved_predictions_give_the_metrics_again(model, processor, class_rows, caption_rows, tmp_path):
    result = evaluate_dataset(model, processor, class_rows)
    save_predictions(tmp_path / "class.parquet", result)
    table = Dataset.from_parquet(str(tmp_path / "class.parquet"), cache_dir=str(tmp_path / "cache"))
    assert table["key"][3] == "colours-3" and table["class_name"][3] == "red"
    assert np.mean(np.array(table["label"]) == np.array(table["predicted"])) == result.metrics["top1"]
    assert np.mean(np.array(table["rank"]) == 1) == result.metrics["top1"]
    result = evaluate_dataset(model, processor, caption_rows)
    save_predictions(tmp_path / "caption.parquet", result)
    table = Dataset.from_parquet(str(tmp_path / "caption.parquet"), cache_dir=str(tmp_path / "cache"))
    assert len(table) == 12 and table["key"][2] == "colours-1"
    assert np.mean(np.array(table["text_to_image_rank"]) <= 5) == result.metrics["text_to_image_recall@5"]
    first = {key: rank for key, rank in zip(table["key"], table["image_to_text_rank"], strict=True)}
    assert np.mean(np.array(list(first.values())) <= 5) == result.metrics["image_to_text_recall@5"]
