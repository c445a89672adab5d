"""Check `ClipScratchModel.from_towers`: its model, its processor and its errors."""

import copy
import logging
import re

import huggingface_hub
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModel,
    AutoProcessor,
    BertForMaskedLM,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    T5Config,
    VisionTextDualEncoderProcessor,
    ViTImageProcessorPil,
)

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.hub.towers_clipscratch import load_tower
from modeling_clipscratch.utils.errors import ClipScratchError


@pytest.fixture
def folder_of(tower_config, tmp_path):
    """Model type -> (folder of a saved random tower, the tower)."""

    def save(model_type, seed=3):
        torch.manual_seed(seed)
        tower = AutoModel.from_config(tower_config(model_type))
        tower.save_pretrained(tmp_path / model_type)
        return tmp_path / model_type, tower

    return save


@pytest.fixture
def clip_folder(tower_config, tmp_path):
    """Folder of a whole tiny CLIP, and the model."""
    torch.manual_seed(4)
    text = CLIPTextConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    vision = tower_config("clip_vision_model")
    clip = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8))
    clip.save_pretrained(tmp_path / "clip")
    return tmp_path / "clip", clip


def assert_same_weights(tower, source):
    weights, expected = dict(tower.named_parameters()), dict(source.named_parameters())
    assert weights and all(torch.equal(parameter, expected[name]) for name, parameter in weights.items())


def test_folders_give_their_weights_without_a_pooling_layer_that_is_not_used(folder_of, parts, batch, tmp_path):
    (text_folder, text), (vision_folder, vision) = folder_of("distilbert"), folder_of("vit")
    model, _ = ClipScratchModel.from_towers(str(text_folder), vision_folder, **parts, projection_dim=8)
    assert_same_weights(model.text_model, text)
    assert_same_weights(model.vision_model, vision)
    assert not any("pooler" in name for name, _ in model.vision_model.named_parameters())
    assert any("pooler" in name for name, _ in load_tower(vision_folder, "vision", "tower").named_parameters())
    model.eval().save_pretrained(tmp_path / "model")
    loaded = ClipScratchModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits_per_image, model(**batch).logits_per_image)


def test_configs_give_new_weights_from_the_seed(tower_config, parts):
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        towers = tower_config("bert"), tower_config("dinov2")
        models.append(ClipScratchModel.from_towers(*towers, **parts, projection_dim=8)[0])
    assert_same_weights(*models)


def test_modules_are_used_as_they_are(tower_config, parts):
    text, vision = AutoModel.from_config(tower_config("distilbert")), AutoModel.from_config(tower_config("dinov2"))
    model, _ = ClipScratchModel.from_towers(text, vision, **parts, projection_dim=8)
    assert model.text_model is text and model.vision_model is vision


def test_settings_reach_the_config_and_the_right_tower_is_frozen(folder_of, parts):
    model, _ = ClipScratchModel.from_towers(
        text=folder_of("bert")[0], vision=folder_of("dinov2")[0], **parts,
        text_pooling="cls+mean", vision_pooling="tower", freeze_text=False, freeze_vision=True, projection_dim=8,
    )  # fmt: skip
    assert model.text_projection.weight.shape == (8, 32) and model.visual_projection.weight.shape == (8, 16)
    assert all(parameter.requires_grad for parameter in model.text_model.parameters())
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())
    assert model.config.vision_config.model_type == "dinov2"


@pytest.mark.parametrize("side", ["text", "vision"])
def test_of_a_whole_clip_the_tower_of_that_side_is_loaded(clip_folder, side):
    folder, clip = clip_folder
    tower = load_tower(folder, side, "mean")
    assert_same_weights(tower, getattr(clip, f"{side}_model"))
    assert tower.config.model_type == {"text": "clip_text_model", "vision": "clip_vision_model"}[side]


def test_pretrained_weights_in_half_precision_are_loaded_as_float32(folder_of, tower_config, parts, tmp_path):
    tower = AutoModel.from_config(tower_config("bert")).to(torch.bfloat16)
    tower.save_pretrained(tmp_path / "half")
    model, _ = ClipScratchModel.from_towers(tmp_path / "half", folder_of("vit")[0], **parts, projection_dim=8)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


class Unknown(T5Config):
    model_type = "unknown_type"


