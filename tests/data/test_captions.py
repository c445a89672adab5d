"""Keep the captions of rows: unique texts, positives, sides, and padded tokens."""

import logging

import numpy as np
import pytest
import torch

from modeling_clipscratch.data.batches.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.dataset import build_dataset, image_bytes


def table_of(captions, keys=None):
    return CaptionTable(captions, keys=keys or [f"k{number}" for number in range(len(captions))])


def class_table(labels, names, templates=None):
    images, keys = image_bytes([b""] * len(labels)), [f"k{number}" for number in range(len(labels))]
    return CaptionTable.of(build_dataset(images, keys, labels=labels, class_names=names), templates)


def choices(table, row, count):
    """The texts of one row for draws spread over [0, 1), one in the middle of each caption's share."""
    draws = (torch.arange(count) + 0.5) / count
    return [table.texts[i] for i in table.choose(torch.full((count,), row), draws).tolist()]


def test_each_caption_is_kept_once_and_each_row_has_its_own_and_a_selection_too():
    captions = [["a dog", "a cat"], ["a cat"], ["a cat", "a bird", "a dog"]]
    table = table_of(captions)
    assert table.texts == ["a dog", "a cat", "a bird"]
    assert [choices(table, row, len(texts)) for row, texts in enumerate(captions)] == captions
    chosen = table.select(np.array([2, 0]))
    assert chosen.texts == table.texts and chosen.links.tolist() == table.links[[2, 0]].tolist()
    assert [choices(chosen, place, len(captions[row])) for place, row in enumerate([2, 0])] == [
        captions[2],
        captions[0],
    ]


def test_rows_of_a_class_have_its_prompts_and_are_positives():
    table = class_table([1, 0, 1], ["cat", "dog"], ["a {}", "the {}", "a {} and a {}"])
    assert table.texts == ["a cat", "the cat", "a cat and a cat", "a dog", "the dog", "a dog and a dog"]
    assert choices(table, 0, 3) == ["a dog", "the dog", "a dog and a dog"]
    assert choices(table, 1, 3) == ["a cat", "the cat", "a cat and a cat"]
    table = class_table([2, 0, 2, 1], ["a", "b", "c"])
    assert table.links.dtype == torch.int64 and table.links.tolist() == [[2], [0], [2], [1]]
    assert table.texts == ["a photo of a a.", "a photo of a b.", "a photo of a c."]  # the default


@pytest.mark.parametrize(
    ("captions", "keys"),
    [
        ([["a", "b"], ["b", "a"], ["c"], ["d", "b", "b"], ["e", "c"], ["f"]], "012345"),
        ([["a", "b"], ["b", "c"], ["c", "d"], ["a"], ["e"], ["f"]], "012345"),
        ([["a", "x"], ["b"], ["x"], ["c"], ["a"], ["d"]], "iijklk"),  # several rows of one image
        ([["k1"], ["\0k0"], ["a"]], ["k0", "k1", "k2"]),  # captions that look like keys
    ],
)
def test_rows_that_share_an_image_or_a_caption_are_positives(captions, keys):
    rows = [({*texts}, key) for texts, key in zip(captions, keys, strict=True)]
    expected = [[bool(one & other) or key == its for other, its in rows] for one, key in rows]
    links = table_of(captions, keys).links
    assert (links[:, None, :, None] == links[None, :, None, :]).any(-1).any(-1).tolist() == expected


def test_captions_that_name_a_side_do_not_survive_a_flip():
    sides = ["a dog left of a cat", "Right!", "the LEFTMOST", "the rightmost one", "on its right-hand side"]
    free = ["a bright dog", "leftover food", "copyright", "upright", "above and below", ""]
    survives = table_of([sides + free]).survives_flip
    assert survives.dtype == torch.bool and survives.tolist() == [False] * len(sides) + [True] * len(free)


# Tokens

TEXTS = ["a red square", "blue", "", "the photo of a blue circle", "a zebra"]


@pytest.mark.parametrize("ids", [[0], [3, 1], [1, 1, 2], [4, 3, 2, 1, 0]])
def test_batches_are_padded_as_the_tokenizer_pads_them(word_processor, ids):
    tokenizer = word_processor.tokenizer
    batch = TokenTable(TEXTS, tokenizer, 12).batch(torch.tensor(ids))
    own = tokenizer([TEXTS[i] for i in ids], padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask"):
        assert batch[name].dtype == torch.int64 and torch.equal(batch[name], own[name])


def test_long_texts_are_cut_with_one_warning(word_processor, caplog):
    tokenizer = word_processor.tokenizer
    with caplog.at_level(logging.WARNING, logger="modeling_clipscratch"):
        assert TokenTable(TEXTS, tokenizer, 9).lengths.max() == 8 and not caplog.records
        batch = TokenTable(TEXTS, tokenizer, 4).batch(torch.arange(5))
    # With [CLS] and [SEP]: 5, 3, 2, 8 and 4 tokens.
    own = [record.getMessage() for record in caplog.records if record.name.startswith("modeling_clipscratch")]
    assert own == ["3 of 5 texts fill the 4 tokens that the text tower reads; what is longer is cut off."]
    cut = tokenizer(TEXTS, padding=True, truncation=True, max_length=4, return_tensors="pt")
    assert torch.equal(batch["input_ids"], cut["input_ids"]) and batch["input_ids"].shape == (5, 4)
    assert (batch["input_ids"][[0, 3], 3] == 3).all()  # the [SEP] at the end stays


def test_fingerprint_follows_tokens_and_their_borders(word_processor):
    def fingerprint(*texts, length=12):
        return TokenTable(list(texts), word_processor.tokenizer, length).fingerprint()

    first = fingerprint("red square", "blue")
    assert first == fingerprint("red square", "blue")
    others = [fingerprint("red square", "red"), fingerprint("blue", "red square"), fingerprint("red square")]
    others += [fingerprint("red", "square blue"), fingerprint("red square", "blue", length=3)]
    assert len({first, *others}) == 6
