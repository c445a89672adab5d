"""Make the same batches of images or cached features with captions for any workers, split or resume."""

import logging
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import ViTImageProcessorPil

from modeling_clipscratch.data.batches.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.batches.map_batches import EpochSampler, PairDataset, TextSide
from modeling_clipscratch.data.dataset import build_dataset, image_bytes, ppm
from modeling_clipscratch.data.images.decode import BadImageError
from modeling_clipscratch.data.images.preprocess import Preprocess

CAPTIONS = [
    ["a red square", "the red square"], ["blue"], ["a photo of the blue circle", "blue circle", "a circle"],
    ["red left", "red"], ["a red square", "the red square"], ["square"], ["the circle", "the photo"],
]  # fmt: skip


def image_of(index):
    return np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def dataset_of(broken=(), captions=CAPTIONS, name="set"):
    files = [b"broken" if index in broken else ppm(image_of(index)) for index in range(len(captions))]
    dataset = build_dataset(image_bytes(files), [f"k{number}" for number in range(len(captions))], captions=captions)
    dataset.info.dataset_name = name
    return dataset


@pytest.fixture
def make_pairs(word_processor):
    """Settings -> `PairDataset` of seven rows, images read as they are needed."""

    def make(broken=(), *, in_memory=False, text_features=None, image_features=None, live=False, **settings):
        dataset, seed = dataset_of(broken), settings.pop("seed", 0)
        captions = CaptionTable.of(dataset)
        preprocess = Preprocess(ViTImageProcessorPil(size={"height": 8, "width": 8}))
        images = {"pixels": preprocess.read_all(dataset)[0]} if in_memory else {"preprocess": preprocess}
        images = images if image_features is None else {"image_features": image_features}
        texts = {"tokens": TokenTable(captions.texts, word_processor.tokenizer, 12)}
        texts = {"tokenizer": word_processor.tokenizer} if live else texts
        texts = texts if text_features is None else {"features": text_features(len(captions.texts))}
        return PairDataset(dataset, captions, TextSide(seed=seed, **texts), **images, **settings)

    return make


def sampler_of(epoch, seed=0):
    sampler = EpochSampler(7, seed=seed)
    sampler.set_epoch(epoch)
    return sampler


def epoch_of(pairs, batch_size, workers=0, epoch=0):
    sampler = sampler_of(epoch, pairs.texts.seed)
    return list(DataLoader(pairs, batch_size, sampler=sampler, collate_fn=dict, num_workers=workers))


def one_by_one(batches):
    """Batches -> one dict a sample, with the padding cut off."""
    samples = []
    for batch in batches:
        for place in range(len(batch["sample"])):
            sample = {name: tensor[place] for name, tensor in batch.items()}
            if "input_ids" in sample:
                sample["input_ids"] = sample["input_ids"][sample.pop("attention_mask") == 1]
            samples.append(sample)
    return samples


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("in_memory", [True, False])
def test_batches_are_the_same_for_any_number_of_workers(make_pairs, in_memory):
    pairs = make_pairs(in_memory=in_memory)
    alone = epoch_of(pairs, 3, epoch=1)
    assert [len(batch["links"]) for batch in alone] == [3, 3, 1]
    for workers in (1, 2):
        assert_same(epoch_of(pairs, 3, workers, epoch=1), alone)
    assert_same(epoch_of(pickle.loads(pickle.dumps(pairs)), 3, epoch=1), alone)


@pytest.mark.parametrize("other", ["in_memory", "live"])
def test_images_in_memory_and_texts_tokenised_late_make_the_same_batches(make_pairs, other):
    assert_same(epoch_of(make_pairs(**{other: True}), 3), epoch_of(make_pairs(), 3))


def test_batch_holds_what_belongs_to_each_row(make_pairs, word_processor):
    pairs = make_pairs()
    [batch] = epoch_of(pairs, 7)
    order = [index for _, index in sampler_of(0)]
    assert batch["images"].dtype == torch.uint8 and batch["images"].shape == (7, 8, 8, 3)
    assert len(set(batch["sample"].tolist())) == 7
    for place, row in enumerate(order):
        assert np.array_equal(batch["images"][place].numpy(), image_of(row))
        tokens = batch["input_ids"][place, : batch["attention_mask"][place].sum()].tolist()
        [text] = [text for text in CAPTIONS[row] if word_processor.tokenizer(text)["input_ids"] == tokens]
        assert batch["may_flip"][place].item() == ("left" not in text)
        assert torch.equal(batch["links"][place], pairs.captions.links[row])
    # Rows 0 and 4 have the same captions.
    assert torch.equal(batch["links"][order.index(0)], batch["links"][order.index(4)])
    assert len(set(map(tuple, batch["links"].tolist()))) == 6


