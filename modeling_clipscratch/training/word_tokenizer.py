"""Captions go in; a tokenizer whose tokens are their words comes out."""

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast


def word_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """Every word and punctuation mark of the captions is a token, lower case; a [CLS] stands first.

    >>> word_tokenizer(["A red circle."])("a blue circle")["input_ids"]  # 1 stands for words never seen
    [2, 4, 1, 5]
    """
    lower, split = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    lowered = map(lower.normalize_str, captions)  # Python's own lower() has another letter at the end of Greek words
    words = dict.fromkeys(word for text in lowered for word, _ in split.pre_tokenize_str(text))
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = lower
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        model_input_names=["input_ids", "attention_mask"],
    )
