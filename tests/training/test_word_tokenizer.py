"""Split texts by the word tokenizer: at spaces, or into characters of scripts without spaces."""

import pytest

from modeling_clipscratch.training.towers.word_tokenizer import word_tokenizer


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A dog, black.", ["a", "dog", ",", "black", "."]),
        ("一只红猫 cat", ["一", "只", "红", "猫", "cat"]),
        ("แมวสีดำ", ["แ", "ม", "ว", "สี", "ด", "ำ"]),  # a mark stays with its letter
        ("ねこ", ["ね", "こ"]),
        ("고양이 집", ["고양이", "집"]),  # Korean has spaces
        ("ΣΚΥΛΟΣ ΚΑΙ", ["σκυλοσ", "και"]),
        ("Ein GROẞES Haus", ["ein", "großes", "haus"]),
    ],
)
def test_tokens_are_words_or_characters_of_scripts_without_spaces(caption, tokens):
    tokenizer = word_tokenizer([caption, "a"])
    assert tokenizer.tokenize(caption) == tokens
    assert tokenizer.unk_token_id not in tokenizer(caption)["input_ids"]
