"""Check what the trainer of a tiny model on 64 digits refuses, decays, freezes and logs."""

import math
import re

import pytest
import torch
from transformers import TrainerCallback

from modeling_clipscratch.hub.losses_clipscratch import contrastive_loss


def in_optimizer(trainer):
    """Name of every parameter that the optimizer holds -> its group."""
    trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {names[id(p)]: group for group in trainer.optimizer.param_groups for p in group["params"]}


def test_frozen_text_tower_is_bitwise_unchanged_and_not_in_the_optimizer(make_trainer):
    trainer = make_trainer({"freeze_text": True}, max_steps=3, learning_rate=0.1)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    after = trainer.model.state_dict()
    assert not [name for name in in_optimizer(trainer) if name.startswith("text_model.")]
    held = set(in_optimizer(trainer))
    assert held == {name for name in before if not name.startswith("text_model.")}
    for name, tensor in before.items():
        # Three AdamW steps of 0.1 move whatever has a gradient; keys have biases that the softmax cannot feel.
        if name.startswith("text_model."):
            assert torch.equal(after[name], tensor), name
        elif "k_proj.bias" not in name:
            assert not torch.equal(after[name], tensor), name
    assert not any(module.training for module in trainer.model.text_model.modules())


@pytest.mark.parametrize(
    ("text", "vision", "loss", "tower_learning_rate"),
    [
        ("distilbert", "vit", "softmax", None),
        ("bert", "dinov2", "sigmoid", 1e-4),
        ("distilbert", "clip_vision_model", "softmax", 1e-4),
    ],
)
def test_matrices_decay_and_norms_biases_tokens_positions_and_temperature_do_not(
    make_trainer, text, vision, loss, tower_learning_rate
):
    trainer = make_trainer(
        {"text_tower": text, "vision_tower": vision, "freeze_text": False, "loss": loss},
        weight_decay=0.25, tower_learning_rate=tower_learning_rate,
    )  # fmt: skip
    decay = {name: group["weight_decay"] for name, group in in_optimizer(trainer).items()}
    assert set(decay) == {name for name, _ in trainer.model.named_parameters()}
    shapes = dict(trainer.model.named_parameters())
    for name, value in decay.items():
        free = name.endswith("bias") or "norm" in name.lower() or "position" in name or "token" in name.split(".")[-1]
        free |= name in ("logit_scale", "logit_bias") or "class_embedding" in name or "layer_scale" in name
        assert value == (0.0 if free else 0.25), name
        assert free or shapes[name].dim() >= 2
    assert "logit_scale" in decay and ("logit_bias" in decay) == (loss == "sigmoid")
    assert sum(value > 0 for value in decay.values()) > 10


def test_towers_may_have_a_learning_rate_of_their_own(make_trainer):
    trainer = make_trainer({"freeze_text": False}, learning_rate=0.2, tower_learning_rate=0.01)
    for name, group in in_optimizer(trainer).items():
        assert group["lr"] == (0.01 if name.startswith(("text_model.", "vision_model.")) else 0.2), name
    assert trainer.optimizer.param_groups[0]["betas"] == (0.9, 0.98)
    one = in_optimizer(make_trainer({"freeze_text": False}, learning_rate=0.2))
    assert {group["lr"] for group in one.values()} == {0.2}


