"""Make a tokenizer of the words of the training captions."""

import re

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

# Scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han (Unicode 15, blocks). Combining marks
# stay with the character before them.
_NO_SPACES = "[\u0e01-\u0e30\u0e32-\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2-\u0eb3\u0ec0-\u0ec6\u1000-\u102a\u1780-\u17b3"
_NO_SPACES += "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"


def word_tokenizer(captions: list[str], *, end: bool = False) -> PreTrainedTokenizerFast:
    """Make a lower-case tokenizer whose tokens are the words and punctuation marks of the captions, after a [CLS].

    Of scripts without spaces between words, such as Chinese and Thai, every character is a token.

    Args:
        captions: texts whose words are the tokens.
        end: put a [SEP] at the end of each text, for a tower that pools its end token.

    >>> word_tokenizer(["A red circle."])("a blue circle")["input_ids"]  # 1 stands for unknown words
    [2, 4, 1, 5]
    >>> word_tokenizer(["一只红色的猫 cat"]).tokenize("红猫 cat")
    ['红', '猫', 'cat']
    """
    lower, split = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    if any(re.search(_NO_SPACES, text) for text in captions):
        characters = pre_tokenizers.Split(Regex(_NO_SPACES + r"\p{M}*"), "isolated")
        split = pre_tokenizers.Sequence([split, characters])
    lowered = map(lower.normalize_str, captions)  # Python's own lower() has another letter at the end of Greek words
    words = dict.fromkeys(word for text in lowered for word, _ in split.pre_tokenize_str(text))
    special = ["[PAD]", "[UNK]", "[CLS]", *["[SEP]"] * end]
    vocabulary = {word: number for number, word in enumerate([*special, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = lower
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A" + " [SEP]" * end, special_tokens=[(token, vocabulary[token]) for token in special[2:]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        **({"sep_token": "[SEP]"} if end else {}),
        model_input_names=["input_ids", "attention_mask"],
    )
