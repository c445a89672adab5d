"""Folders, configs and modules of tiny towers go in; the model of `from_towers` and its account are checked."""

import re

import huggingface_hub
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, BertForMaskedLM, CLIPConfig, CLIPModel, CLIPTextConfig, T5Config

from modeling_clipscratch import ClipScratchModel


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


def test_folders_give_their_weights_and_the_account_names_every_one(folder_of):
    (text_folder, text), (vision_folder, vision) = folder_of("distilbert"), folder_of("vit")
    model, report = ClipScratchModel.from_towers(text=str(text_folder), vision=vision_folder, projection_dim=8)
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


def test_weights_that_the_folder_lacks_are_named_as_new(tower_config, tmp_path, folder_of):
    # A BERT for masked words has no pooling layer but a head.
    BertForMaskedLM(tower_config("bert")).save_pretrained(tmp_path / "masked")
    model, report = ClipScratchModel.from_towers(
        text=tmp_path / "masked", vision=folder_of("vit")[0], text_pooling="tower", projection_dim=8
    )
    part = report["text"]
    assert part["new"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert set(part["loaded"]) | set(part["new"]) == names(model.text_model)
    assert not set(part["loaded"]) & set(part["new"])
    assert part["unused"] and all(name.startswith("cls.predictions.") for name in part["unused"])
    assert len(part["loaded"]) + len(part["unused"]) == len(saved_names(tmp_path / "masked"))


def test_configs_give_new_weights_from_the_seed(tower_config):
    towers = {"text": tower_config("bert"), "vision": tower_config("dinov2")}
    torch.manual_seed(0)
    model, report = ClipScratchModel.from_towers(**towers, projection_dim=8)
    torch.manual_seed(0)
    again, _ = ClipScratchModel.from_towers(**towers, projection_dim=8)
    assert_same_weights(model, again)
    for side, tower in (("text", model.text_model), ("vision", model.vision_model)):
        assert report[side]["loaded"] == [] == report[side]["unused"]
        assert set(report[side]["new"]) == names(tower)
    assert report["text"]["source"] == "bert (from scratch)"


def test_modules_are_taken_as_they_are(tower_config):
    text, vision = AutoModel.from_config(tower_config("distilbert")), AutoModel.from_config(tower_config("dinov2"))
    model, report = ClipScratchModel.from_towers(text=text, vision=vision, projection_dim=8)
    assert model.text_model is text and model.vision_model is vision
    assert set(report["vision"]["loaded"]) == names(vision) and report["vision"]["new"] == []
    assert report["text"]["source"] == "DistilBertModel (as given)"


def test_settings_reach_the_config_and_the_right_tower_is_frozen(folder_of):
    model, _ = ClipScratchModel.from_towers(
        text=folder_of("bert")[0], vision=folder_of("dinov2")[0],
        text_pooling="cls+mean", vision_pooling="tower", freeze_text=False, freeze_vision=True, projection_dim=8,
    )  # fmt: skip
    assert model.text_projection.weight.shape == (8, 32) and model.visual_projection.weight.shape == (8, 16)
    assert all(parameter.requires_grad for parameter in model.text_model.parameters())
    assert not any(parameter.requires_grad for parameter in model.vision_model.parameters())
    assert model.config.vision_config.model_type == "dinov2"


def test_model_from_towers_is_saved_and_loaded_whole(folder_of, batch, tmp_path):
    model, _ = ClipScratchModel.from_towers(
        text=folder_of("distilbert")[0], vision=folder_of("vit")[0], projection_dim=8
    )
    model.eval().save_pretrained(tmp_path / "model")
    loaded = ClipScratchModel.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits_per_image, model(**batch).logits_per_image)


@pytest.mark.parametrize("side", ["text", "vision"])
def test_of_a_whole_clip_the_tower_of_that_side_is_taken(clip_folder, tower_config, side):
    folder, clip = clip_folder
    sources = {"text": tower_config("distilbert"), "vision": tower_config("vit"), side: folder}
    model, report = ClipScratchModel.from_towers(**sources, text_pooling="mean", projection_dim=8)
    tower, part = getattr(model, f"{side}_model"), report[side]
    assert_same_weights(tower, getattr(clip, f"{side}_model"))
    assert part["model_type"] == {"text": "clip_text_model", "vision": "clip_vision_model"}[side]
    assert set(part["loaded"]) == names(tower) and part["new"] == []
    # Every weight of the file was loaded or is named as left aside: the other side, projections, temperature.
    assert len(part["loaded"]) + len(part["unused"]) == len(saved_names(folder))
    assert "logit_scale" in part["unused"]


@pytest.mark.parametrize("pooling", ["cls", "cls+mean"])
def test_the_first_token_of_a_tower_that_reads_from_left_to_right_is_refused(clip_folder, tower_config, pooling):
    with pytest.raises(ValueError, match=f"^text_pooling '{re.escape(pooling)}': a clip_text_model reads from left"):
        ClipScratchModel.from_towers(text=clip_folder[0], vision=tower_config("vit"), text_pooling=pooling)
    ClipScratchModel.from_towers(text=clip_folder[0], vision=tower_config("vit"), text_pooling="tower")


def test_pretrained_weights_in_half_precision_are_taken_as_float32(folder_of, tower_config, tmp_path):
    tower = AutoModel.from_config(tower_config("bert")).to(torch.bfloat16)
    tower.save_pretrained(tmp_path / "half")
    model, _ = ClipScratchModel.from_towers(text=tmp_path / "half", vision=folder_of("vit")[0], projection_dim=8)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_tower_that_cannot_be_found_is_named_with_the_remedy(tower_config, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for source in ("nobody/no-such-tower-here", str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match="^text tower '.*' could not be loaded: .*; give a folder, mend the id"):
            ClipScratchModel.from_towers(text=source, vision=tower_config("vit"))


def test_type_that_is_no_encoder_of_auto_model_is_refused(tower_config):
    class Unknown(T5Config):
        model_type = "unheard_of"

    with pytest.raises(ValueError, match="model_type 'unheard_of' is not an encoder that AutoModel knows"):
        ClipScratchModel.from_towers(text=Unknown(), vision=tower_config("vit"))


def test_a_module_that_its_config_does_not_make_is_refused(tower_config):
    other = BertForMaskedLM(tower_config("bert"))
    with pytest.raises(ValueError, match="a BertForMaskedLM is not what AutoModel makes of its config, a BertModel"):
        ClipScratchModel.from_towers(text=other, vision=tower_config("vit"), text_pooling="mean")


def test_folder_without_a_single_weight_of_the_tower_is_refused(make_model, tower_config, tmp_path):
    # A ClipScratch folder names its weights `text_model.*`, which DistilBERT's loader does not look for.
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text tower"):
        ClipScratchModel.from_towers(text=tmp_path, vision=tower_config("vit"), projection_dim=8)