def test_loss_of_a_step_is_the_loss_of_its_batch(make_trainer):
    trainer = make_trainer(cache_features=False)
    batch = trainer.train_pairs.__getitems__([(0, index) for index in (5, 3, 9, 40, 41)])
    inputs = {name: tensor.clone() for name, tensor in batch.items()}
    trainer.model.eval()
    found = trainer.compute_loss(trainer.model, batch)
    pixels = (inputs["images"].float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        output = trainer.model(inputs["input_ids"], pixels.permute(0, 3, 1, 2), inputs["attention_mask"])
    expected = contrastive_loss(output.logits_per_image, loss="softmax", group=inputs["links"][:, 0])
    assert torch.allclose(found, expected, atol=1e-5)
    assert set(batch) == set(inputs)  # the batch is left as it was


def test_temperature_is_brought_back_to_its_limit_after_a_step(make_trainer):
    trainer = make_trainer(max_steps=1)
    with torch.no_grad():
        trainer.model.logit_scale.fill_(50.0)
    trainer.train()
    # Beyond the limit it has no gradient, so the step itself leaves it where it is.
    assert trainer.model.logit_scale.item() == pytest.approx(math.log(100), abs=1e-6)


def test_log_has_the_loss_its_floor_the_statistics_and_the_images_seen(make_trainer):
    trainer = make_trainer(max_steps=4, logging_steps=2)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert [line["images_seen"] for line in lines] == [32, 64]
    groups = trainer.train_pairs.captions.links[:, 0]
    order = [index for _, index in trainer.sampler]
    batches = [groups[order[start : start + 16]] for start in range(0, 64, 16)]
    positives = [(batch[:, None] == batch[None, :]).float() for batch in batches]
    for line, pair in zip(lines, (positives[:2], positives[2:]), strict=True):
        assert line["positive_share"] == pytest.approx(sum(each.mean().item() for each in pair) / 2, abs=1e-6)
        floor = sum(each.sum(1).log().mean().item() for each in pair) / 2
        assert line["loss_floor"] == pytest.approx(floor, abs=1e-6) and floor <= line["loss"]
        assert 0 <= line["image_to_text_accuracy"] <= 1 and 0 <= line["text_to_image_accuracy"] <= 1
        # The temperature hardly moves in four steps of 1e-3.
        assert line["temperature"] == pytest.approx(math.exp(-2.6592), rel=0.02)


def test_rows_come_in_the_order_of_seed_and_epoch(make_trainer, monkeypatch):
    # 64 rows are four batches: two epochs. With the chunk named, no row is read to measure it.
    trainer = make_trainer(max_steps=8, encode_chunk_size="16")
    seen = []
    own = trainer.train_pairs.__getitems__
    monkeypatch.setattr(
        type(trainer.train_pairs), "__getitems__", lambda self, places: (seen.extend(places), own(places))[1]
    )
    trainer.train()
    expected = []
    for epoch in range(2):
        trainer.sampler.set_epoch(epoch)
        expected += list(trainer.sampler)
    assert seen[:128] == expected


def test_evaluation_measures_the_whole_split_and_leaves_the_mode(make_trainer):
    trainer = make_trainer({"freeze_text": True}, rows=50, per_device_eval_batch_size=7)
    trainer.model.train()
    metrics = trainer.evaluate()
    assert trainer.model.training and not trainer.model.text_model.training
    result = trainer.measure(trainer.eval_dataset)
    assert result.confusion.sum() == 50
    assert metrics["eval_top1"] == result.metrics["top1"] == result.confusion.trace() / 50


def test_bf16_steps_keep_weights_in_float32(make_trainer):
    trainer = make_trainer(bf16=True, max_steps=2, logging_steps=1)
    trainer.train()
    assert trainer.args.bf16 and {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 2 * math.log(16) for loss in losses)


def test_progress_bar_counts_images_and_shows_the_loss_with_its_floor(make_trainer, capfd):
    trainer = make_trainer(disable_tqdm=False, max_steps=30, logging_steps=1)
    trainer.train()
    trainer.evaluate()
    last, bars = trainer.state.log_history[29], capfd.readouterr().err
    assert re.search(r"training: 100%.* 480/480 .* images/s", bars)
    assert f"loss {last['loss']:.2f} (floor {last['loss_floor']:.2f})" in bars
    assert re.search(r"embedding train: 100%.* 64/64 ", bars)  # of the evaluation after the training
    assert bars.count("training: ") < 10  # a file does not get a line for each step


def test_model_callbacks_and_optimizer_may_be_given_as_to_transformers_trainer(make_trainer):
    class Steps(TrainerCallback):
        steps = []

        def on_step_end(self, args, state, control, **kwargs):
            self.steps.append(state.global_step)

    model = make_trainer().model
    weight = model.visual_projection.weight
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    options = {"model": model, "callbacks": [Steps], "optimizers": (optimizer, None)}
    trainer = make_trainer(options=options)
    trainer.train()
    assert Steps.steps == [1, 2] and trainer.optimizer.optimizer is optimizer and not torch.equal(weight, before)

    trainer = make_trainer(options={"model": None, "model_init": lambda: model})
    trainer.train()
    assert trainer.model is model

    trainer = make_trainer(options={"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.25})})
    assert isinstance(trainer.create_optimizer(), torch.optim.SGD)
