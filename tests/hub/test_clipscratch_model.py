"""Check pooling, heads, freezing, saving and the output of `ClipScratchModel` on tiny random towers."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from modeling_clipscratch.hub.losses_clipscratch import contrastive_loss
from modeling_clipscratch.training.loss.global_batch import _kept_bytes, enable_checkpointing

TEXT, VISION = ("distilbert", "bert"), ("vit", "clip_vision_model", "dinov2")
POOLINGS = ("cls", "mean", "cls+mean", "tower")
# One float32 rounding or two of numbers about 1, in sums of a few terms.
CLOSE = {"atol": 1e-6, "rtol": 1e-5}


def pooled_by_loop(output, attention_mask, pooling):
    tokens, features = output.last_hidden_state.numpy(), []
    for row in range(len(tokens)):
        read = [t for t in range(tokens.shape[1]) if attention_mask is None or attention_mask[row, t] == 1]
        mean = sum(tokens[row, t] for t in read) / len(read)
        features.append(
            {"cls": tokens[row, 0], "mean": mean, "cls+mean": np.concatenate([tokens[row, 0], mean])}[pooling]
        )
    return torch.from_numpy(np.stack(features))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize(("side", "kind"), [*(("text", kind) for kind in TEXT), *(("vision", kind) for kind in VISION)])
def test_every_pooling_is_what_its_name_says(make_model, batch, side, kind, pooling):
    model = make_model(**{side: kind, f"{side}_pooling": pooling})
    if side == "text":
        mask, features = batch["attention_mask"], model.text_tower_features
        inputs = (batch["input_ids"], mask)
    else:
        mask, features, inputs = None, model.vision_tower_features, (batch["pixel_values"],)
    if (kind, pooling) == ("distilbert", "tower"):
        with pytest.raises(ValueError, match="this tower has no pooled output; choose cls, mean or cls[+]mean"):
            features(*inputs)
        return
    with torch.no_grad():
        pooled = features(*inputs)[1]
        tower = getattr(model, f"{side}_model")(*inputs)  # apart from the model around it
    expected = tower.pooler_output if pooling == "tower" else pooled_by_loop(tower, mask, pooling)
    assert pooled.shape == (4, getattr(model.config, f"{side}_feature_dim"))
    assert torch.allclose(pooled, expected, **CLOSE)


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_padding_to_any_length_leaves_the_text_embedding(make_model, batch, pooling):
    model = make_model(text_pooling=pooling)
    longer = {name: nn.functional.pad(batch[name], (0, 4)) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        short = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
        long = model.get_text_features(**longer).pooler_output
    assert torch.allclose(short, long, **CLOSE)


def test_state_norm_l2_makes_states_unit_length_before_the_projection(make_model, batch):
    plain = make_model(text_pooling="cls+mean")
    normed = make_model(text_pooling="cls+mean", text_state_norm="l2", vision_state_norm="l2")
    normed.load_state_dict(plain.state_dict())
    with torch.no_grad():
        before, after = (
            model.text_tower_features(batch["input_ids"], batch["attention_mask"])[1] for model in (plain, normed)
        )
        assert torch.allclose(after, before / before.norm(dim=-1, keepdim=True), **CLOSE)
        assert (before.norm(dim=-1) > 2).all()  # the norm had something to do
        features = normed.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
        assert torch.allclose(features, after @ normed.text_projection.weight.t(), **CLOSE)
        lengths = normed.vision_tower_features(batch["pixel_values"])[1].norm(dim=-1)
    assert torch.allclose(lengths, torch.ones(4), **CLOSE)


def test_heads_are_the_layers_that_their_names_say(make_model, batch):
    def head(projection):
        model = make_model(projection=projection)
        with torch.no_grad():
            for number, (name, parameter) in enumerate(model.visual_projection.named_parameters()):
                if name.endswith("bias"):
                    parameter.copy_(torch.linspace(-1, 1, 8) + number)
            features = model.vision_tower_features(batch["pixel_values"])[1].double()
            projected = model.get_image_features(batch["pixel_values"]).pooler_output.double()
        return features, [p.detach().double() for p in model.visual_projection.parameters()], projected

    features, (matrix,), projected = head("linear")
    assert torch.allclose(projected, features @ matrix.t(), **CLOSE)
    features, (first, first_bias, second, second_bias), projected = head("mlp")
    hidden = features @ first.t() + first_bias
    hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2  # GELU
    assert torch.allclose(projected, hidden @ second.t() + second_bias, **CLOSE)
    features, (matrix, bias, norm, norm_bias), projected = head("linear+norm")
    hidden = features @ matrix.t() + bias
    hidden = hidden - hidden.mean(-1, keepdim=True)
    hidden = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(projected, hidden * norm + norm_bias, **CLOSE)


# The output


@pytest.mark.parametrize("loss", ["softmax", "sigmoid", "diagonal"])
def test_output_holds_unit_embeddings_their_scaled_cosines_and_the_loss(make_model, batch, loss):
    model = make_model(loss=loss, logit_scale_init_value=1.5)
    group = torch.tensor([0, 1, 0, 2])
    with torch.no_grad():
        output = model(**batch, group=group, return_loss=True)
    images, texts = output.image_embeds.double(), output.text_embeds.double()
    assert torch.allclose(images.norm(dim=-1), torch.ones(4).double(), atol=1e-6)
    expected = math.exp(1.5) * images @ texts.t() - (10 if loss == "sigmoid" else 0)
    assert torch.allclose(output.logits_per_image.double(), expected, atol=1e-5)  # float32 numbers about 10
    assert torch.equal(output.logits_per_text, output.logits_per_image.t())
    assert output.loss == contrastive_loss(output.logits_per_image, loss=loss, group=group)
    features = output.text_model_output.pooler_output.double()
    assert torch.allclose(features / features.norm(dim=-1, keepdim=True), texts, atol=1e-6)
    assert output.vision_model_output.last_hidden_state.shape == (4, 5, 16)


def test_loss_comes_with_return_loss_only_and_a_tuple_without_return_dict(make_model, batch):
    model = make_model()
    texts = {name: batch[name][:3] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert model(**batch).loss is None
        named, plain = model(**batch, return_loss=True), model(**batch, return_loss=True, return_dict=False)
        assert model(pixel_values=batch["pixel_values"], **texts).logits_per_image.shape == (4, 3)
        with pytest.raises(ValueError, match="4 images and 3 texts"):
            model(pixel_values=batch["pixel_values"], **texts, return_loss=True)
    assert isinstance(plain, tuple) and torch.equal(plain[0], named.loss)
    assert torch.equal(plain[1], named.logits_per_image)


@pytest.mark.parametrize("settings", [{}, {"text_pooling": "cls+mean", "text_state_norm": "l2", "projection": "mlp"}])
def test_cached_features_give_the_same_outputs_to_the_bit(make_model, batch, settings):
    model = make_model(freeze_vision=True, **settings)
    with torch.no_grad():
        texts = model.text_tower_features(batch["input_ids"], batch["attention_mask"])[1]
        images = model.vision_tower_features(batch["pixel_values"])[1]
        live = model(**batch, return_loss=True)
        for inputs in (
            {"text_features": texts, "image_features": images},
            {"text_features": texts, "pixel_values": batch["pixel_values"]},
            {**batch, "pixel_values": None, "image_features": images},
        ):
            cached = model(**inputs, return_loss=True)
            for name in ("loss", "logits_per_image", "text_embeds", "image_embeds"):
                assert torch.equal(cached[name], live[name]), name


def test_loss_and_embeddings_are_float32_under_bf16_autocast(make_model, batch):
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.get_image_features(batch["pixel_values"]).pooler_output.dtype == torch.bfloat16
        output = model(**batch, return_loss=True)
    assert {output[name].dtype for name in ("loss", "logits_per_image", "text_embeds", "image_embeds")} == {
        torch.float32
    }
    cosines = output.image_embeds.double() @ output.text_embeds.double().t()
    # A bf16 product would be off by 2 ** -9 of the whole, some 0.02; float32 rounds numbers about 14.
    assert torch.allclose(output.logits_per_image.double(), math.exp(2.6592) * cosines, atol=2e-5)
    logits = output.logits_per_image.detach().double()
    assert output.loss.item() == pytest.approx(contrastive_loss(logits, loss="softmax").item(), abs=1e-5)


# The temperature


def test_logit_scale_is_used_clamped_and_brought_back_on_demand(make_model, batch):
    model = make_model(logit_scale_max=3.0, logit_scale_init_value=2.0)
    with torch.no_grad():
        model.logit_scale.fill_(7.0)
        output = model(**batch)
        cosines = output.image_embeds @ output.text_embeds.t()
    assert torch.allclose(output.logits_per_image, math.exp(3.0) * cosines, atol=1e-4)  # float32 numbers up to 20
    assert model.clamped_logit_scale().item() == 3.0 and model.logit_scale.item() == 7.0
    model.clamp_logit_scale_()
    assert model.logit_scale.item() == 3.0 and model.logit_scale.requires_grad
    with torch.no_grad():
        model.logit_scale.fill_(-1.0)
    model.clamp_logit_scale_()
    assert model.logit_scale.item() == -1.0


# Freezing


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def take_steps(model, batch, steps=3):
    """A few real steps of AdamW, with decay, over everything that the model hands out."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch, return_loss=True).loss.backward()
        optimizer.step()
        model.clamp_logit_scale_()


