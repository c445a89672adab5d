"""Embeddings whose recalls are worked out by hand go in; the claims of `evaluation.retrieval` are checked."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from modeling_clipscratch.evaluation.metrics.retrieval import best_own_ranks, retrieval_metrics

NAMES = [f"{way}_recall@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)]


def test_perfect_embeddings_give_one_everywhere():
    metrics = retrieval_metrics(torch.eye(12), torch.eye(12), torch.arange(12))
    assert all(metrics[name] == 1.0 for name in NAMES)
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 1.0


def test_reversed_ranking_puts_the_right_one_last():
    metrics = retrieval_metrics(torch.eye(12), -torch.eye(12), torch.arange(12))
    assert all(metrics[name] == 0.0 for name in NAMES)
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 12.0


def test_metrics_of_literal_similarities_are_those_worked_out_by_hand():
    # Texts are unit vectors, so a picture's embedding is its row of similarities (of any length here).
    similarities = torch.tensor(
        [
            [0.9, 0.1, 0.8, 0.2],  # picture 0 has captions 0 and 1: best own 0.9, rank 1
            [0.5, 0.3, 0.4, 0.6],  # picture 1 has caption 2: 0.4, behind 0.6 and 0.5, rank 3
            [0.1, 0.7, 0.2, 0.3],  # picture 2 has caption 3: 0.3, behind 0.7, rank 2
        ]
    )
    metrics = retrieval_metrics(similarities, torch.eye(4), torch.tensor([0, 0, 1, 2]))
    # Columns: caption 0: 0.9, rank 1; caption 1: 0.1, behind 0.3 and 0.7, rank 3; caption 2: rank 2; caption 3: rank 2.
    assert metrics["image_to_text_recall@1"] == 1 / 3
    assert metrics["text_to_image_recall@1"] == 1 / 4
    assert metrics["image_to_text_recall@5"] == metrics["text_to_image_recall@5"] == 1.0
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 2.0


def test_own_captions_never_stand_in_each_others_way():
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1]])
    assert best_own_ranks(scores, torch.tensor([[True, True, True, False]])).tolist() == [1]
    assert best_own_ranks(scores, torch.tensor([[False, True, True, False]])).tolist() == [2]


def test_ties_count_against_the_model():
    same = torch.ones(6, 4) / 2
    metrics = retrieval_metrics(same, same, torch.arange(6))
    assert metrics["image_to_text_recall@5"] == metrics["text_to_image_recall@5"] == 0.0
    assert metrics["image_to_text_median_rank"] == metrics["text_to_image_median_rank"] == 6.0


def test_two_pictures_with_the_same_caption_share_the_blame():
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    metrics = retrieval_metrics(texts, texts, torch.arange(3))
    assert metrics["image_to_text_recall@1"] == metrics["text_to_image_recall@1"] == 1 / 3


def test_median_of_an_even_count_is_the_mean_of_the_middle_two():
    similarities = torch.tensor([[0.9, 0.1], [0.8, 0.7]])
    assert retrieval_metrics(similarities, torch.eye(2), torch.arange(2))["image_to_text_median_rank"] == 1.5


def ragged(seed, pictures=40):
    generator = np.random.default_rng(seed)
    counts = generator.integers(1, 6, pictures)
    owners = generator.permutation(np.repeat(np.arange(pictures), counts))
    torch.manual_seed(seed)
    images = normalize(torch.randn(pictures, 6), dim=-1)
    texts = normalize(images[owners] + 0.9 * torch.randn(len(owners), 6), dim=-1)
    return images, texts, torch.tensor(owners)


@pytest.mark.parametrize("seed", range(3))
def test_ragged_captions_agree_with_a_plain_loop(seed):
    images, texts, owners = ragged(seed)
    scores, owner = images.double().numpy() @ texts.double().numpy().T, owners.numpy()
    expected = {}
    for k in (1, 5, 10):
        hits = [any(owner[text] == i for text in np.argsort(-scores[i])[:k]) for i in range(len(images))]
        expected[f"image_to_text_recall@{k}"] = np.mean(hits)
        hits = [owner[j] in np.argsort(-scores[:, j])[:k] for j in range(len(texts))]
        expected[f"text_to_image_recall@{k}"] = np.mean(hits)
    first = [1 + min(np.flatnonzero(owner[np.argsort(-scores[i])] == i)) for i in range(len(images))]
    # Between captions of its own no caption is counted, so the rank is the place of the first own one.
    expected["image_to_text_median_rank"] = np.median(first)
    places = [1 + list(np.argsort(-scores[:, j])).index(owner[j]) for j in range(len(texts))]
    expected["text_to_image_median_rank"] = np.median(places)
    assert retrieval_metrics(images, texts, owners) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("block", [1, 7, 40, 1000])
def test_blocks_of_any_size_give_the_same_metrics(block):
    images, texts, owners = ragged(5)
    assert retrieval_metrics(images, texts, owners, block=block) == retrieval_metrics(images, texts, owners)


def test_order_of_pictures_and_captions_does_not_matter():
    images, texts, owners = ragged(6)
    places = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(1))
    moved = retrieval_metrics(images[places], texts[order], places.argsort()[owners][order])
    assert moved == retrieval_metrics(images, texts, owners)


def test_broken_inputs_are_named():
    with pytest.raises(ValueError, match="picture 1 has no caption"):
        retrieval_metrics(torch.eye(3), torch.eye(3), torch.tensor([0, 0, 2]))
    with pytest.raises(ValueError, match="runs from 0 to 3"):
        retrieval_metrics(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3]))
    with pytest.raises(ValueError, match="do not fit"):
        retrieval_metrics(torch.eye(3), torch.eye(3), torch.tensor([0, 1]))
