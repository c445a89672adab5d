"""Train a model to name one coloured square, and check that maps find that square."""

import logging

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize as unit_length
from transformers import (
    CLIPConfig,
    CLIPModel,
    DistilBertConfig,
    SwinConfig,
    VisionTextDualEncoderProcessor,
    ViTConfig,
    ViTImageProcessorPil,
)

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from modeling_clipscratch.data.dataset import labels_of
from modeling_clipscratch.data.images.preprocess import normalize
from modeling_clipscratch.evaluation.encode import encode_pixels, encode_texts
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.plots.text_map import text_map
from modeling_clipscratch.evaluation.plots.text_maps import lit, make_maps

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}
SIDE, CELL = 16, 4  # pixels of a picture and of a square, which is one patch
MEAN = STD = [0.5] * 3


def squares(count, seed):
    """Grey noise with one coloured square each: (pictures, colours, places)."""
    random = np.random.default_rng(seed)
    pictures = random.integers(90, 150, (count, SIDE, SIDE, 3)).astype(np.uint8)
    colours, places = random.integers(0, 3, count), random.integers(0, (SIDE // CELL) ** 2, count)
    for picture, colour, place in zip(pictures, colours, places, strict=True):
        line, column = (CELL * n for n in divmod(int(place), SIDE // CELL))
        picture[line : line + CELL, column : column + CELL] = list(COLOURS.values())[colour]
    return pictures, colours, places


@pytest.fixture(scope="module", params=["cls", "mean"])
def trained(request, processor):
    """A tiny model that names the square's colour, frozen after its training, and its processor."""
    torch.manual_seed(0)
    tokenizer = processor.tokenizer
    # Weights of the usual deviation, 0.02, are too small for so narrow a model to learn quickly.
    text = DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=1, n_heads=2, hidden_dim=32, initializer_range=0.1
    )
    vision = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=SIDE,
        patch_size=CELL, initializer_range=0.1,
    )  # fmt: skip
    model = ClipScratchModel(ClipScratchConfig(text, vision, projection_dim=8, vision_pooling=request.param))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    tokens = tokenizer(list(COLOURS), return_tensors="pt", padding=True)
    for step in range(100):
        pictures, colours, _ = squares(48, step)
        images = model.get_image_features(pixel_values=normalize(torch.tensor(pictures), MEAN, STD)).pooler_output
        texts = model.get_text_features(**{name: tokens[name] for name in ("input_ids", "attention_mask")})
        scores = 10 * unit_length(images, dim=-1) @ unit_length(texts.pooler_output, dim=-1).t()
        loss = torch.nn.functional.cross_entropy(scores, torch.tensor(colours))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1, "it did not learn to name the colour, so its maps say nothing"
    optimizer.zero_grad()
    model.requires_grad_(False)
    image_processor = ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=MEAN, image_std=STD, do_resize=True
    )
    return model.train(), VisionTextDualEncoderProcessor(image_processor, tokenizer)


def by_patch(heat):
    return heat.reshape(SIDE // CELL, CELL, SIDE // CELL, CELL).mean((1, 3)).ravel()


def occlusion(model, processor, picture, text):
    """The cosine, and what it loses where a patch is made grey, patch by patch."""
    covered = [picture]
    for place in range((SIDE // CELL) ** 2):
        line, column = (CELL * n for n in divmod(place, SIDE // CELL))
        covered.append(picture.copy())
        covered[-1][line : line + CELL, column : column + CELL] = 120
    cosines = encode_pixels(model, np.stack(covered), MEAN, STD) @ encode_texts(model, processor.tokenizer, [text])[0]
    return cosines[0].item(), (cosines[0] - cosines[1:]).numpy()


def test_map_agrees_with_what_covering_a_place_costs(trained):
    model, processor = trained
    pictures, colours, places = squares(20, seed=1000)
    correlations, told, found = [], 0, 0
    for picture, colour, place in zip(pictures, colours, places, strict=True):
        text = list(COLOURS)[colour]
        heat, cosine = text_map(model, processor, picture, text)
        assert heat.shape == (SIDE, SIDE) and heat.dtype == np.float32
        assert heat.min() >= 0 and heat.max() <= 1
        whole, costs = occlusion(model, processor, picture, text)
        assert cosine == pytest.approx(whole, abs=1e-5)
        correlations.append(np.corrcoef(by_patch(heat), costs.clip(0))[0, 1])
        if costs[place] > 0.5:  # where nothing is seen the model says one of the colours, so of that one it costs less
            told += 1
            found += by_patch(heat).argmax() == place
    assert np.mean(correlations) > 0.7
    assert told >= 8 and found >= 0.9 * told


def test_map_leaves_modes_gradients_and_hooks_as_they_were(trained):
    model, processor = trained
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        text_map(model, processor, squares(1, 0)[0][0], "red")
    assert [module.training for module in model.modules()] == modes and any(modes)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_any_clip_of_transformers_with_patch_tokens_has_maps(processor):
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {**text, "num_hidden_layers": 5, "image_size": 8, "patch_size": 2}
    names = {"vocab_size": len(processor.tokenizer), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    model = CLIPModel(CLIPConfig(text_config={**text, **names}, vision_config=vision, projection_dim=8)).eval()
    heat, _ = text_map(model, processor, np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8), "red")
    assert heat.shape == (8, 8) and heat.max() > 0.5


def test_class_data_gets_the_predicted_and_the_true_prompt(model, processor, class_rows):
    result = evaluate_dataset(model, processor, class_rows, templates=["a picture of {}"])
    maps, names, labels = make_maps(model, processor, result), result.class_names, labels_of(class_rows)
    assert {found.what for found in maps} <= {"taken for", "truth", "right", "came second"}
    for found in maps:
        if found.what == "taken for":
            assert found.text.endswith(names[result.predicted[found.row]])
            assert result.predicted[found.row] != labels[found.row]
        if found.what in ("truth", "right"):
            assert found.text.endswith(names[labels[found.row]])
    assert len({found.row for found in maps}) <= 6


def test_captions_get_a_map_each(model, processor, caption_rows):
    maps = make_maps(model, processor, evaluate_dataset(model, processor, caption_rows))
    assert [found.text for found in maps] == [caption_rows[found.row]["captions"][0] for found in maps]
    assert len(maps) == 6


def test_tower_that_merges_its_patches_gets_no_maps(processor, class_rows, caplog):
    text = DistilBertConfig(vocab_size=20, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    vision = SwinConfig(image_size=8, patch_size=1, embed_dim=8, depths=[1, 4], num_heads=[1, 2], window_size=2)
    model = ClipScratchModel(ClipScratchConfig(text, vision, projection_dim=8, vision_pooling="mean"))
    result = evaluate_dataset(model, processor, class_rows)
    with caplog.at_level(logging.INFO):
        assert make_maps(model, processor, result) == ()
    assert "no maps are drawn: the vision tower has tokens" in caplog.text


def test_what_is_lit_is_brighter_in_grey_too():
    heat = np.zeros((8, 8), dtype=np.float32)
    heat[:, 4:] = 1
    grey = lit(np.full((8, 8, 3), 100, np.uint8), heat).mean(2)
    assert grey[:, -60:].min() > 1.5 * grey[:, :60].max()
