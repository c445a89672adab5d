"""Check that a saved model loads as what it is, and that ranked labels are the model's own probabilities."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, CLIPConfig, CLIPModel

from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.load_model import find_device, load_model
from modeling_clipscratch.evaluation.rank_labels import rank_labels


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
