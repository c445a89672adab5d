"""Check the arithmetic of batch, processes and chunks, its errors, and the chunk that fits the memory."""

from types import SimpleNamespace

import pytest
import torch

from modeling_clipscratch.training.loss.global_batch import choose_chunk, settle_global_batch


def args_of(processes=1, **options):
    defaults = {
        "global_batch_size": None, "per_device_train_batch_size": None, "gradient_accumulation_steps": 1,
        "encode_chunk_size": "auto", "world_size": processes,
        "memory_budget_gb": None,
        "device": torch.device("cpu"),
    }  # fmt: skip
    return SimpleNamespace(**{**defaults, **options})


@pytest.mark.parametrize(
    ("processes", "options", "batch", "rows", "chunk"),
    [
        (4, {}, 256, 64, "auto"),
        (8, {"global_batch_size": 32768}, 32768, 4096, "auto"),
        (2, {"per_device_train_batch_size": 100}, 200, 100, "auto"),
        (2, {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 4}, 512, 256, 64),
        (2, {"per_device_train_batch_size": 64, "global_batch_size": 512}, 512, 256, 64),
        (1, {"global_batch_size": 100, "gradient_accumulation_steps": 3}, 100, 100, 34),
        (2, {"global_batch_size": 512, "encode_chunk_size": "32"}, 512, 256, 32),
        (2, {"global_batch_size": 512, "encode_chunk_size": 100}, 512, 256, 100),
    ],
)
def test_batch_is_split_and_accumulation_makes_it_larger(processes, options, batch, rows, chunk):
    args = args_of(processes, **options)
    settle_global_batch(args)
    assert (args.global_batch_size, args.per_device_train_batch_size, args.encode_chunk_size) == (batch, rows, chunk)
    assert args.gradient_accumulation_steps == 1
    settle_global_batch(args)  # settled again, it stays
    assert (args.global_batch_size, args.per_device_train_batch_size, args.encode_chunk_size) == (batch, rows, chunk)


@pytest.mark.parametrize(
    ("processes", "options", "sentence"),
    [
        (3, {"global_batch_size": 100}, "global_batch_size=100 cannot be split equally among 3 .* choose 99 or 102"),
        (4, {"global_batch_size": 2}, "global_batch_size=2 cannot be split equally among 4 processes; choose 4 or 8"),
        (2, {"global_batch_size": 512, "per_device_train_batch_size": 100}, "512 is not 2 processes x .*=100 x .*=1"),
        (1, {"global_batch_size": 64, "per_device_train_batch_size": 128}, "64 is not 1 processes x .*=128"),
        (1, {"global_batch_size": 1}, "global_batch_size=1 leaves a contrastive loss nothing to compare; choose 2"),
        (1, {"encode_chunk_size": "many"}, "encode_chunk_size='many' is neither auto nor a number of pairs"),
        (1, {"encode_chunk_size": "0"}, "encode_chunk_size='0' is neither"),
    ],
)
def test_numbers_that_would_compute_another_loss_are_refused(processes, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        settle_global_batch(args_of(processes, **options))


def example(model):
    def make(count):
        return {
            "pixel_values": torch.zeros(count, 3, 8, 8),
            "input_ids": torch.ones(count, 12, dtype=torch.long),
            "attention_mask": torch.ones(count, 12, dtype=torch.long),
        }

    return make


def test_auto_takes_the_largest_power_of_two_whose_kept_activations_fit(make_model):
    """The estimate against the bytes of all tensors that autograd saves for 64 rows."""
    model = make_model(freeze_text=False).train()
    kept = []

    def count(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = model(**example(model)(64), return_logits=False)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    total = sum(size for place, size in storages.items() if place not in weights)
    assert output.loss is None
    fits = 1.5 * total / 1e9
    for budget, chunk in ((fits * 1.05, None), (fits * 0.95, 32)):
        args = args_of(global_batch_size=64, memory_budget_gb=budget)
        settle_global_batch(args)
        assert choose_chunk(args, model, example(model)) == chunk


def test_a_budget_too_small_for_one_row_still_takes_one(make_model):
    args = args_of(global_batch_size=16, memory_budget_gb=1e-9)
    settle_global_batch(args)
    model = make_model().train()
    assert choose_chunk(args, model, example(model)) == 1


def test_chunks_leave_the_trained_weights_as_they_are(make_trainer):
    """Accumulation under the Trainer: 4 x 4 pairs are one batch of 16, except for rounding and dropout."""
    weights = []
    for changes in (
        {},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
        {"encode_chunk_size": "5"},
    ):
        trainer = make_trainer({"freeze_text": True}, optim="sgd", learning_rate=0.5, max_steps=3, **changes)
        assert trainer.args.global_batch_size == 16
        trainer.train()
        weights.append({name: tensor.clone() for name, tensor in trainer.model.state_dict().items()})
    for name, tensor in weights[0].items():
        for other in weights[1:]:
            assert torch.allclose(other[name], tensor, atol=1e-6), name


@pytest.mark.parametrize("bf16", [False, True])
def test_rows_are_measured_in_the_precision_that_they_are_trained_in(make_trainer, monkeypatch, bf16):
    seen = []

    def choose(args, model, inputs):
        seen.append(torch.is_autocast_enabled(args.device.type))

    monkeypatch.setattr("modeling_clipscratch.training.trainer.choose_chunk", choose)
    make_trainer(bf16=bf16)
    assert seen == [bf16]
