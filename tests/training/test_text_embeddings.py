"""A text's embedding depends on the text alone, whatever the batch, the tokenizer's defaults and the caller."""

import itertools
import logging

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoProcessor, PreTrainedTokenizerFast

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.data.batches.captions import TokenTable
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.training.recipe.arguments import ModelArguments
from modeling_clipscratch.training.towers.build import build_model
from tests.tiny_towers import tiny_config

TEXTS = ["a red circle", "red", "the blue square of the photo of a circle and a square", "blue circle", "a red a red"]
WORDS = ["a", "and", "blue", "circle", "of", "photo", "red", "square", "the"]
TOWERS = {
    **{kind: (kind, {}) for kind in ("distilbert", "bert", "roberta", "xlm-roberta", "mpnet", "electra", "albert")},
    **{kind: (kind, {}) for kind in ("deberta-v2", "modernbert", "gpt2", "qwen2")},
    "clip": ("clip_text_model", {"bos_token_id": 1, "eos_token_id": 11}),
    "clip with the former end": ("clip_text_model", {"bos_token_id": 1, "eos_token_id": 2}),
}


def tokenizer(marks, template, *, words_first=False, padding=None, truncation=None, **settings):
    """A word tokenizer whose texts look as the template says; `$A` stands for the words."""
    tokens = [*WORDS, *marks] if words_first else [*marks, *WORDS]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(mark, vocabulary[mark]) for mark in template.split() if mark != "$A"]
    if special:
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    if padding:
        made.enable_padding(length=padding, pad_id=vocabulary["[PAD]"], pad_token="[PAD]")
    if truncation:
        made.enable_truncation(truncation)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", model_max_length=8, **settings)


BERT = {"marks": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"], "template": "[CLS] $A [SEP]"}
NAMES = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
TYPED = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
ENDS = {"pad_token": "<end>", "bos_token": "<start>", "eos_token": "<end>"}
TOKENIZERS = {
    "bert": lambda: tokenizer(**BERT, **NAMES, **TYPED),
    "left": lambda: tokenizer(**BERT, **NAMES, padding_side="left", truncation_side="left"),
    "fixed": lambda: tokenizer(**BERT, **NAMES, padding=20, truncation=5),
    # The number of its end is the largest.
    "clip": lambda: tokenizer(["[UNK]", "<start>", "<end>"], "<start> $A <end>", words_first=True, **ENDS),
    "bare": lambda: tokenizer(["<end>", "[UNK]"], "$A", pad_token="<end>", eos_token="<end>"),
}


def refusal(tower, tokens, pooling):
    """The error of a pair that cannot work; `None` for one that must."""
    from_left = tower in ("gpt2", "qwen2") or tower.startswith("clip")
    if pooling == "cls":
        return "reads from left to right" if from_left else None
    if pooling == "tower":
        if tower.startswith("clip"):
            return None if tokens == "clip" else "is not what the tokenizer"
        if tower in ("distilbert", "electra", "deberta-v2", "modernbert", "gpt2", "qwen2"):
            return "no pooled output"
    return None


@pytest.fixture(scope="module")
def tower_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")

    def save(name):
        if not (folder / name).exists():
            kind, changes = TOWERS[name]
            torch.manual_seed(0)
            AutoModel.from_config(tiny_config(kind, initializer_range=0.3, **changes)).save_pretrained(folder / name)
        return str(folder / name)

    return save


def build(text_tower, folder=None, **options):
    sizes = {"vision_tower": "vit", "vision_hidden_size": 16, "vision_num_layers": 1, "vision_num_heads": 2}
    sizes |= {"text_hidden_size": 16, "text_num_layers": 2, "text_num_heads": 2, "image_size": 8, "projection_dim": 8}
    options = ModelArguments(text_tower=text_tower, tokenizer=folder and str(folder), **{**sizes, **options})
    model, processor = build_model(options, TEXTS)
    return model.eval(), processor


@torch.inference_mode()
def embeddings_of_every_caller(model, processor, folder):
    """Yield the name of each caller, the texts' numbers and their embeddings; each has other neighbours."""
    table = TokenTable(TEXTS, processor.tokenizer, processor.tokenizer.model_max_length, warn=False)
    for batch in ([0], [0, 1, 2, 3, 4], [4, 1, 3, 0]):
        ids = torch.tensor(batch)
        yield f"training {batch}", batch, model(**table.batch(ids)).text_embeds
    for size in (1, 2, 64):
        yield f"encode_texts {size}", range(5), encode_texts(model, processor.tokenizer, TEXTS, batch_size=size)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    saved, loaded = ClipScratchModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    # As transformers' zero-shot pipeline does; it never cuts.
    short = [0, 1, 3, 4]
    inputs = loaded.tokenizer([TEXTS[number] for number in short], return_tensors="pt", padding=True)
    yield "pipeline", short, saved(**inputs).text_embeds
    inputs = loaded(text=TEXTS, return_tensors="pt", padding=True, truncation=True)
    yield "processor", range(5), saved(**inputs).text_embeds
    # As whoever reads tokenizer.json without transformers does.
    ids = torch.tensor([loaded.tokenizer.backend_tokenizer.encode(TEXTS[0]).ids])
    yield "tokenizers", [0], saved(input_ids=ids, attention_mask=torch.ones_like(ids)).text_embeds


def assert_text_alone_counts(model, processor, folder):
    expected = encode_texts(model, processor.tokenizer, TEXTS, batch_size=1)
    distance = torch.cdist(expected, expected) + torch.eye(len(TEXTS))
    assert distance.min() > 1e-4, "texts that differ have the same embedding"
    for name, texts, embeddings in embeddings_of_every_caller(model, processor, folder):
        cosines = (embeddings.double() * expected[list(texts)].double()).sum(-1)
        assert cosines.min() >= 1 - 1e-6, name


QUICK = {("distilbert", "bert"), ("distilbert", "left"), ("clip", "clip"), ("clip", "bare")}
PAIRS = [
    pytest.param(tower, tokens, marks=[] if (tower, tokens) in QUICK else pytest.mark.slow)
    for tower, tokens in itertools.product(TOWERS, TOKENIZERS)
]


@pytest.mark.parametrize(("tower", "tokens"), PAIRS)
def test_an_embedding_depends_on_its_text_alone(tower, tokens, tower_folder, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    TOKENIZERS[tokens]().save_pretrained(tmp_path / "tokenizer")
    for pooling in ("cls", "mean", "tower"):
        why = refusal(tower, tokens, pooling)
        if why is None:
            model, processor = build(tower_folder(tower), tmp_path / "tokenizer", text_pooling=pooling)
            assert_text_alone_counts(model, processor, tmp_path / pooling)
        else:
            with pytest.raises(ValueError, match=why):
                build(tower_folder(tower), tmp_path / "tokenizer", text_pooling=pooling)


@pytest.mark.parametrize(
    ("tower", "pooling"),
    [
        ("distilbert", "cls"),
        ("clip_text_model", "tower"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("bert", "tower"), ("roberta", "mean"), ("mpnet", "mean"))
        ),
    ],
)
def test_a_tower_from_scratch_reads_the_words_of_its_captions(tower, pooling, tmp_path):
    model, processor = build(tower, text_pooling=pooling, max_length=8)
    assert_text_alone_counts(model, processor, tmp_path)
