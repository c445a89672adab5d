"""Captions go in; a tokenizer whose tokens are their words comes out."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def word_tokenizer(captions: list[str], *, end: bool = False) -> PreTrainedTokenizerFast:
    """Every word and punctuation mark of the captions is a token, lower case; a [CLS] stands first.

    Args:
        captions: texts whose words are the tokens.
        end: put a [SEP] at the end of each text, for a tower that takes the state of its end token.

    >>> word_tokenizer(["A red circle."])("a blue circle")["input_ids"]  # 1 stands for words never seen
    [2, 4, 1, 5]
    """
    lower, split = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    lowered = map(lower.normalize_str, captions)  # Python's own lower() has another letter at the end of Greek words
    words = dict.fromkeys(word for text in lowered for word, _ in split.pre_tokenize_str(text))
    marks = ["[PAD]", "[UNK]", "[CLS]", *["[SEP]"] * end]
    vocabulary = {word: number for number, word in enumerate([*marks, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = lower
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A" + " [SEP]" * end, special_tokens=[(mark, vocabulary[mark]) for mark in marks[2:]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        **({"sep_token": "[SEP]"} if end else {}),
        model_input_names=["input_ids", "attention_mask"],
    )
