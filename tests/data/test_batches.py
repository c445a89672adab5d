"""Rows with pictures, tokens or cached states go in; batches are the same for any worker, split or resume."""

import logging
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import ViTImageProcessorPil

from modeling_clipscratch.data.batches import EpochSampler, PairDataset, as_they_are
from modeling_clipscratch.data.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.pixels import Preprocess
from modeling_clipscratch.data.rows import BadImageError, Rows

CAPTIONS = [
    ["a red square", "the red square"], ["blue"], ["a photo of the blue circle", "blue circle", "a circle"],
    ["red left", "red"], ["a red square", "the red square"], ["square"], ["the circle", "the photo"],
]  # fmt: skip


def read(broken, index):
    if index in broken:
        raise BadImageError(f"k{index}: cannot be decoded.")
    return np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def rows_of(broken=(), captions=CAPTIONS):
    return Rows(
        name="set", split="train", kind="caption", keys=[f"k{number}" for number in range(len(captions))],
        read_image=partial(read, frozenset(broken)), captions=captions, origin="a test", fingerprint="0",
    )  # fmt: skip


@pytest.fixture
def make_pairs(word_processor):
    """Settings -> `PairDataset` of seven rows, pictures read as they are needed."""

    def make(broken=(), *, in_memory=False, text_states=None, image_states=None, seed=0, **settings):
        rows = rows_of(broken)
        captions = CaptionTable(rows)
        preprocess = Preprocess(ViTImageProcessorPil(size={"height": 8, "width": 8}))
        pictures = {"preprocess": preprocess}
        if in_memory:
            pictures = {"pixels": preprocess.read_all(rows)[0]}
        if image_states is not None:
            pictures = {"image_states": image_states}
        texts = {"tokens": TokenTable(captions.texts, word_processor.tokenizer, 12)}
        if text_states is not None:
            texts = {"text_states": text_states(len(captions.texts))}
        return PairDataset(rows, captions, seed=seed, **pictures, **texts, **settings)

    return make


def epoch_of(pairs, batch_size, workers=0, epoch=0):
    sampler = EpochSampler(len(pairs), seed=pairs.seed)
    sampler.set_epoch(epoch)
    loader = DataLoader(pairs, batch_size, sampler=sampler, collate_fn=as_they_are, num_workers=workers)
    return list(loader)


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
    assert [len(batch["group"]) for batch in alone] == [3, 3, 1]
    for workers in (1, 2):
        assert_same(epoch_of(pairs, 3, workers, epoch=1), alone)


def test_batches_are_split_at_will_and_samples_stay(make_pairs):
    pairs = make_pairs()
    singles = one_by_one(epoch_of(pairs, 1))
    for size in (2, 3, 7):
        assert_same(one_by_one(epoch_of(pairs, size)), singles)


def test_pictures_in_memory_and_pictures_read_make_the_same_batches(make_pairs):
    assert_same(epoch_of(make_pairs(in_memory=True), 3), epoch_of(make_pairs(), 3))


def test_batch_holds_what_belongs_to_each_row(make_pairs, word_processor):
    pairs = make_pairs()
    [batch] = epoch_of(pairs, 7)
    order = [index for _, index in EpochSampler(7, seed=0)]
    assert batch["images"].dtype == torch.uint8 and batch["images"].shape == (7, 8, 8, 3)
    assert len(set(batch["sample"].tolist())) == 7
    for place, row in enumerate(order):
        assert np.array_equal(batch["images"][place].numpy(), read((), row))
        length = batch["attention_mask"][place].sum()
        said = [
            t
            for t in CAPTIONS[row]
            if word_processor.tokenizer(t)["input_ids"] == batch["input_ids"][place, :length].tolist()
        ]
        assert len(said) == 1
        assert batch["may_flip"][place].item() == ("left" not in said[0])
        assert batch["group"][place] == pairs.captions.group[row]
    # Rows 0 and 4 say the same.
    assert batch["group"][order.index(0)] == batch["group"][order.index(4)]
    assert len(set(batch["group"].tolist())) == 6


def test_epochs_and_seeds_choose_other_captions_and_orders(make_pairs):
    pairs = make_pairs()
    said = {row: set() for row in range(7)}
    orders = set()
    for epoch in range(30):
        batches = epoch_of(pairs, 7, epoch=epoch)
        order = [index for _, index in _sampler(epoch)]
        orders.add(tuple(order))
        for row, sample in zip(order, one_by_one(batches), strict=True):
            said[row].add(tuple(sample["input_ids"].tolist()))
    assert [len(said[row]) for row in range(7)] == [len(texts) for texts in CAPTIONS]
    assert len(orders) == 30
    samples = [set(epoch_of(make_pairs(seed=seed), 7)[0]["sample"].tolist()) for seed in (0, 1)]
    assert not samples[0] & samples[1]


