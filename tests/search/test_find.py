"""Vectors whose cosines are known by hand or brute force, and queries, go in; the order that comes out is checked."""

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_clipscratch.data.images.decode import decode_image
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.search.index_files import Picture, PictureIndex
from modeling_clipscratch.search.search_index import best, check_query, search
from modeling_clipscratch.search.vectors import SPARE, add_vectors, digest_of, empty_vectors, number_of


def index_of(embeds, names, tmp_path):
    """An index in memory; every picture has a content of its own."""
    table = {name: Picture(0, 0, digest_of(name.encode())) for name in names}
    vectors = empty_vectors(embeds.shape[1])
    add_vectors(vectors, np.array([number_of(entry.digest) for entry in table.values()]), embeds.astype(np.float32))
    return PictureIndex(folder=tmp_path, model="", model_name="", pictures=table, vectors=vectors)


def unit_vectors(count, width, seed):
    embeds = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return embeds / np.linalg.norm(embeds, axis=1, keepdims=True)


@pytest.fixture
def every_warning():
    """Also those that torch gives once a process."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


def test_a_picture_that_may_not_be_written_to_is_looked_for_without_a_warning(
    every_warning, model, word_processor, tmp_path, recwarn
):
    index = index_of(np.eye(8), list("abcdefgh"), tmp_path)
    search(index, model, word_processor, image=Image.new("RGB", (8, 8)))
    assert not [warning for warning in recwarn if "writ" in str(warning.message)]


def test_cosines_are_those_worked_out_by_hand(tmp_path):
    index = index_of(np.eye(3), ["x", "y", "z"], tmp_path)
    hits = best(index, torch.tensor([0.6, 0.8, 0.0]), 2)
    assert [(hit.name, round(hit.score, 6)) for hit in hits] == [("y", 0.8), ("x", 0.6)]
    assert hits[0].path == tmp_path / "y"


def test_results_are_those_of_brute_force(tmp_path):
    embeds = unit_vectors(2000, 32, seed=0)
    embeds[1000:] = embeds[:1000]  # every vector twice: ties everywhere
    names = [f"{n:04d}" for n in range(2000)]
    index = index_of(embeds, names, tmp_path)
    for query in unit_vectors(20, 32, seed=1):
        scores = (embeds.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        expected = np.argsort(-scores, kind="stable")[:15]
        hits = best(index, torch.from_numpy(query), 15)
        assert [hit.name for hit in hits] == [names[n] for n in expected]
        np.testing.assert_allclose([hit.score for hit in hits], scores[expected], atol=1e-7)


def test_ties_come_in_the_order_of_names_however_many_there_are(tmp_path):
    count = 4 * SPARE
    shuffled = [f"{n:04d}" for n in np.random.default_rng(0).permutation(count)]
    index = index_of(np.tile([0.6, 0.8], (count, 1)), shuffled, tmp_path)
    assert [hit.name for hit in best(index, torch.tensor([1.0, 0.0]), 3)] == ["0000", "0001", "0002"]


def test_what_float32_cannot_tell_apart_is_settled_as_brute_force_does(tmp_path):
    base = unit_vectors(1, 512, seed=0)
    embeds = base + 1e-7 * np.random.default_rng(1).standard_normal((300, 512)).astype(np.float32)
    names = [f"{n:04d}" for n in range(300)]
    query = torch.from_numpy(unit_vectors(1, 512, seed=2)[0])
    scores = (embeds.astype(np.float64) @ query.double().numpy()).astype(np.float32)
    expected = [names[n] for n in np.argsort(-scores, kind="stable")[:10]]
    assert [hit.name for hit in best(index_of(embeds, names, tmp_path), query, 10)] == expected


def test_copies_of_a_picture_are_all_found(tmp_path):
    index = index_of(np.eye(2), ["a", "b"], tmp_path)
    index.pictures["copy of b"] = index.pictures["b"]
    assert [hit.name for hit in best(index, torch.tensor([0.0, 1.0]), 2)] == ["b", "copy of b"]


def test_more_than_there_are_gives_all(tmp_path):
    assert len(best(index_of(np.eye(3), list("abc"), tmp_path), torch.tensor([1.0, 0.0, 0.0]), 50)) == 3


def test_a_picture_finds_itself_first(pictures, update, model, word_processor):
    index, _ = update(pictures)
    image = decode_image(pictures / "deep/er/7.png", name="7")
    hits = search(index, model, word_processor, image=image, top=3)
    assert hits[0].name == "deep/er/7.png" and hits[0].score == pytest.approx(1, abs=1e-6) and len(hits) == 3


def test_a_text_finds_what_the_model_s_cosines_say(pictures, update, model, word_processor):
    index, _ = update(pictures)
    query = encode_texts(model, word_processor.tokenizer, ["a red square"])[0].numpy()
    names = list(index.pictures)
    vectors = np.stack([index.vectors.reconstruct(number_of(index.pictures[name].digest)) for name in names])
    scores = vectors.astype(np.float64) @ query
    expected = [names[n] for n in np.argsort(-scores, kind="stable")]
    hits = search(index, model, word_processor, text="a red square")
    assert [hit.name for hit in hits] == expected
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1], atol=1e-6)


def test_a_model_that_gives_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="NaN or infinity"):
        best(index_of(np.eye(2), ["a", "b"], tmp_path), torch.tensor([float("nan"), 0.0]), 1)


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({}, "neither is given"),
        ({"text": "a", "image": "a.jpg"}, "both are given"),
        ({"text": "  "}, "the text '  ' is empty"),
        ({"text": "a", "top": 0}, "top=0"),
    ],
)
def test_a_query_that_says_nothing_is_refused(query, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_query(**{"text": None, "image": None, "top": 10, **query})
