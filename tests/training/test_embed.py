"""A tiny model with pixels and tokens, or with cached states, goes in; the embeddings are the same."""

import numpy as np
import torch

from modeling_clipscratch.data.augment import Augment
from modeling_clipscratch.data.batches import PairDataset
from modeling_clipscratch.data.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.rows import Rows
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.training.embed import embed_pictures, text_encoder
from modeling_clipscratch.training.state_cache import image_states, text_states

CAPTIONS = [["a red square"], ["blue", "the blue circle"], ["a photo of the circle"], ["red"], ["a"]]
LOOK = Augment(mean=[0.5] * 3, std=[0.5] * 3, horizontal_flip=0.5)
# Batches of other sizes are added up in another order: unit embeddings, a few float32 roundings.
CLOSE = {"atol": 2e-6, "rtol": 0}


def test_embeddings_from_cached_states_are_those_from_pixels_and_tokens(make_model, word_processor, tmp_path):
    rows = Rows(
        name="set", split="train", kind="caption", keys=list("abcde"), read_image=None, captions=CAPTIONS,
        origin="a test", fingerprint="0",
    )  # fmt: skip
    model = make_model(freeze_vision=True, text_pooling="cls+mean", projection="mlp").train()
    captions = CaptionTable(rows)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    tokens = TokenTable(captions.texts, word_processor.tokenizer, 12)
    live = PairDataset(rows, captions, seed=0, pixels=pixels, tokens=tokens)
    cached = PairDataset(
        rows, captions, seed=0,
        text_states=text_states(model, tokens, folder=tmp_path, progress=False),
        image_states=image_states(
            model, lambda chosen: pixels[chosen], "", rows.keys, LOOK, views=3, folder=tmp_path, progress=False
        ),
    )  # fmt: skip
    chosen, texts = torch.tensor([4, 0, 2, 2]), ["red", "a red square", "the blue circle", "red"]
    pictures = [embed_pictures(model, pairs, chosen, LOOK, 3) for pairs in (live, cached)]
    assert torch.allclose(*pictures, **CLOSE) and torch.allclose(pictures[1][2], pictures[1][3], **CLOSE)
    said = [text_encoder(model, word_processor.tokenizer, pairs, 3)(texts) for pairs in (live, cached)]
    assert torch.allclose(*said, **CLOSE) and torch.allclose(said[1][0], said[1][3], **CLOSE)
    assert torch.allclose(said[0], encode_texts(model, word_processor.tokenizer, texts), **CLOSE)
    for embeds in pictures + said:
        assert embeds.dtype == torch.float32 and not embeds.requires_grad
        assert torch.allclose(embeds.norm(dim=-1), torch.ones(4), atol=1e-6)
    assert model.training and not model.text_model.training
