"""Compare Muon's steps with torch's own optimizer, and a run with it with its resumed half."""

import pytest
import torch

from modeling_clipscratch.training.optimization.muon import MuonAdamW
from tests.training.conftest import weights

MUON = {"muon_learning_rate": 0.02, "freeze_text": False, "test_split": "none", "eval_strategy": "no"}
SHAPES = [(8, 8), (16, 8), (8, 16), (8, 8), (4, 8)]


def test_steps_are_those_of_torch_muon_and_torch_adamw():
    draw = torch.Generator().manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    bias = torch.nn.Parameter(torch.randn(3, generator=draw))
    alone = [torch.nn.Parameter(weight.detach().clone()) for weight in [*matrices, bias]]
    groups = [{"params": [bias], "lr": 0.1}, {"params": matrices, "lr": 0.05, "weight_decay": 0.2, "muon": True}]
    one = MuonAdamW(groups, dtype=torch.bfloat16, weight_decay=0.3)
    muon = torch.optim.Muon(alone[:-1], lr=0.05, weight_decay=0.2)
    adam = torch.optim.AdamW(alone[-1:], lr=0.1, weight_decay=0.3)
    for _ in range(3):
        for ours, theirs in zip([*matrices, bias], alone, strict=True):
            ours.grad = torch.randn(ours.shape, generator=draw)
            theirs.grad = ours.grad.clone()
        one.step()
        muon.step()
        adam.step()
    assert torch.equal(bias, alone[-1])
    for ours, theirs in zip(matrices, alone, strict=False):
        assert torch.allclose(ours, theirs, atol=0.05 * 0.02)  # bfloat16 products round otherwise


def test_muon_takes_the_matrices_of_the_blocks_of_towers_from_scratch(run_recipe, tmp_path):
    settings = {**MUON, "freeze_text": True, "weight_decay": 0.0, "max_grad_norm": 0.0, "warmup_steps": 0}
    # Without AdamW's rate nothing else moves.
    run, _ = run_recipe(tmp_path, **settings, learning_rate=0.0, save_strategy="steps", save_steps=1, max_steps=2,
                        save_total_limit=5)  # fmt: skip
    first, last = (weights(run / f"checkpoint-{step}") for step in (1, 2))
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    assert moved == {name for name in first if name.startswith("vision_model.layers.") and first[name].dim() == 2}
    assert len(moved) == 6


def test_matrices_and_the_rest_follow_one_schedule(make_trainer):
    trainer = make_trainer(
        muon_learning_rate=0.5, learning_rate=0.1, lr_scheduler_type="linear", warmup_steps=0, max_steps=4,
        options={"muon_matrices": {"vision_model.layers.0.mlp.fc1.weight"}},
    )  # fmt: skip
    trainer.create_optimizer_and_scheduler(4)
    for step in range(4):
        rates = {group["muon"]: group["lr"] for group in trainer.optimizer.param_groups}
        assert rates == pytest.approx({True: 0.5 * (1 - step / 4), False: 0.1 * (1 - step / 4)})
        trainer.optimizer.step()
        trainer.lr_scheduler.step()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"freeze_text": True, "freeze_vision": True, "random_shift": 0},
            "muon_learning_rate=0.02 is for a tower from scratch, and none is trained",
        ),
        ({"optim": "sgd"}, "optim=sgd with muon_learning_rate=0.02: AdamW trains the weights"),
        ({"muon_learning_rate": -1.0}, "muon_learning_rate=-1.0 is not above 0"),
        ({"tower_learning_rate": 0.0}, "tower_learning_rate=0.0 is not above 0"),
    ],
)
def test_muon_where_it_does_not_apply_is_refused(run_recipe, tmp_path, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_recipe(tmp_path, **{**MUON, **options})
