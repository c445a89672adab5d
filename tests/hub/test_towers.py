"""Check `ClipScratchModel.from_towers`: its model, its processor, and the account of the weights."""

import copy
import logging
import re

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors import safe_open
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


def saved_names(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return set(file.keys())


def names(tower):
    return {name for name, _ in tower.named_parameters()}


def assert_same_weights(tower, source):
    found, expected = dict(tower.named_parameters()), dict(source.named_parameters())
    assert found and all(torch.equal(parameter, expected[name]) for name, parameter in found.items())


def test_folders_give_their_weights_and_the_account_names_every_one(folder_of, parts):
    (text_folder, text), (vision_folder, vision) = folder_of("distilbert"), folder_of("vit")
    report = {
        "text": load_tower(text_folder, "text", "cls")[1],
        "vision": load_tower(vision_folder, "vision", "cls")[1],
    }
    model, _ = ClipScratchModel.from_towers(str(text_folder), vision_folder, **parts, projection_dim=8)
    assert_same_weights(model.text_model, text)
    # The towers were saved with a pooling layer, which `cls` does not use, so it is left aside.
    assert "pooler" not in dict(model.vision_model.named_children()) or model.vision_model.pooler is None
    assert_same_weights(model.vision_model, vision)
    for side, tower, folder in (("text", model.text_model, text_folder), ("vision", model.vision_model, vision_folder)):
        part = report[side]
        assert set(part["loaded"]) == names(tower) and part["new"] == []
        assert len(part["loaded"]) + len(part["unused"]) == len(saved_names(folder))
        assert part["parameters"] == sum(parameter.numel() for parameter in tower.parameters())
        assert part["source"] == str(folder)
    assert report["text"]["unused"] == []
    assert report["vision"]["unused"] == ["pooler.dense.bias", "pooler.dense.weight"]


def test_weights_that_the_folder_lacks_are_named_as_new(tower_config, tmp_path):
    # A BERT for masked words has no pooling layer but a head.
    BertForMaskedLM(tower_config("bert")).save_pretrained(tmp_path / "masked")
    tower, part = load_tower(tmp_path / "masked", "text", "tower")
    assert part["new"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert set(part["loaded"]) | set(part["new"]) == names(tower)
    assert not set(part["loaded"]) & set(part["new"])
    assert part["unused"] and all(name.startswith("cls.predictions.") for name in part["unused"])
    assert len(part["loaded"]) + len(part["unused"]) == len(saved_names(tmp_path / "masked"))


def test_configs_give_new_weights_from_the_seed(tower_config, parts):
    towers = {"text": tower_config("bert"), "vision": tower_config("dinov2")}
    torch.manual_seed(0)
    model, _ = ClipScratchModel.from_towers(**towers, **parts, projection_dim=8)
    torch.manual_seed(0)
    again, _ = ClipScratchModel.from_towers(**towers, **parts, projection_dim=8)
    assert_same_weights(model, again)
    for side, config in towers.items():
        tower, part = load_tower(config, side, "cls")
        assert part["loaded"] == [] == part["unused"] and set(part["new"]) == names(tower)
        assert part["source"] == f"{config.model_type} (from scratch)"


def test_modules_are_taken_as_they_are(tower_config, parts):
    text, vision = AutoModel.from_config(tower_config("distilbert")), AutoModel.from_config(tower_config("dinov2"))
    model, _ = ClipScratchModel.from_towers(text, vision, **parts, projection_dim=8)
    assert model.text_model is text and model.vision_model is vision
    part = load_tower(vision, "vision", "cls")[1]
    assert set(part["loaded"]) == names(vision) and part["new"] == []
    assert part["source"] == "Dinov2Model (as given)"


def test_settings_reach_the_config_and_the_right_tower_is_frozen(folder_of, parts):
    model, _ = ClipScratchModel.from_towers(
        text=folder_of("bert")[0], vision=folder_of("dinov2")[0], **parts,
        text_pooling="cls+mean", vision_pooling="tower", freeze_text=False, freeze_vision=True, projection_dim=8,
    )  # fmt: skip
    assert model.text_projection.weight.shape == (8, 32) and model.visual_projection.weight.shape == (8, 16)
    assert all(parameter.requires_grad for parameter in model.text_model.parameters())
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())
    assert model.config.vision_config.model_type == "dinov2"


def test_model_from_towers_is_saved_and_loaded_whole(folder_of, parts, batch, tmp_path):
    model, _ = ClipScratchModel.from_towers(folder_of("distilbert")[0], folder_of("vit")[0], **parts, projection_dim=8)
    model.eval().save_pretrained(tmp_path / "model")
    loaded = ClipScratchModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits_per_image, model(**batch).logits_per_image)


@pytest.mark.parametrize("side", ["text", "vision"])
def test_of_a_whole_clip_the_tower_of_that_side_is_taken(clip_folder, side):
    folder, clip = clip_folder
    tower, part = load_tower(folder, side, "mean")
    assert_same_weights(tower, getattr(clip, f"{side}_model"))
    assert part["model_type"] == {"text": "clip_text_model", "vision": "clip_vision_model"}[side]
    assert set(part["loaded"]) == names(tower) and part["new"] == []
    # Every weight of the file was loaded or is named as left aside: the other side, projections, temperature.
    assert len(part["loaded"]) + len(part["unused"]) == len(saved_names(folder))
    assert "logit_scale" in part["unused"]


