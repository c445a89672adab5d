"""Compare cosines of saved CLIPs of transformers with those of their own forward pass."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image

from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.evaluation.encode import encode_pixels, encode_texts, longest_text
from modeling_clipscratch.evaluation.evaluate_dataset import log_scale
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.evaluation.metrics.ranking import cosines

TEXTS = ["a picture of something bright red", "blue", "bright green"]
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SQUARE = {"height": 8, "width": 8}


def clip():
    text = {**TOWER, "vocab_size": 20, "max_position_embeddings": 12, "eos_token_id": 3}
    vision = {**TOWER, "image_size": 8, "patch_size": 4}
    model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    return (
        model,
        hf.CLIPProcessor,
        hf.CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size=SQUARE),
        {"padding": True},
    )


def siglip():
    text = {**TOWER, "vocab_size": 20, "max_position_embeddings": 12}
    model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config={**TOWER, "image_size": 8, "patch_size": 4}))
    full = {"padding": "max_length", "max_length": 12, "return_attention_mask": False}
    return model, hf.SiglipProcessor, hf.SiglipImageProcessorPil(size=SQUARE), full


def dual(text=None):
    text = text or hf.BertConfig(**TOWER, vocab_size=20, max_position_embeddings=12)
    vision = hf.ViTConfig(**TOWER, image_size=8, patch_size=4)
    parts = {"vision_config": vision.to_dict(), "text_config": text.to_dict()}  # transformers 5.9 takes dicts only
    config = hf.VisionTextDualEncoderConfig(**parts, projection_dim=8)
    model = hf.VisionTextDualEncoderModel(config)
    return model, hf.VisionTextDualEncoderProcessor, hf.ViTImageProcessorPil(size=SQUARE), {"padding": True}


@pytest.fixture
def save(tmp_path, processor):
    """Save a model with its processor, which has the tokenizer of the tests."""

    def write(model, processor_class, image_processor, _):
        model.save_pretrained(tmp_path)
        processor_class(image_processor, processor.tokenizer).save_pretrained(tmp_path)
        return tmp_path

    return write


def siglip2():
    text = {**TOWER, "vocab_size": 20, "max_position_embeddings": 12}
    vision = {**TOWER, "num_patches": 4, "patch_size": 4}
    return hf.Siglip2Model(hf.Siglip2Config(text_config=text, vision_config=vision)), *siglip()[1:]


def of_class(model_class, config_class, *, text=(), vision=(), **settings):
    """A function that makes a model of the class, as `clip` does."""

    def make():
        towers = {
            "text_config": {**TOWER, "vocab_size": 20, "max_position_embeddings": 14, "eos_token_id": 3, **dict(text)},
            "vision_config": {**TOWER, "image_size": 8, "patch_size": 4, **dict(vision)},
        }
        return model_class(config_class(**towers, projection_dim=8, **settings)), *clip()[1:]

    make.__name__ = config_class.model_type
    return make


GROUPS = {"depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 2], "patch_size": 2}
BLIP = {"text": {"projection_dim": 8, "encoder_hidden_size": 16}, "image_text_hidden_size": 8}
PEERS = [
    clip,
    siglip,
    dual,
    of_class(hf.AltCLIPModel, hf.AltCLIPConfig, text={"project_dim": 16, "pad_token_id": 0}),
    of_class(hf.ChineseCLIPModel, hf.ChineseCLIPConfig),
    of_class(hf.CLIPSegModel, hf.CLIPSegConfig),
    of_class(hf.GroupViTModel, hf.GroupViTConfig, vision=GROUPS, projection_intermediate_dim=16),
    of_class(hf.OwlViTModel, hf.OwlViTConfig),
    of_class(hf.Owlv2Model, hf.Owlv2Config),
    of_class(hf.MetaClip2Model, hf.MetaClip2Config),
    of_class(hf.BlipModel, hf.BlipConfig, **BLIP),
]


@pytest.mark.parametrize("make", PEERS, ids=lambda make: make.__name__)
def test_cosines_are_those_of_the_logits_of_the_model(make, save):
    torch.manual_seed(0)
    made = make()
    model, processor = load_model(save(*made), "cpu")
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 256, (11, 14, 3), dtype=np.uint8)) for _ in range(4)]
    with torch.no_grad():
        logits = made[0].eval()(**processor(text=TEXTS, images=images, return_tensors="pt", **made[3]))
    bias = made[0].logit_bias if make is siglip else 0
    expected = (logits.logits_per_image - bias) / made[0].logit_scale.exp()

    preprocess = Preprocess(processor.image_processor)
    pixels = np.stack([preprocess(image) for image in images])
    found = cosines(
        encode_pixels(model, pixels, preprocess.mean, preprocess.std),
        encode_texts(model, processor.tokenizer, TEXTS, batch_size=2),
    )
    # Pixels are rounded to bytes and texts batched differently: a few float32 roundings.
    assert torch.allclose(found, expected, atol=2e-6, rtol=0)
    assert log_scale(model) == pytest.approx(made[0].logit_scale.item())


def test_texts_of_siglip_2_are_in_lower_case(processor):
    class GemmaTokenizer:
        model_max_length, pad_token_id, unk_token_id, seen = 12, 0, None, []

        def __call__(self, texts, **options):
            self.seen.append(texts)
            return processor.tokenizer(texts, **options)

    encode_texts(siglip()[0], GemmaTokenizer(), ["A Bright Green"])
    assert GemmaTokenizer.seen[-1] == ["a bright green"]


def test_a_roberta_reads_no_more_tokens_than_it_has_positions(save):
    text = hf.RobertaConfig(**TOWER, vocab_size=20, max_position_embeddings=12, pad_token_id=1)
    model, processor = load_model(save(*dual(text)), "cpu")
    processor.tokenizer.model_max_length = 512
    assert longest_text(model, processor.tokenizer) == 10
    assert encode_texts(model, processor.tokenizer, [" ".join(30 * ["red"])]).shape == (1, 8)


def test_a_text_tower_that_does_not_pool_is_named(save):
    text = hf.DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=32, vocab_size=20, max_position_embeddings=12)
    with pytest.raises(ValueError, match="that does not embed images and texts as a CLIP does") as error:
        load_model(save(*dual(text)), "cpu")
    assert "\n" not in str(error.value)


AIMV2 = of_class(hf.Aimv2Model, hf.Aimv2Config)


@pytest.mark.parametrize(("make", "why"), [(siglip2, ""), (AIMV2, "embedding of a text depends on the other")])
def test_a_model_that_cannot_be_measured_is_refused_when_it_is_loaded(make, why, save):
    torch.manual_seed(0)
    sentence = f"type '{make.__name__}' that does not embed .*{why}.*; give a ClipScratch model or"
    with pytest.raises(ValueError, match=sentence):
        load_model(save(*make()), "cpu")


def test_adapters_that_are_not_merged_are_named(save):
    peft = pytest.importorskip("peft")
    model, *rest = clip()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), model)
    with pytest.raises(ValueError, match="lacks [0-9]+ weights of a CLIPModel .*; save the whole model, adapters"):
        load_model(save(model, *rest), "cpu")
