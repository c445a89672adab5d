"""Chunked, streamed and shared-out steps go in; loss and every gradient are held to the plain batch, in float64.

`pytest tests/training/test_parity.py -rP` prints the largest difference of each.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_clipscratch.hub.losses_clipscratch import batch_statistics, group_targets

from . import parity

LIMIT = 1e-10  # relative to the largest entry of each gradient; float64 sums of some thousand terms in another order
DROPPED = {"dropout": True, "patch_dropout": True, "drop_path": 0.5}
CASES = {
    "softmax": {"loss": "softmax"},
    "sigmoid": {"loss": "sigmoid"},
    "diagonal": {"loss": "diagonal"},
    "weights": {"loss": "softmax", "weights": True},
    "softmax, mixed pictures": {"loss": "softmax", "mixed": True},
    "sigmoid, mixed pictures": {"loss": "sigmoid", "mixed": True},
    "sigmoid with weights": {"loss": "sigmoid", "weights": True},
    "softmax, FSDP": {"loss": "softmax", "fsdp": True},
    "softmax, FSDP, dropout": {"loss": "softmax", "fsdp": True, "dropout": True},
    "softmax, cached texts": {"loss": "softmax", "cached": True},
    "softmax, dropout, patches and blocks dropped": {"loss": "softmax", **DROPPED},
    "sigmoid, dropout and stochastic depth": {"loss": "sigmoid", "dropout": True, "vision": "dinov2"},
}
SHAPES = {"whole": {"chunk": None, "tile": 64}, "tiles": {"chunk": None, "tile": 5}}
SHAPES |= {"chunks": {"chunk": 2, "tile": 64}, "uneven chunks": {"chunk": 3, "tile": 64}}
SHAPES |= {"chunks and tiles": {"chunk": 3, "tile": 3}, "uneven chunks and tiles": {"chunk": 5, "tile": 5}}
ALL = {f"{case}; {shape}": {**CASES[case], **SHAPES[shape]} for case in CASES for shape in SHAPES}
PROCESSES = (1, 2, 3)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{processes: [each rank's {case: loss and gradients}]}, from real gloo processes under DDP."""
    folder = tmp_path_factory.mktemp("parity")
    torch.save(ALL, folder / "cases.pt")
    runs = {world: [start(rank, world, folder) for rank in range(world)] for world in PROCESSES if world > 1}
    found = {1: [{name: parity.step(case) for name, case in ALL.items()}]}
    for world, ranks in runs.items():
        errors = [process.communicate()[1] for process in ranks]
        assert [process.returncode for process in ranks] == [0] * world, errors
        found[world] = [torch.load(folder / f"answers-{rank}-of-{world}.pt") for rank in range(world)]
    return found


def start(rank, world, folder):
    command = [sys.executable, "-m", "tests.training.parity", str(rank), str(world), str(folder)]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("world", PROCESSES)
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradients_are_those_of_the_plain_batch(answers, name, world):
    # Without dropout the reference knows nothing of chunks, and of processes only who mixes pictures with whom.
    case = ALL[name] if ALL[name].get("dropout") else {**ALL[name], "chunk": None}
    expected = parity.plain(case, world if case.get("dropout") or case.get("mixed") else 1)
    largest = 0.0
    for answer in answers[world]:
        assert set(expected) <= set(answer[name])
        for part, value in expected.items():
            difference = (answer[name][part] - value).abs().max() / value.abs().max().clamp(min=1e-6)
            largest = max(largest, difference.item())
    print(f"{world} process(es); {name}: largest relative difference {largest:.1e}")
    assert largest <= LIMIT
    assert all(value.abs().max() > 1e-4 for part, value in expected.items() if part.endswith("weight"))


@pytest.mark.parametrize("world", PROCESSES)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_statistics_are_those_of_the_global_batch(answers, loss, world):
    batch = parity.batch_of({})
    with torch.no_grad():
        output = parity.build({"loss": loss})(
            **{name: tensor for name, tensor in batch.items() if name != "group"}, return_loss=False
        )
    expected = batch_statistics(output.logits_per_image, group_targets(batch["group"]))
    for answer in answers[world]:
        for shape in SHAPES:
            for name, value in expected.items():
                assert answer[f"{loss}; {shape}"][f"statistic {name}"] == pytest.approx(value.item(), abs=1e-7), name


def test_dropout_is_on_in_the_cases_that_say_so():
    """Else they would show nothing."""
    case = {**CASES["softmax, dropout, patches and blocks dropped"], "chunk": None}
    other = {**CASES["softmax"], "chunk": None}
    for drops in (case, {**other, "drop_path": 0.5}):
        assert abs(parity.plain(drops)["loss"] - parity.plain(other)["loss"]) > 1e-3
    model = parity.build(case)
    pixels = parity.batch_of(case)["pixel_values"]
    assert not torch.equal(model.vision_tower_features(pixels)[1], model.vision_tower_features(pixels)[1])
