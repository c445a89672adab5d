"""Check the order of hits by hand and against brute force."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_clipscratch.data.dataset import image_digest
from modeling_clipscratch.data.images.decode import decode_image
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.search.index_files import ImageIndex, IndexedImage
from modeling_clipscratch.search.search_index import check_query, nearest, search_index, unknown_words


def index_of(embeds, names, folder):
    """An index in memory, in which every image has a content of its own."""
    digests = [image_digest(name.encode()) for name in names]
    images = {name: IndexedImage(0, 0, digest) for name, digest in zip(names, digests, strict=True)}
    embeds = np.asarray(embeds, dtype=np.float32)
    return ImageIndex(folder=folder, model="", model_name="", images=images, digests=digests, embeds=embeds)


def unit_vectors(count, width, seed):
    embeds = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


def brute_force(embeds, query):
    """Rows, best first, and the scores of all rows in float64."""
    scores = (embeds.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    return np.argsort(-scores, kind="stable"), scores


def test_cosines_are_those_computed_by_hand(tmp_path):
    hits = nearest(index_of(np.eye(3), "xyz", tmp_path), torch.tensor([0.6, 0.8, 0.0]), 2)
    assert [(hit.name, round(hit.score, 6)) for hit in hits] == [("y", 0.8), ("x", 0.6)]
    assert hits[0].path == tmp_path / "y"


def test_results_are_those_of_brute_force(tmp_path):
    embeds = unit_vectors(2000, 32, seed=0)
    embeds[1000:] = embeds[:1000]  # every vector twice: ties everywhere
    names = [f"{n:04d}" for n in range(2000)]
    index = index_of(embeds, names, tmp_path)
    for query in unit_vectors(20, 32, seed=1):
        rows, scores = brute_force(embeds, query)
        hits = nearest(index, torch.from_numpy(query), 15)
        assert [hit.name for hit in hits] == [names[n] for n in rows[:15]]
        np.testing.assert_allclose([hit.score for hit in hits], scores[rows[:15]], atol=1e-7)


def test_differences_below_float32_are_ranked_as_by_brute_force(tmp_path):
    embeds = unit_vectors(1, 512, seed=0) + 1e-7 * np.random.default_rng(1).standard_normal((300, 512))
    embeds, names, query = embeds.astype(np.float32), [f"{n:04d}" for n in range(300)], unit_vectors(1, 512, seed=2)[0]
    hits = nearest(index_of(embeds, names, tmp_path), torch.from_numpy(query), 10)
    assert [hit.name for hit in hits] == [names[n] for n in brute_force(embeds, query)[0][:10]]


def test_ties_come_in_the_order_of_names(tmp_path):
    shuffled = [f"{n:04d}" for n in np.random.default_rng(0).permutation(128)]
    index = index_of(np.tile([0.6, 0.8], (128, 1)), shuffled, tmp_path)
    assert [hit.name for hit in nearest(index, torch.tensor([1.0, 0.0]), 3)] == ["0000", "0001", "0002"]


def test_copies_of_an_image_are_all_found_and_no_more_than_there_are(tmp_path):
    index = index_of(np.eye(2), "ab", tmp_path)
    index.images["copy of b"] = index.images["b"]
    assert [hit.name for hit in nearest(index, torch.tensor([0.0, 1.0]), 2)] == ["b", "copy of b"]
    assert len(nearest(index, torch.tensor([0.0, 1.0]), 50)) == 3


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
    query = encode_texts(model, word_processor.tokenizer, ["a red square"])[0].numpy()
    names, rows = list(index.images), {digest: row for row, digest in enumerate(index.digests)}
    order, scores = brute_force(index.embeds[[rows[index.images[name].digest] for name in names]], query)
    hits = search_index(index, model, word_processor, text="a red square")
    assert [hit.name for hit in hits] == [names[n] for n in order]
    np.testing.assert_allclose([hit.score for hit in hits], scores[order], atol=1e-6)


def test_words_that_the_tokenizer_does_not_know_are_named(images, update, model, word_processor, caplog):
    index, _ = update(images)
    search_index(index, model, word_processor, text="a red lemur, the blue axolotl")
    assert "does not know these words: lemur, axolotl." in caplog.text
    assert unknown_words(word_processor.tokenizer, "a photo of the red square.") == []


def test_a_model_that_gives_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinity"):
        nearest(index_of(np.eye(2), "ab", tmp_path), torch.tensor([float("nan"), 0.0]), 1)


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
