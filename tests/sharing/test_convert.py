"""Convert models of other formats, and compare the folders with the outputs of the sources."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.sharing.convert_model import convert

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def clip(tower_config):
    text = CLIPTextConfig(**SIZES, vocab_size=12, max_position_embeddings=12, eos_token_id=3, projection_dim=24)
    vision = tower_config("clip_vision_model").to_dict()
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=24))


def dual(tower_config):
    vision, text = (tower_config(kind).to_dict() for kind in ("vit", "bert"))
    config = VisionTextDualEncoderConfig(vision_config=vision, text_config=text, projection_dim=24)
    return VisionTextDualEncoderModel(config)


@pytest.mark.parametrize("make", [clip, dual])
def test_features_equal_those_of_the_source(make, tower_config, word_processor, batch, tmp_path):
    torch.manual_seed(0)
    source = make(tower_config).eval()
    with torch.no_grad():
        source.logit_scale.fill_(4.7)  # above ln 100, where ClipScratch models usually stop
    source.save_pretrained(tmp_path / "source")
    word_processor.save_pretrained(tmp_path / "source")
    ours = AutoModel.from_pretrained(convert(str(tmp_path / "source"), tmp_path / "made")).eval()
    assert isinstance(ours, ClipScratchModel) and ours.config.loss == "diagonal"
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected, outputs = source(**batch), ours(**batch)
        features = [model.get_text_features(**texts).pooler_output for model in (source, ours)]
        assert torch.equal(*features)
        pixels = {"pixel_values": batch["pixel_values"]}
        features = [model.get_image_features(**pixels).pooler_output for model in (source, ours)]
        assert torch.equal(*features)
    # The sources divide by the length, ours call torch's `normalize`: the last bit may differ.
    torch.testing.assert_close(outputs.text_embeds, expected.text_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs.image_embeds, expected.image_embeds, rtol=0, atol=1e-6)
    torch.testing.assert_close(outputs.logits_per_image, expected.logits_per_image, rtol=0, atol=1e-4)  # of up to 110
    encoded = [AutoProcessor.from_pretrained(tmp_path / name)(text="a red square") for name in ("source", "made")]
    assert encoded[0]["input_ids"] == encoded[1]["input_ids"]
    assert not list(tmp_path.glob(".made*"))


def test_other_types_and_full_folders_are_refused(word_processor, tmp_path):
    vision = {**SIZES, "image_size": 8, "patch_size": 4}
    text = {**SIZES, "vocab_size": 12, "max_position_embeddings": 12, "projection_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "siglip")
    word_processor.save_pretrained(tmp_path / "siglip")
    with pytest.raises(ValueError, match="is a model of type 'siglip'; convert takes clip, vision-text"):
        convert(str(tmp_path / "siglip"), tmp_path / "made")
    with pytest.raises(ValueError, match="siglip exists already; delete it, or choose another name"):
        convert(str(tmp_path / "siglip"), tmp_path / "siglip")
