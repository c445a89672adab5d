"""Open a saved folder with other libraries, and compare what they return with the model itself."""

import re
from pathlib import Path

import datasets
import multiprocess
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.evaluation.metrics.ranking import retrieval_outcomes

COLOURS = ("red", "blue", "green", "white", "black", "yellow", "pink")
LABELS = ["red square", "blue circle", "a photo"]
TEXTS = [f"This is a photo of {label}." for label in LABELS]  # the zero-shot pipeline's own template


@pytest.fixture(scope="module")
def folder(make_model, word_processor, tmp_path_factory):
    path = tmp_path_factory.mktemp("others") / "model"
    make_model(text_pooling="mean", vision_pooling="cls+mean").save_pretrained(path)
    word_processor.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder):
    return ClipScratchModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def images():
    return [Image.new("RGB", (9 + number, 12), colour) for number, colour in enumerate(COLOURS)]


@pytest.fixture(scope="module")
def outputs(model, word_processor, images):
    with torch.no_grad():
        return model(**word_processor(text=TEXTS, images=images, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("batch_size", [1, 4])  # of seven images: the last batch is not full
def test_zero_shot_image_classification_ranks_labels_as_the_model_does(folder, images, outputs, batch_size):
    classify = pipeline("zero-shot-image-classification", model=folder)
    results = classify(images, candidate_labels=LABELS, batch_size=batch_size)
    for result, logits in zip(results, outputs.logits_per_image, strict=True):
        expected = dict(zip(LABELS, logits.softmax(-1).tolist(), strict=True))
        assert {part["label"]: part["score"] for part in result} == pytest.approx(expected, abs=1e-6)
        assert result == sorted(result, key=lambda part: -part["score"])


@pytest.mark.parametrize("task", ["image-feature-extraction", "feature-extraction"])
def test_feature_extraction_gives_unit_embeddings(folder, images, outputs, task):
    embed = pipeline(task, model=folder)
    inputs, expected = (images, outputs.image_embeds) if "image" in task else (TEXTS, outputs.text_embeds)
    torch.testing.assert_close(torch.cat(embed(inputs, batch_size=2, return_tensors=True)), expected)
    (one,) = embed(inputs[0])
    assert one == pytest.approx(expected[0].tolist(), abs=1e-6)


@pytest.mark.slow
def test_sentence_transformers_encodes_texts_and_images(folder, images, outputs):
    reason = "sentence-transformers is not installed; pip install sentence-transformers to run this."
    library = pytest.importorskip("sentence_transformers", reason=reason)
    encoder = library.SentenceTransformer(folder, device="cpu")
    options = {"convert_to_tensor": True, "normalize_embeddings": True}
    torch.testing.assert_close(encoder.encode(TEXTS, **options), outputs.text_embeds)
    torch.testing.assert_close(encoder.encode(images, **options), outputs.image_embeds)


def encode_images(rows, model, processor):
    """A batch of `Dataset.map`; its arguments hold all that it needs, so it can be sent to processes and hashed."""
    if multiprocess.parent_process():  # a forked process waits forever for its parent's threads
        torch.set_num_threads(1)
    inputs = processor(images=rows["image"], return_tensors="pt")
    with torch.inference_mode():
        return {"image_embeds": model(**inputs).image_embeds.numpy()}


@pytest.mark.parametrize("processes", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_datasets_map_encodes_a_column_of_images(model, word_processor, images, outputs, processes):
    rows = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    options = {"model": model, "processor": word_processor}
    encoded = rows.map(encode_images, batched=True, batch_size=2, fn_kwargs=options, num_proc=processes)
    torch.testing.assert_close(torch.tensor(encoded["image_embeds"][:]), outputs.image_embeds)


@pytest.mark.slow
def test_clip_benchmark_retrieval_equals_ours_through_the_adapter_of_the_docs(model, word_processor, images, outputs):
    reason = "clip-benchmark is not installed; pip install --no-deps clip-benchmark to run this."
    library = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval", reason=reason)
    page = (Path(__file__).parents[2] / "docs" / "other_libraries.md").read_text()
    (adapter,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class ForClip" in code]
    documented = {}
    exec(adapter, documented)
    pixels = word_processor(images=images, return_tensors="pt")["pixel_values"]
    texts = ("red", "blue", "a square", "circle", "photo", "the blue", "the red")
    captions = [[text, f"a photo of the {text}"] for text in texts]
    loader = [(pixels[start : start + 4], captions[start : start + 4]) for start in (0, 4)]
    tokenizer = documented["tokenizer_for_clip_benchmark"](word_processor)
    theirs = library.evaluate(
        documented["ForClipBenchmark"](model), loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5]
    )
    embeds = encode_texts(model, word_processor.tokenizer, [text for own in captions for text in own])
    ours = retrieval_outcomes(outputs.image_embeds, embeds, torch.arange(7).repeat_interleave(2)).metrics()
    for name, other in (("image_to_text", "text_retrieval"), ("text_to_image", "image_retrieval")):
        for k in (1, 5):
            assert theirs[f"{other}_recall@{k}"] == pytest.approx(ours[f"{name}_recall@{k}"])