def _sampler(epoch):
    sampler = EpochSampler(7, seed=0)
    sampler.set_epoch(epoch)
    return sampler


def test_sampler_names_the_epoch_with_every_row():
    assert [epoch for epoch, _ in _sampler(5)] == [5] * 7
    assert sorted(index for _, index in _sampler(5)) == list(range(7)) and len(_sampler(5)) == 7


def test_pair_data_set_can_be_sent_to_a_worker(make_pairs):
    pairs = make_pairs()
    assert_same(epoch_of(pickle.loads(pickle.dumps(pairs)), 3), epoch_of(pairs, 3))


# Cached states


def test_cached_states_stand_in_for_pixels_and_tokens(make_pairs):
    text_states = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    pictures = torch.arange(7 * 4 * 2, dtype=torch.float32).view(7, 4, 2)
    pairs = make_pairs(text_states=lambda count: text_states(count, 3), image_states=pictures)
    live = make_pairs()
    [batch], [plain] = epoch_of(pairs, 7), epoch_of(live, 7)
    assert set(batch) == {"image_states", "text_states", "group", "sample", "may_flip"}
    for name in ("group", "sample", "may_flip"):
        assert torch.equal(batch[name], plain[name])
    # The same caption as the live batch says, by its state.
    for place, sample in enumerate(one_by_one([plain])):
        [said] = [
            number
            for number in range(len(pairs.captions.texts))
            if torch.equal(batch["text_states"][place], pairs.text_states[number])
        ]
        tokens = live.tokens.batch(torch.tensor([said]))["input_ids"][0]
        assert tokens.tolist() == sample["input_ids"].tolist()


def test_every_cached_view_of_a_picture_is_seen_in_time(make_pairs):
    pictures = torch.arange(7 * 4).view(7, 4, 1)
    pairs = make_pairs(image_states=pictures)
    seen = {row: set() for row in range(7)}
    for epoch in range(40):
        for row, sample in zip(_sampler(epoch), one_by_one(epoch_of(pairs, 3, epoch=epoch)), strict=True):
            state = sample["image_states"].item()
            assert state // 4 == row[1]  # a state of this row
            seen[row[1]].add(state % 4)
    assert all(views == {0, 1, 2, 3} for views in seen.values())


# Broken pictures


def test_broken_picture_stops_the_run_by_default(make_pairs):
    with pytest.raises(BadImageError, match="k4: cannot be decoded"):
        epoch_of(make_pairs(broken={4}), 3)


def test_next_readable_row_takes_the_place_of_a_broken_one(make_pairs, caplog):
    pairs = make_pairs(broken={2, 3, 6}, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        batch = pairs.__getitems__([(0, index) for index in (2, 0, 6, 3)])
    stand_ins = [4, 0, 0, 4]
    assert np.array_equal(batch["images"].numpy(), np.stack([read((), index) for index in stand_ins]))
    assert batch["group"].tolist() == pairs.captions.group[stand_ins].tolist()
    # Caption, sample and group are the stand-in's too, so the pair is a true one.
    assert torch.equal(batch["sample"], pairs.__getitems__([(0, index) for index in stand_ins])["sample"])
    pairs.__getitems__([(1, 2)])
    said = [record.getMessage() for record in caplog.records]
    assert said.count("skipped: k2: cannot be decoded.") == 1  # not once an epoch


def test_no_readable_picture_at_all_is_an_error(make_pairs):
    with pytest.raises(ValueError, match="set, split train: none of its pictures can be read"):
        epoch_of(make_pairs(broken=range(7), on_bad_image="skip"), 3)


def test_plain_pictures_are_those_of_evaluation(make_pairs):
    for pairs in (make_pairs(), make_pairs(in_memory=True)):
        first, second = pairs.plain_pictures(torch.tensor([5, 1, 2]), 2)
        assert np.array_equal(first.numpy(), np.stack([read((), 5), read((), 1)]))
        assert np.array_equal(second.numpy(), read((), 2)[None])
    with pytest.raises(BadImageError, match="k1"):
        list(make_pairs(broken={1}, on_bad_image="skip").plain_pictures(torch.tensor([1]), 2))