@pytest.mark.parametrize("pooling", ["cls", "cls+mean"])
def test_the_first_token_of_a_tower_that_reads_from_left_to_right_is_refused(clip_folder, tower_config, parts, pooling):
    towers = {"text": clip_folder[0], "vision": tower_config("vit"), **parts}
    with pytest.raises(ValueError, match=f"^text_pooling '{re.escape(pooling)}': a clip_text_model reads from left"):
        ClipScratchModel.from_towers(**towers, text_pooling=pooling)
    ClipScratchModel.from_towers(**towers, text_pooling="tower")


def test_pretrained_weights_in_half_precision_are_taken_as_float32(folder_of, tower_config, parts, tmp_path):
    tower = AutoModel.from_config(tower_config("bert")).to(torch.bfloat16)
    tower.save_pretrained(tmp_path / "half")
    model, _ = ClipScratchModel.from_towers(tmp_path / "half", folder_of("vit")[0], **parts, projection_dim=8)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_tower_that_cannot_be_found_is_named_with_the_remedy(tower_config, parts, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for source in ("nobody/no-such-tower-here", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="^text tower '.*' could not be loaded: .*; give a folder, mend the id"):
            ClipScratchModel.from_towers(source, tower_config("vit"), **parts)


def test_type_that_is_no_encoder_of_auto_model_is_refused(tower_config, parts):
    class Unknown(T5Config):
        model_type = "unheard_of"

    with pytest.raises(ValueError, match="model_type 'unheard_of' is not an encoder that AutoModel knows"):
        ClipScratchModel.from_towers(Unknown(), tower_config("vit"), **parts)


def test_a_module_that_its_config_does_not_make_is_refused(tower_config, parts):
    other = BertForMaskedLM(tower_config("bert"))
    with pytest.raises(ValueError, match="a BertForMaskedLM is not what AutoModel makes of its config, a BertModel"):
        ClipScratchModel.from_towers(other, tower_config("vit"), **parts, text_pooling="mean")


def test_folder_without_a_single_weight_of_the_tower_is_refused(make_model, tower_config, parts, tmp_path):
    # A ClipScratch folder names its weights `text_model.*`, which DistilBERT's loader does not look for.
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text tower"):
        ClipScratchModel.from_towers(tmp_path, tower_config("vit"), **parts, projection_dim=8)


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


@pytest.mark.parametrize("given", ["found", "names", "objects", "configs", "modules"])
def test_processor_of_the_towers_is_settled_and_saved_with_the_model(whole_folders, parts, given, tmp_path, batch):
    towers, own = dict(whole_folders), {}
    if given == "names":
        own = {"tokenizer": str(towers["text"]), "image_processor": towers["vision"]}
    elif given == "objects":
        own = parts
    elif given == "configs":  # they know where they were loaded from
        towers = {side: AutoModel.from_pretrained(folder).config for side, folder in towers.items()}
    elif given == "modules":
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
        ({"tokenizer": None}, "^tokenizer is missing: the text tower was made from a config and brings no tokenizer"),
        ({"image_processor": None}, "^image_processor is missing: the vision tower .* brings no image processor; g"),
        ({"tokenizer": "nowhere"}, "^tokenizer 'nowhere' could not be loaded; give a folder that has one"),
        ({"image_processor": "nowhere"}, "^image processor 'nowhere' could not be loaded; give a folder that has"),
        (
            {"image_processor": ViTImageProcessorPil(size={"shortest_edge": 8})},
            r"gives images of differing shapes, \(8, 16\) and \(16, 8\) for one, and a batch needs one sh",
        ),
        ({"image_processor": ViTImageProcessorPil(size={"height": 9, "width": 9})}, r"image size \(9\*9\) doesn't"),
        ({"freeze": True}, "^freeze is not an argument of from_towers; choose from freeze_text, freeze_vision, "),
    ],
)  # fmt: skip
def test_a_processor_that_is_missing_or_does_not_fit_is_refused(tower_config, parts, monkeypatch, changes, sentence):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=sentence) as error:
        ClipScratchModel.from_towers(tower_config("distilbert"), tower_config("vit"), **{**parts, **changes})
    assert "\n" not in str(error.value)


def test_log_says_where_the_weights_came_from(whole_folders, caplog):
    with caplog.at_level(logging.INFO, logger="modeling_clipscratch"):
        ClipScratchModel.from_towers(**whole_folders, unfreeze_text_layers=1, projection_dim=8)
    text, vision, heads = (record.getMessage() for record in caplog.records if record.name.startswith("modeling_"))
    own = r"text tower: .*/distilbert, [\d,]+ parameters, frozen but for its last 1 layers; \d+ weights loaded, 0 new"
    assert re.fullmatch(own, text)
    assert re.fullmatch(r"vision tower: .*/vit, .* 0 new, 2 of the source left aside \(pooler.dense.bias, .*\)", vision)
    assert heads.startswith("heads: 256 new parameters; in all ")
