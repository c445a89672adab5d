"""Open a saved folder with transformers' pipelines, and compare what they give with the model itself."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import load_data

REPOSITORY = Path(__file__).resolve().parents[2]
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "pink")
LABELS = ["red square", "blue circle", "a photo"]
PROMPTS = [f"This is a photo of {label}." for label in LABELS]  # the pipeline's own template


@pytest.fixture(scope="module")
def folder(make_model, word_processor, tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "model"
    make_model(text_pooling="mean", vision_pooling="cls+mean").save_pretrained(path)
    word_processor.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def pictures():
    return [Image.new("RGB", (9 + number, 12), colour) for number, colour in enumerate(COLOURS)]


@pytest.fixture(scope="module")
def outputs(folder, word_processor, pictures):
    inputs = word_processor(text=PROMPTS, images=pictures, padding=True, return_tensors="pt")
    with torch.no_grad():
        return ClipScratchModel.from_pretrained(folder).eval()(**inputs)


@pytest.mark.parametrize("batch_size", [1, 4])  # of seven pictures: the last batch is not full
def test_zero_shot_image_classification_ranks_labels_as_the_model_does(folder, pictures, outputs, batch_size):
    classify = pipeline("zero-shot-image-classification", model=folder)
    found = classify(pictures, candidate_labels=LABELS, batch_size=batch_size)
    for picture, logits in zip(found, outputs.logits_per_image, strict=True):
        expected = dict(zip(LABELS, logits.softmax(-1).tolist(), strict=True))
        assert {part["label"]: part["score"] for part in picture} == pytest.approx(expected, abs=1e-6)
        assert picture == sorted(picture, key=lambda part: -part["score"])
    alone = classify(pictures[0], candidate_labels=LABELS)
    assert [part["label"] for part in alone] == [part["label"] for part in found[0]]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_image_feature_extraction_gives_unit_embeddings(folder, pictures, outputs, batch_size):
    embed = pipeline("image-feature-extraction", model=folder)
    found = embed(pictures, batch_size=batch_size, return_tensors=True)
    torch.testing.assert_close(torch.cat(found), outputs.image_embeds)
    (one,) = embed(pictures[0])
    assert one == pytest.approx(outputs.image_embeds[0].tolist(), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_feature_extraction_gives_unit_embeddings_of_texts(folder, outputs, batch_size):
    embed = pipeline("feature-extraction", model=folder)
    found = embed(PROMPTS, batch_size=batch_size, return_tensors=True)
    torch.testing.assert_close(torch.cat(found), outputs.text_embeds)
    (one,) = embed(PROMPTS[0])
    assert one == pytest.approx(outputs.text_embeds[0].tolist(), abs=1e-6)


def test_trained_folder_finds_the_captions_of_real_pictures(shared_folder):
    folder = REPOSITORY / "runs" / "flickr8k"
    if not (folder / "config.json").is_file():
        pytest.skip("runs/flickr8k is not here; train configuration/flickr8k.yaml to run this.")
    dataset = load_data(shared_folder / "wds_flickr8k", splits=["test"])["test"]
    images = ImageReader(dataset)
    pictures, captions = [images(row) for row in range(16)], [texts[0] for texts in dataset[:16]["captions"]]
    classify = pipeline("zero-shot-image-classification", model=str(folder))
    found = classify(pictures, candidate_labels=captions, hypothesis_template="{}", batch_size=8)
    assert sum(picture[0]["label"] == caption for picture, caption in zip(found, captions, strict=True)) >= 8
    image = torch.cat(pipeline("image-feature-extraction", model=str(folder))(pictures, return_tensors=True))
    text = torch.cat(pipeline("feature-extraction", model=str(folder))(captions, return_tensors=True))
    nearest = (image @ text.T).argmax(1).tolist()
    assert [captions[place] for place in nearest] == [picture[0]["label"] for picture in found]
