"""Rows of both kinds and a tokenizer go in; unique texts, groups, sides and padded tokens are checked."""

import logging

import numpy as np
import pytest
import torch

from modeling_clipscratch.data.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.rows import Rows


def caption_rows(captions):
    return Rows(
        name="set", split="train", kind="caption", keys=[f"k{number}" for number in range(len(captions))],
        read_image=None, captions=captions, origin="a test", fingerprint="0",
    )  # fmt: skip


def class_rows(labels, names, templates):
    return Rows(
        name="set", split="train", kind="class", keys=[f"k{number}" for number in range(len(labels))],
        read_image=None, labels=np.array(labels), class_names=names, templates=templates, origin="a test",
        fingerprint="0",
    )  # fmt: skip


def choices(table, row, count):
    """The texts of one row for draws spread over [0, 1), one in the middle of each caption's share."""
    draws = (torch.arange(count) + 0.5) / count
    return [table.texts[i] for i in table.choose(torch.full((count,), row), draws).tolist()]


def test_each_caption_is_kept_once_and_each_row_says_its_own():
    captions = [["a dog", "a cat"], ["a cat"], ["a cat", "a bird", "a dog"]]
    table = CaptionTable(caption_rows(captions))
    assert table.texts == ["a dog", "a cat", "a bird"]
    assert [choices(table, row, len(texts)) for row, texts in enumerate(captions)] == captions


def test_class_rows_say_the_prompts_of_their_class():
    table = CaptionTable(class_rows([1, 0, 1], ["cat", "dog"], ["a {}", "the {}", "a {} and a {}"]))
    assert table.texts == ["a cat", "the cat", "a cat and a cat", "a dog", "the dog", "a dog and a dog"]
    assert choices(table, 0, 3) == ["a dog", "the dog", "a dog and a dog"]
    assert choices(table, 1, 3) == ["a cat", "the cat", "a cat and a cat"]


def test_largest_draw_is_the_last_caption():
    table = CaptionTable(caption_rows([["x"], ["a", "b", "c"]]))
    last = 1 - 2**-24  # the largest that `uniform` gives
    assert table.texts[table.choose(torch.tensor([1]), torch.tensor([last])).item()] == "c"
    assert table.texts[table.choose(torch.tensor([1]), torch.tensor([0.0])).item()] == "a"


def test_groups_are_the_classes():
    table = CaptionTable(class_rows([2, 0, 2, 1], ["a", "b", "c"], ["{}"]))
    assert table.group.dtype == torch.int64 and table.group.tolist() == [2, 0, 2, 1]


def test_rows_with_the_same_set_of_captions_are_one_group():
    captions = [["a", "b"], ["b", "a"], ["a"], ["a", "b", "b"], ["a", "c"], ["a"]]
    group = CaptionTable(caption_rows(captions)).group.tolist()
    assert [[group[i] == group[j] for j in range(6)] for i in range(6)] == [
        [set(captions[i]) == set(captions[j]) for j in range(6)] for i in range(6)
    ]


def test_captions_that_name_a_side_do_not_survive_a_flip():
    sides = ["a dog left of a cat", "Right!", "the LEFTMOST", "the rightmost one", "on its right-hand side"]
    free = ["a bright dog", "leftover food", "copyright", "upright", "above and below", ""]
    table = CaptionTable(caption_rows([sides + free]))
    assert table.survives_flip.dtype == torch.bool
    assert table.survives_flip.tolist() == [False] * len(sides) + [True] * len(free)


def test_table_of_chosen_rows_says_what_they_say():
    captions = [["a", "b"], ["c"], ["b", "d", "a"], ["c"]]
    table = CaptionTable(caption_rows(captions))
    chosen = table.select(np.array([3, 2, 0]))
    assert chosen.texts == table.texts
    for place, row in enumerate([3, 2, 0]):
        assert choices(chosen, place, len(captions[row])) == captions[row]
    assert chosen.group.tolist() == table.group[[3, 2, 0]].tolist()


# Tokens

TEXTS = ["a red square", "blue", "", "the photo of a blue circle", "a zebra"]


@pytest.mark.parametrize("ids", [[0], [3, 1], [1, 1, 2], [4, 3, 2, 1, 0]])
def test_batches_are_padded_as_the_tokenizer_pads_them(word_processor, ids):
    tokenizer = word_processor.tokenizer
    batch = TokenTable(TEXTS, tokenizer, 12).batch(torch.tensor(ids))
    own = tokenizer([TEXTS[i] for i in ids], padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask"):
        assert batch[name].dtype == torch.int64
        assert torch.equal(batch[name], own[name])


def test_long_captions_are_cut_counted_and_said_once(word_processor, caplog):
    tokenizer = word_processor.tokenizer
    with caplog.at_level(logging.WARNING, logger="modeling_clipscratch"):
        table = TokenTable(TEXTS, tokenizer, 4)
        for _ in range(3):
            batch = table.batch(torch.arange(5))
    # With [CLS] and [SEP]: 5, 3, 2, 8 and 4 tokens.
    own = [record.getMessage() for record in caplog.records if record.name.startswith("modeling_clipscratch")]
    assert own == ["2 of 5 captions are longer than the 4 tokens that the text tower reads; they are cut."]
    assert table.truncated == 2
    cut = tokenizer(TEXTS, padding=True, truncation=True, max_length=4, return_tensors="pt")
    assert torch.equal(batch["input_ids"], cut["input_ids"]) and batch["input_ids"].shape == (5, 4)
    assert (batch["input_ids"][[0, 3], 3] == 3).all()  # the [SEP] at the end stays


def test_captions_that_fit_exactly_are_not_cut(word_processor, caplog):
    with caplog.at_level(logging.WARNING, logger="modeling_clipscratch"):
        table = TokenTable(TEXTS, word_processor.tokenizer, 8)
    assert table.truncated == 0 and not caplog.records


def test_order_by_length_is_shortest_first_and_stable(word_processor):
    assert TokenTable(TEXTS, word_processor.tokenizer, 12).by_length().tolist() == [2, 1, 4, 0, 3]
    assert TokenTable(["red", "blue", "a"], word_processor.tokenizer, 12).by_length().tolist() == [0, 1, 2]


def test_fingerprint_follows_tokens_and_their_borders(word_processor):
    def fingerprint(*texts, length=12):
        return TokenTable(list(texts), word_processor.tokenizer, length).fingerprint()

    first = fingerprint("red square", "blue")
    assert first == fingerprint("red square", "blue")
    others = [fingerprint("red square", "red"), fingerprint("blue", "red square"), fingerprint("red square")]
    others += [fingerprint("red", "square blue"), fingerprint("red square", "blue", length=3)]
    assert len({first, *others}) == 6
