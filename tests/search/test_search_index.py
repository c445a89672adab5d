"""Check the order of hits by hand and against brute force."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_clipscratch.data.images.decode import decode_image
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.search.image_index import ImageIndex
from modeling_clipscratch.search.search_index import check_query, nearest, search_index


def index_of(embeds, folder):
    """An index in memory, of images that are called by their row."""
    embeds = np.asarray(embeds, dtype=np.float32)
    images = {f"{row:04d}": (0, 0, "") for row in range(len(embeds))}
    return ImageIndex(folder=folder, model="", model_name="", images=images, embeds=embeds)


def unit_vectors(count, width, seed):
    embeds = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


def test_cosines_are_those_computed_by_hand(tmp_path):
    index = index_of(np.eye(3), tmp_path)
    hits = nearest(index, torch.tensor([0.6, 0.8, 0.0]), 2)
    assert [(hit.name, round(hit.score, 6)) for hit in hits] == [("0001", 0.8), ("0000", 0.6)]
    assert hits[0].path == tmp_path / "0001" and len(nearest(index, torch.tensor([0.6, 0.8, 0.0]), 50)) == 3


def test_results_are_those_of_brute_force_and_ties_come_in_the_order_of_names(tmp_path):
    embeds = unit_vectors(2000, 32, seed=0)
    embeds[1000:] = embeds[:1000]  # every vector twice: ties everywhere
    index = index_of(embeds, tmp_path)
    for query in unit_vectors(20, 32, seed=1):
        scores = (embeds.astype(np.float64) @ query.astype(np.float64)).round(6)
        rows = np.argsort(-scores, kind="stable")[:15]
        hits = nearest(index, torch.from_numpy(query), 15)
        assert [hit.name for hit in hits] == [f"{row:04d}" for row in rows]
        np.testing.assert_allclose([hit.score for hit in hits], scores[rows], atol=1e-6)


def test_an_image_finds_itself_first_without_a_warning(images, update, model, word_processor, recwarn):
    index, _ = update(images)
    torch.set_warn_always(True)  # else torch warns once a process
    image = decode_image(images / "deep/er/7.png", name="7")
    hits = search_index(index, model, word_processor, image=image, top=3)
    torch.set_warn_always(False)
    assert hits[0].name == "deep/er/7.png" and hits[0].score == pytest.approx(1, abs=1e-6) and len(hits) == 3
    assert not [warning for warning in recwarn if "writ" in str(warning.message)]  # of Pillow's read-only pixels


def test_a_text_finds_what_the_model_s_cosines_say(images, update, model, word_processor):
    index, _ = update(images)
    scores = index.embeds @ encode_texts(model, word_processor.tokenizer, ["a red square"])[0].numpy()
    order, names = np.argsort(-scores), list(index.images)
    hits = search_index(index, model, word_processor, text="a red square")
    assert [hit.name for hit in hits] == [names[n] for n in order]
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=1e-6)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "neither is given"),
        ({"text": "a", "image": Image.new("RGB", (1, 1))}, "both are given"),
        ({"text": "  "}, "the text '  ' is empty"),
        ({"text": "a", "top": 0}, "top=0"),
    ],
)
def test_an_impossible_query_is_refused(query, message):
    with pytest.raises(ValueError, match=message):
        check_query(**{"text": None, "image": None, "top": 10, **query})