@pytest.mark.parametrize(("frozen", "trained"), [("text", "vision"), ("vision", "text")])
def test_frozen_tower_is_bitwise_unchanged_by_optimizer_steps(make_model, batch, frozen, trained):
    model = make_model(**{f"freeze_{frozen}": True, f"freeze_{trained}": False})
    before = bits(model)
    take_steps(model, batch)
    for name, tensor in bits(model).items():
        if name.startswith(f"{frozen}_model") or "weight" in name:
            assert torch.equal(tensor, before[name]) == name.startswith(f"{frozen}_model"), name


def test_frozen_tower_has_no_gradient_and_stays_in_eval_without_dropout(make_model, batch):
    model = make_model(text_changes={"dropout": 0.5, "attention_dropout": 0.5}).train()
    assert not any(parameter.requires_grad for parameter in model.text_model.parameters())
    assert not any(module.training for module in model.text_model.modules())
    assert model.training and all(module.training for module in model.vision_model.modules())
    model(**batch, return_loss=True).loss.backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {f"text_model.{name}" for name, _ in model.text_model.named_parameters()}
    inputs = batch["input_ids"], batch["attention_mask"]
    assert torch.equal(model.text_tower_features(*inputs)[1], model.text_tower_features(*inputs)[1])
    model.eval()
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("vision", ["vit", "clip_vision_model", "dinov2"])
def test_last_layers_of_a_frozen_tower_learn_and_the_rest_keeps_its_bits(make_model, batch, tmp_path, vision):
    model = make_model("bert", vision, freeze_vision=True, unfreeze_text_layers=1, unfreeze_vision_layers=1)
    for tower in (model.text_model, model.vision_model):
        names = [name for name, _ in tower.named_parameters()]
        start = next(n for n, name in enumerate(names) if "layer.1." in name or "layers.1." in name)
        learned = {name for name, parameter in tower.named_parameters() if parameter.requires_grad}
        assert learned == set(names[start:]) and start > 0
    before = bits(model)
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    take_steps(model, batch)
    assert model.training and model.text_model.encoder.layer[1].training
    assert not model.text_model.encoder.layer[0].training and not model.text_model.training
    for name, tensor in model.state_dict().items():
        still = name.endswith(("key.bias", "k_proj.bias")) or "post_layernorm" in name  # no gradient; CLIP pools there
        assert torch.equal(tensor, before[name]) == (name not in learned) or still, name
    model.save_pretrained(tmp_path)
    again = ClipScratchModel.from_pretrained(tmp_path)
    assert {name for name, parameter in again.named_parameters() if parameter.requires_grad} == learned


