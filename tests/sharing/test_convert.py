"""Convert models of other formats, and compare the folders with the outputs of the sources."""

import math

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import layer_norm, linear
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    DistilBertModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTModel,
)

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.sharing.convert_model import convert

TOWERS = {"text_model": "none", "vision_model": "none"}
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
    ours = AutoModel.from_pretrained(convert(str(tmp_path / "source"), tmp_path / "made", **TOWERS)).eval()
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


def tutorial_weights(text, vision):
    """State dict as the tutorial saves it, with a projection from 16 to 24 dimensions."""
    weights = {"loss_fn.temperature": torch.tensor(-1.5)}
    for encoder, tower in (("text_encoder", text), ("image_encoder", vision)):
        weights |= {f"{encoder}.model.{name}": value for name, value in tower.state_dict().items()}
        weights |= {f"{encoder}.projection.weight": torch.randn(24, 16)}
        names = ("projection.bias", "layer_norm.weight", "layer_norm.bias")
        weights |= {f"{encoder}.{name}": torch.randn(24) for name in names}
    return weights


@pytest.fixture
def tutorial(tower_config, word_processor, tmp_path):
    """(weights, the two towers, arguments that name their folders)."""
    torch.manual_seed(0)
    text, vision = DistilBertModel(tower_config("distilbert")).eval(), ViTModel(tower_config("vit")).eval()
    for name, tower in (("text", text), ("vision", vision)):
        tower.save_pretrained(tmp_path / name)
        word_processor.save_pretrained(tmp_path / name)
    towers = {"text_model": str(tmp_path / "text"), "vision_model": str(tmp_path / "vision")}
    return tutorial_weights(text, vision), text, vision, towers


def test_features_equal_those_of_the_tutorial_s_model(tutorial, batch, tmp_path):
    weights, text, vision, towers = tutorial
    torch.save(weights, tmp_path / "clip.pt")
    ours, processor = load_model(convert(str(tmp_path / "clip.pt"), tmp_path / "made", **towers), "cpu")

    def head(encoder, features):
        own = {name.removeprefix(f"{encoder}."): value for name, value in weights.items() if name.startswith(encoder)}
        projected = linear(features, own["projection.weight"], own["projection.bias"])
        return layer_norm(projected, (24,), own["layer_norm.weight"], own["layer_norm.bias"])

    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        expected = head("text_encoder", text(**texts).last_hidden_state[:, 0])
        assert torch.equal(ours.get_text_features(**texts).pooler_output, expected)
        expected = head("image_encoder", vision(batch["pixel_values"]).last_hidden_state[:, 0])
        assert torch.equal(ours.get_image_features(batch["pixel_values"]).pooler_output, expected)
    assert ours.logit_scale.item() == pytest.approx(-1.5 + math.log(24))
    assert ours.config.freeze_text and ours.config.freeze_vision
    assert processor(text="a red square", images=Image.new("LA", (9, 9)))["input_ids"]


def test_a_file_without_temperature_and_with_older_names_is_read(tutorial, batch, tmp_path):
    weights, text, vision, towers = tutorial
    torch.save(weights, tmp_path / "new.pt")
    del weights["loss_fn.temperature"]
    vision.save_pretrained(tmp_path / "old")  # under the names of a ViT before transformers 5
    old = load_file(tmp_path / "old" / "model.safetensors")
    assert not set(old) <= set(vision.state_dict())
    weights = {name: value for name, value in weights.items() if not name.startswith("image_encoder.model.")}
    torch.save(weights | {f"image_encoder.model.{name}": value for name, value in old.items()}, tmp_path / "old.pt")
    models = [
        ClipScratchModel.from_pretrained(convert(str(tmp_path / f"{name}.pt"), tmp_path / f"made-{name}", **towers))
        for name in ("new", "old")
    ]
    assert models[1].logit_scale.item() == pytest.approx(math.log(24 / 7))
    with torch.no_grad():
        embeds = [model.eval()(**batch) for model in models]
    assert torch.equal(embeds[0].image_embeds, embeds[1].image_embeds)
    assert torch.equal(embeds[0].text_embeds, embeds[1].text_embeds)


class Foreign:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"visual.proj": torch.ones(2)}, "does not hold the tutorial's model .*; expected are"),
        (lambda w: {**w, "more": Foreign()}, "is not a file of weights that can be read without running code"),
        (
            lambda w: {n: v for n, v in w.items() if n != "image_encoder.layer_norm.bias"},
            r"\(image_encoder.layer_norm.bias is missing\); expected are text_encoder and image_encoder",
        ),
        (
            lambda w: {n: v for n, v in w.items() if "transformer.layer.1." not in n},
            r"text tower does not fit the config of --text_model, a distilbert \(16 weights are missing",
        ),
    ],
)
def test_unreadable_files_are_named(tutorial, tmp_path, change, message, capsys):
    weights, _, _, towers = tutorial
    torch.save(change(weights), tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=message):
        convert(str(tmp_path / "clip.pt"), tmp_path / "made", **towers)
    assert not (tmp_path / "made").exists() and "it ran" not in capsys.readouterr().out


def test_missing_towers_other_types_and_full_folders_are_refused(tutorial, word_processor, tmp_path):
    weights, _, _, towers = tutorial
    torch.save(weights, tmp_path / "clip.pt")
    with pytest.raises(ValueError, match="nowhere"):
        convert(str(tmp_path / "clip.pt"), tmp_path / "made", **{**towers, "text_model": str(tmp_path / "nowhere")})
    vision = {**SIZES, "image_size": 8, "patch_size": 4}
    text = {**SIZES, "vocab_size": 12, "max_position_embeddings": 12, "projection_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "siglip")
    word_processor.save_pretrained(tmp_path / "siglip")
    with pytest.raises(ValueError, match="is a model of type 'siglip'; convert takes clip, vision-text"):
        convert(str(tmp_path / "siglip"), tmp_path / "made", **TOWERS)
    with pytest.raises(ValueError, match="siglip exists already; delete it, or choose another name"):
        convert(str(tmp_path / "siglip"), tmp_path / "siglip", **TOWERS)