def test_epochs_and_seeds_choose_other_captions_and_orders(make_pairs):
    pairs, orders = make_pairs(), set()
    texts = {row: set() for row in range(7)}
    for epoch in range(30):
        order = [index for _, index in sampler_of(epoch)]
        orders.add(tuple(order))
        for row, sample in zip(order, one_by_one(epoch_of(pairs, 7, epoch=epoch)), strict=True):
            texts[row].add(tuple(sample["input_ids"].tolist()))
    assert [len(texts[row]) for row in range(7)] == [len(captions) for captions in CAPTIONS]
    assert len(orders) == 30
    samples = [set(epoch_of(make_pairs(seed=seed), 7)[0]["sample"].tolist()) for seed in (0, 1)]
    assert not samples[0] & samples[1]


def test_cached_features_replace_pixels_and_tokens(make_pairs):
    features = torch.arange(7 * 2, dtype=torch.float32).view(7, 2)
    pairs = make_pairs(text_features=lambda count: torch.arange(count * 3).view(count, 3), image_features=features)
    live = make_pairs()
    [batch], [plain] = epoch_of(pairs, 7), epoch_of(live, 7)
    assert set(batch) == {"image_features", "text_features", "links", "sample", "may_flip"}
    for name in ("links", "sample", "may_flip"):
        assert torch.equal(batch[name], plain[name])
    assert torch.equal(batch["image_features"], features[[index for _, index in sampler_of(0)]])
    chosen = batch["text_features"][:, 0] // 3  # the features of text n are 3n, 3n + 1, 3n + 2
    assert torch.equal(live.texts.tokens.batch(chosen)["input_ids"], plain["input_ids"])


# Broken images


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"broken": {4}}, "k4: cannot be decoded"),
        ({"broken": range(7), "on_bad_row": "skip"}, "set: none of its images can be read"),
    ],
)
def test_broken_image_stops_the_run_unless_another_can_be_read(make_pairs, settings, message):
    with pytest.raises(ValueError, match=message):
        epoch_of(make_pairs(**settings), 3)


def test_next_readable_row_takes_the_place_of_a_broken_one(make_pairs, caplog):
    pairs = make_pairs(broken={2, 3, 6}, on_bad_row="skip")
    with caplog.at_level(logging.WARNING):
        batch = pairs.__getitems__([(0, index) for index in (2, 0, 6, 3)])
    stand_ins = [4, 0, 0, 4]
    assert np.array_equal(batch["images"].numpy(), np.stack([image_of(index) for index in stand_ins]))
    assert batch["links"].tolist() == pairs.captions.links[stand_ins].tolist()
    # Caption, sample and links are those of the other row too, so the pair is a true one.
    assert torch.equal(batch["sample"], pairs.__getitems__([(0, index) for index in stand_ins])["sample"])
    pairs.__getitems__([(1, 2)])
    [message] = [record.getMessage() for record in caplog.records]  # not once a row, nor once an epoch
    assert message.startswith("set: skipped 1 of 7 images so far; the last: set: k2: cannot be decoded")


def test_plain_images_are_not_augmented_and_a_broken_one_raises(make_pairs):
    for pairs in (make_pairs(), make_pairs(in_memory=True)):
        first, second = pairs.plain_images(torch.tensor([5, 1, 2]), 2)
        assert np.array_equal(first.numpy(), np.stack([image_of(5), image_of(1)]))
        assert np.array_equal(second.numpy(), image_of(2)[None])
    with pytest.raises(BadImageError, match="k1"):
        list(make_pairs(broken={1}, on_bad_row="skip").plain_images(torch.tensor([1]), 2))


def test_a_worker_returns_the_message_of_a_broken_image(make_pairs):
    [*_, last] = epoch_of(make_pairs(broken={list(sampler_of(0))[-1][1]}), 3, workers=1)
    assert set(last) == {"error"} and "cannot be decoded" in last["error"]


# What a run needs to know of its data


def test_digest_follows_keys_captions_and_classes_but_not_pixels():
    def digest(captions=CAPTIONS, keys=None, **settings):
        dataset, features = dataset_of(captions=captions, **settings), torch.zeros(9, 2)
        if keys is not None:
            dataset = dataset.remove_columns("key").add_column("key", keys)
        texts = TextSide(seed=0, features=features)
        return PairDataset(dataset, CaptionTable.of(dataset), texts, image_features=features).digest()

    others = [CAPTIONS[::-1], CAPTIONS[:6], [["red"], *CAPTIONS[1:]], [texts[::-1] for texts in CAPTIONS]]
    assert digest() == digest(broken={1}) == digest(name="other")
    assert len({digest(), *map(digest, others), digest(keys=list("0123456"))}) == 6


@pytest.mark.parametrize(
    ("settings", "shape"),
    [({}, (4, 8)), ({"live": True}, (4, 12)), ({"text_features": lambda count: torch.zeros(count, 3)}, (4, 3))],
)
def test_largest_batch_has_the_longest_caption_possible(make_pairs, settings, shape):
    batch = make_pairs(in_memory=True, **settings).largest_batch(4)
    assert len(batch["images"]) == len(batch["links"]) == 4
    assert batch["text_features" if "text_features" in settings else "input_ids"].shape == shape