def test_loaded_model_is_frozen_as_before(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    loaded, info = ClipScratchModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for model in (loaded, ClipScratchModel.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert not any(parameter.requires_grad for parameter in model.text_model.parameters())
        assert all(parameter.requires_grad for parameter in model.vision_model.parameters())
        assert model.logit_scale.requires_grad
        model.train()
        assert not any(module.training for module in model.text_model.modules())


# Saving and loading


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_saved_model_comes_back_to_the_bit(make_model, batch, tmp_path, loss):
    model = make_model(loss=loss, projection="mlp", text_pooling="mean", vision_state_norm="l2")
    take_steps(model, batch)
    model.eval().save_pretrained(tmp_path)
    loaded = ClipScratchModel.from_pretrained(tmp_path)
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and {"logit_scale"} <= before.keys()
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert ("logit_bias" in before) == (loss == "sigmoid")
    assert before["logit_scale"] != model.config.logit_scale_init_value  # it was learned
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits_per_image, model(**batch).logits_per_image)


def test_every_setting_of_the_config_survives_saving(tower_config, tmp_path):
    settings = {
        "projection_dim": 24, "projection": "mlp", "text_pooling": "mean", "vision_pooling": "tower",
        "text_state_norm": "l2", "vision_state_norm": "l2", "freeze_text": False, "freeze_vision": True,
        "loss": "sigmoid", "logit_scale_init_value": 1.0, "logit_scale_max": 2.0, "logit_bias_init_value": -5.0,
        "initializer_range": 0.1, "unfreeze_vision_layers": 1,
    }  # fmt: skip
    towers = {"text_config": tower_config("bert"), "vision_config": tower_config("dinov2")}
    ClipScratchConfig(**towers, **settings).save_pretrained(tmp_path)
    loaded = ClipScratchConfig.from_pretrained(tmp_path)
    default = ClipScratchConfig()
    for name, value in settings.items():
        assert getattr(loaded, name) == value != getattr(default, name), name
    assert (loaded.text_config.model_type, loaded.vision_config.model_type) == ("bert", "dinov2")
    assert loaded.text_config.num_hidden_layers == 2


# Validation


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"text_pooling": "max"}, r"text_pooling='max' is not one of cls, mean, cls\+mean, tower"),
        ({"vision_pooling": "max"}, "vision_pooling='max' is not one of"),
        ({"text_state_norm": "l1"}, "text_state_norm='l1' is not one of none, l2"),
        ({"projection": "deep"}, "projection='deep' is not one of linear, mlp"),
        ({"loss": "hinge"}, "loss='hinge' is not one of softmax, sigmoid, diagonal"),
        (
            {"unfreeze_vision_layers": 2},
            "unfreeze_vision_layers=2 with freeze_vision=False: the whole tower is trained",
        ),
    ],
)
def test_wrong_setting_is_named_with_its_value_and_the_rule(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        ClipScratchConfig(**settings)


def test_towers_by_default_are_distilbert_and_vit_and_may_be_dicts():
    config = ClipScratchConfig()
    assert (config.text_config.model_type, config.vision_config.model_type) == ("distilbert", "vit")
    assert config.projection_dim == 512 and config.freeze_text and not config.freeze_vision
    assert config.logit_scale_max == math.log(100)
    config = ClipScratchConfig(text_config={"model_type": "bert", "hidden_size": 48}, text_pooling="cls+mean")
    assert config.text_config.hidden_size == 48 and config.text_feature_dim == 96


def test_weights_that_the_file_lacks_are_named_and_not_drawn_at_random(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="^1 of the model's weights are not in its file .*text_projection.weight for"):
        ClipScratchModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("settings", "smaller"),  # the sides that are trained, in whole or in part
    [
        ({"freeze_text": True}, ["vision"]),
        ({"freeze_text": False, "freeze_vision": True}, ["text"]),
        ({"freeze_text": False}, ["text", "vision"]),
        ({"freeze_text": True, "freeze_vision": True}, []),
        ({"freeze_vision": True, "unfreeze_text_layers": 1, "unfreeze_vision_layers": 2}, ["text", "vision"]),
    ],
)
@pytest.mark.parametrize(
    ("text", "vision"), [("distilbert", "vit"), pytest.param("bert", "dinov2", marks=pytest.mark.slow)]
)
def test_activation_checkpointing_keeps_less_of_trained_layers_and_nothing_of_frozen_ones(
    tower_config, batch, text, vision, settings, smaller
):
    layers = {"n_layers": 4} if text == "distilbert" else {"num_hidden_layers": 4}
    towers = {"text_config": tower_config(text, **layers), "vision_config": tower_config(vision, num_hidden_layers=4)}
    inputs = {"vision": {"pixel_values": batch.pop("pixel_values")}, "text": batch}
    kept, gradients = [], []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = ClipScratchModel(ClipScratchConfig(**towers, projection_dim=8, **settings)).train()
        for _ in range(2 * checkpointed):  # the trainer measures its chunk with it, and enables it again to train
            enable_checkpointing(model, None)
        kept.append({side: _kept_bytes(model, one) for side, one in inputs.items()})
        torch.manual_seed(1)
        model(**inputs["vision"], **inputs["text"], return_loss=True).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for side in inputs:
        assert kept[1][side] < kept[0][side] if side in smaller else kept[1][side] == kept[0][side]
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, msg=name)