@pytest.mark.parametrize(
    ("source", "settings", "sentence"),
    [
        ("nobody/no-such-tower-here", {}, "^text tower '.*' could not be loaded .*; give a folder with .*, correct"),
        ("/nowhere", {}, "^text tower '.*' could not be loaded .*; give a folder with .*, correct the id"),
        (Unknown(), {}, "model_type 'unknown_type' is not an encoder that AutoModel knows"),
        ("masked", {"text_pooling": "mean"}, "a BertForMaskedLM is not what AutoModel makes of its config, a BertMod"),
        # A ClipScratch folder names its weights `text_model.*`, which DistilBERT's loader does not look for.
        ("clipscratch", {}, "^text tower '.*' holds other weights than those of a distilbert"),
        ("clip", {"text_pooling": "cls"}, "^text_pooling 'cls': a clip_text_model .* reads from left to right"),
        ("clip", {"text_pooling": "cls+mean"}, "^text_pooling 'cls.mean': a clip_text_model .* reads from left"),
    ],
)
def test_a_tower_that_cannot_be_used_is_refused(
    tower_config, clip_folder, make_model, parts, tmp_path, monkeypatch, source, settings, sentence
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    make_model().save_pretrained(tmp_path / "clipscratch")
    folders = {"masked": BertForMaskedLM(tower_config("bert")), "clip": clip_folder[0]}
    text = folders.get(source, tmp_path / source) if isinstance(source, str) and "/" not in source else source
    with pytest.raises(ClipScratchError, match=sentence):
        ClipScratchModel.from_towers(text, tower_config("vit"), **parts, **settings)


@pytest.fixture
def whole_folders(folder_of, word_processor):
    """Folders of a text and a vision tower with tokenizer (left, padded, cut) and image processor; longest text 12."""
    (text, _), (vision, _) = folder_of("distilbert"), folder_of("vit")
    tokenizer = copy.deepcopy(word_processor.tokenizer)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    tokenizer.model_max_length = 512
    tokenizer.backend_tokenizer.enable_padding(length=20)
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.save_pretrained(text)
    ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(vision)
    return {"text": text, "vision": vision}


@pytest.mark.parametrize("source", ["folders", "names", "objects", "configs", "modules"])
def test_processor_of_the_towers_is_settled_and_saved_with_the_model(whole_folders, parts, source, tmp_path, batch):
    towers, own = dict(whole_folders), {}
    if source == "names":
        own = {"tokenizer": str(towers["text"]), "image_processor": towers["vision"]}
    elif source == "objects":
        own = parts
    elif source == "configs":  # they know where they were loaded from
        towers = {side: AutoModel.from_pretrained(folder).config for side, folder in towers.items()}
    elif source == "modules":
        towers = {side: AutoModel.from_pretrained(folder) for side, folder in towers.items()}
    model, processor = ClipScratchModel.from_towers(**towers, **own, projection_dim=8)
    assert type(processor) is VisionTextDualEncoderProcessor
    for part in (model.eval(), processor):
        part.save_pretrained(tmp_path / "saved")
    saved = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert all(str(tmp_path) not in file.read_text() for file in (tmp_path / "saved").glob("*.json"))
    for one in (processor, saved):
        assert one.tokenizer.model_max_length == 12 and one.tokenizer.padding_side == "right"
        texts = one(text=["a red square", "a"], padding=True, return_tensors="pt")
        assert texts["input_ids"].tolist() == [[2, 4, 8, 10, 3], [2, 4, 3, 0, 0]]
        assert set(texts) == {"input_ids", "attention_mask"}
        assert one.tokenizer("a " * 20, truncation=True)["input_ids"][:2] == [2, 4]
        images = one(images=[Image.new("LA", (9, 12)), Image.new("RGB", (8, 8))], return_tensors="pt")["pixel_values"]
        assert images.shape == (2, 3, 8, 8)
    assert model(**texts, pixel_values=images).logits_per_image.shape == (2, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tokenizer": None}, "^tokenizer '' could not be loaded; give a folder that has one"),
        ({"image_processor": None}, "^image processor '' could not be loaded .*; give a folder that has"),
        ({"tokenizer": "nowhere"}, "^tokenizer 'nowhere' could not be loaded; give a folder that has one"),
        ({"image_processor": "nowhere"}, "^image processor 'nowhere' could not be loaded .*; give a folder that has"),
        (
            {"image_processor": ViTImageProcessorPil(size={"shortest_edge": 8})},
            r"does not make one image .* of one shape .it makes .1, 3, 8, 16. and .1, 3, 16, 8.*; give size a height",
        ),
        ({"image_processor": ViTImageProcessorPil(size={"height": 9, "width": 9})}, r"image size \(9\*9\) doesn't"),
        ({"freeze": True}, "^freeze is none of the config's arguments: .*freeze_text, freeze_vision, "),
    ],
)  # fmt: skip
def test_a_processor_that_is_missing_or_does_not_fit_is_refused(tower_config, parts, monkeypatch, changes, sentence):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=sentence) as error:
        ClipScratchModel.from_towers(tower_config("distilbert"), tower_config("vit"), **{**parts, **changes})
    assert "\n" not in str(error.value)


def test_log_describes_the_origin_and_size_of_each_part(whole_folders, caplog):
    with caplog.at_level(logging.INFO, logger="modeling_clipscratch"):
        ClipScratchModel.from_towers(**whole_folders, unfreeze_text_layers=1, projection_dim=8)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("modeling_")]
    expected = [
        r"text tower \(distilbert, .*distilbert\): [\d,]+ parameters, frozen except for its last 1 layers",
        r"vision tower \(vit, .*vit\): [\d,]+ parameters",
        r"with the heads, [\d,]+ parameters are trained",
    ]
    assert all(re.fullmatch(*pair) for pair in zip(expected, lines, strict=True))
