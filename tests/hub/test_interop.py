"""A saved folder goes into other libraries, each as it is; what they give is what the model itself gives."""

import re
from pathlib import Path

import datasets
import multiprocess
import pytest
import torch
from PIL import Image

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.evaluation.metrics.retrieval import retrieval_metrics

COLOURS = ("red", "blue", "green", "white", "black", "yellow")
TEXTS = ["a photo of the red square", "a blue circle", "red"]


@pytest.fixture(scope="module")
def folder(make_model, word_processor, tmp_path_factory):
    path = tmp_path_factory.mktemp("interop") / "model"
    make_model(text_pooling="mean").save_pretrained(path)
    word_processor.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def pictures():
    return [Image.new("RGB", (9 + number, 12), colour) for number, colour in enumerate(COLOURS)]


@pytest.fixture(scope="module")
def outputs(folder, word_processor, pictures):
    inputs = word_processor(text=TEXTS, images=pictures, padding=True, return_tensors="pt")
    with torch.no_grad():
        return ClipScratchModel.from_pretrained(folder).eval()(**inputs)


def test_sentence_transformers_encodes_texts_and_pictures(folder, pictures, outputs):
    reason = "sentence-transformers is not installed; pip install sentence-transformers to run this."
    library = pytest.importorskip("sentence_transformers", reason=reason)
    model = library.SentenceTransformer(folder, device="cpu")
    embeds = {"convert_to_tensor": True, "normalize_embeddings": True}
    torch.testing.assert_close(model.encode(TEXTS, **embeds), outputs.text_embeds)
    torch.testing.assert_close(model.encode(pictures, **embeds), outputs.image_embeds)
    cosines = model.similarity(model.encode(pictures), model.encode(TEXTS))
    torch.testing.assert_close(cosines, outputs.image_embeds @ outputs.text_embeds.T)


def encode_pictures(rows, model, processor):
    """A batch of `Dataset.map`; everything that it needs is given, so it can be sent to processes and fingerprinted."""
    if multiprocess.parent_process():  # a forked process waits forever for its parent's threads
        torch.set_num_threads(1)
    inputs = processor(images=rows["image"], return_tensors="pt")
    with torch.inference_mode():
        return {"image_embeds": model(**inputs).image_embeds.numpy()}


@pytest.mark.parametrize("processes", [None, 2])
def test_datasets_map_encodes_a_column_of_pictures(folder, word_processor, pictures, outputs, processes):
    rows = datasets.Dataset.from_dict({"image": pictures}, features=datasets.Features({"image": datasets.Image()}))
    words = {"model": ClipScratchModel.from_pretrained(folder).eval(), "processor": word_processor}
    encoded = rows.map(encode_pictures, batched=True, batch_size=2, fn_kwargs=words, num_proc=processes)
    torch.testing.assert_close(torch.tensor(encoded["image_embeds"][:]), outputs.image_embeds)


def test_datasets_map_finds_what_the_same_model_encoded_before(folder, word_processor, pictures, tmp_path):
    rows = datasets.Dataset.from_dict({"image": pictures}, features=datasets.Features({"image": datasets.Image()}))
    rows.save_to_disk(tmp_path / "rows")  # what lies on the disk is cached there, too

    def encoded(change=0.0):
        model = ClipScratchModel.from_pretrained(folder).eval()  # loaded anew each time
        with torch.no_grad():
            model.visual_projection.weight += change
        words = {"model": model, "processor": word_processor}
        return datasets.load_from_disk(tmp_path / "rows").map(encode_pictures, batched=True, fn_kwargs=words)

    first, again, other = encoded(), encoded(), encoded(change=1.0)
    assert first.cache_files == again.cache_files and first._fingerprint == again._fingerprint
    assert other._fingerprint != first._fingerprint


def test_clip_benchmark_s_retrieval_finds_our_figures_through_the_adapter_of_the_docs(
    folder, word_processor, pictures, outputs
):
    reason = "clip-benchmark is not installed; pip install --no-deps clip-benchmark to run this."
    library = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval", reason=reason)
    page = (Path(__file__).parents[2] / "docs" / "other_libraries.md").read_text()
    (adapter,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class ForClip" in code]
    documented = {}
    exec(adapter, documented)
    pixels = word_processor(images=pictures, return_tensors="pt")["pixel_values"]
    texts = ("red", "blue", "a square", "circle", "photo", "the blue")
    captions = [[text, f"a photo of the {text}"] for text in texts]
    loader = [(pixels[start : start + 4], captions[start : start + 4]) for start in (0, 4)]
    model = ClipScratchModel.from_pretrained(folder).eval()
    tokenizer = documented["tokenizer_for_clip_benchmark"](word_processor)
    stand_in = documented["ForClipBenchmark"](model)
    said = library.evaluate(stand_in, loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5])
    embeds = encode_texts(model, word_processor.tokenizer, [text for own in captions for text in own])
    ours = retrieval_metrics(outputs.image_embeds, embeds, torch.arange(6).repeat_interleave(2))
    for name, theirs in (("image_to_text", "text_retrieval"), ("text_to_image", "image_retrieval")):
        for k in (1, 5):
            assert said[f"{theirs}_recall@{k}"] == pytest.approx(ours[f"{name}_recall@{k}"])
