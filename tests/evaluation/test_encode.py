"""Check that embeddings are those of the model, in order, whatever the batches."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

from modeling_clipscratch.data.dataset import ImageReader, class_names, labels_of
from modeling_clipscratch.data.images.decode import BadImageError
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.evaluation.encode import encode_images, encode_pixels, encode_texts, reading
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.rank_labels import rank_labels

# Batches of other sizes add up in another order; unit embeddings, so a few float32 roundings.
CLOSE = {"atol": 2e-6, "rtol": 0}


def pixels_of(rows):
    images = ImageReader(rows)
    return np.stack([np.asarray(images(index)) for index in range(len(rows))])


def test_image_embeddings_are_those_of_the_model_for_any_batch_size(model, processor, class_rows):
    preprocess = Preprocess(processor.image_processor)
    inputs = processor.image_processor(list(pixels_of(class_rows)), return_tensors="pt")
    with torch.no_grad():
        features = model.get_image_features(**inputs).pooler_output
    expected = features / features.norm(dim=-1, keepdim=True)
    for batch_size in (1, 5, 256):
        found, kept = encode_images(model, preprocess, class_rows, batch_size=batch_size)
        assert torch.allclose(found, expected, **CLOSE)
        assert kept.tolist() == list(range(12))
    assert found.dtype == torch.float32


def test_text_embeddings_are_in_the_given_order_for_any_lengths(model, processor):
    texts = ["red", "a picture of something blue", "bright red", "a bright bright bright picture", "red", "green"]
    with torch.no_grad():
        alone = [model.get_text_features(**processor.tokenizer([t], return_tensors="pt")).pooler_output for t in texts]
    expected = torch.nn.functional.normalize(torch.cat(alone), dim=-1)
    for batch_size in (1, 2, 256):
        found = encode_texts(model, processor.tokenizer, texts, batch_size=batch_size)
        assert torch.allclose(found, expected, **CLOSE)
        assert torch.equal(found[0], found[4])


def test_each_different_text_is_encoded_once(model, processor, monkeypatch):
    seen = []
    features = model.get_text_features
    monkeypatch.setattr(
        model, "get_text_features", lambda **inputs: (seen.append(len(inputs["input_ids"])), features(**inputs))[1]
    )
    encode_texts(model, processor.tokenizer, ["red", "blue"] * 50)
    assert seen == [2]


def test_long_texts_are_cut_and_counted_in_one_warning(model, processor, caplog):
    long = "bright " * 30 + "red"
    with caplog.at_level(logging.WARNING):
        found = encode_texts(model, processor.tokenizer, ["red", long, long, long + " blue"], batch_size=1)
    assert len(caplog.records) == 1 and caplog.messages[0].startswith("2 of 3 ")
    assert "fill the 12 tokens that the text tower reads" in caplog.messages[0]
    assert torch.allclose(found[1], found[3], **CLOSE)  # they differ only in what is cut off


def test_unknown_words_are_named_in_one_warning(model, processor, caplog):
    texts = ["red", "a giraffe", "giraffe", "zebra zebra"]
    encode_texts(model, processor.tokenizer, texts)
    rank_labels(model, processor, [Image.new("RGB", (8, 8))], ["red", "giraffe"], templates=["a picture of {}"])
    assert caplog.messages == [f"The tokenizer does not know these words: {x}." for x in ("giraffe, zebra", "giraffe")]
    caplog.clear()
    encode_texts(model, processor.tokenizer, texts, warn=False)
    assert not caplog.records


def test_the_mode_of_every_module_is_restored_also_after_an_error(model):
    model.train()
    before = {name: module.training for name, module in model.named_modules()}
    assert len(set(before.values())) == 2  # the text tower is frozen in eval()
    with pytest.raises(RuntimeError), reading(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError
    assert {name: module.training for name, module in model.named_modules()} == before
    model.eval()


def test_a_half_precision_vision_tower_gives_float32_embeddings(model, class_rows):
    half = type(model)(model.config)
    half.load_state_dict(model.state_dict())
    half.vision_model.to(torch.bfloat16)
    found = encode_pixels(half, pixels_of(class_rows), [0.5] * 3, [0.5] * 3)
    assert found.dtype == torch.float32
    assert torch.allclose(found.norm(dim=-1), torch.ones(12), atol=1e-6)


def test_a_broken_image_raises_or_is_left_out_with_one_warning(model, processor, make_rows, caplog):
    rows = make_rows(12, labels=np.arange(12) % 3, broken={4, 9})
    with pytest.raises(BadImageError, match="colours-4"):
        evaluate_dataset(model, processor, rows)
    with caplog.at_level(logging.WARNING):
        result = evaluate_dataset(model, processor, rows, templates=["a {}"], on_bad_row="skip", batch_size=5)
    assert result.skipped == 2 and len(result.dataset) == 10 and "colours-4" not in result.dataset["key"][:]
    assert result.confusion.sum() == 10
    [warning] = [record.getMessage() for record in caplog.records]
    assert warning.startswith("colours, split test: left out 2 of 12 images: colours, split test: colours-4: cannot be")
    assert "; colours, split test: colours-9: cannot be decoded" in warning


def test_class_data_is_measured_through_all_its_templates(model, processor, class_rows, templates):
    result = evaluate_dataset(model, processor, class_rows, templates=templates)
    tokens = processor.tokenizer(
        [t.replace("{}", name) for name in class_names(class_rows) for t in templates],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        texts = torch.nn.functional.normalize(model.get_text_features(**tokens).pooler_output, dim=-1)
        inputs = processor.image_processor(list(pixels_of(class_rows)), return_tensors="pt")
        images = torch.nn.functional.normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
    classes = torch.nn.functional.normalize(texts.view(3, 2, -1).mean(1), dim=-1)
    best = (images @ classes.T).argmax(1).numpy()
    assert np.array_equal(result.predicted, best)
    assert result.metrics["top1"] == np.mean(best == labels_of(class_rows))
    assert np.array_equal(result.confusion, confusion_matrix(labels_of(class_rows), best))
    assert set(result.per_class_recall) == {"red", "green", "blue"}


def test_caption_data_keeps_its_embeddings_row_by_row(model, processor, caption_rows):
    result = evaluate_dataset(model, processor, caption_rows)
    assert result.confusion is None and result.per_class_recall is None
    captions = [caption for row in range(8) for caption in caption_rows[row]["captions"]]
    assert torch.equal(result.text_embeds, encode_texts(model, processor.tokenizer, captions))
    assert torch.equal(
        result.image_embeds, encode_images(model, Preprocess(processor.image_processor), caption_rows)[0]
    )
    assert result.outcomes.caption_to_image.tolist() == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7]
