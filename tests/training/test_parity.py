"""Compare loss and every gradient of tiled, chunked and distributed steps with the plain batch, in float64.

`pytest tests/training/test_parity.py -rP` prints the largest difference of each.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_clipscratch.hub.losses_clipscratch import group_targets

from . import parity

LIMIT = 1e-10  # relative to the largest entry of each gradient; float64 sums of some thousand terms in another order
DROPPED = {"dropout": True, "patch_dropout": 0.5}
CASES = {
    "softmax": {"loss": "softmax"},
    "sigmoid": {"loss": "sigmoid"},
    "diagonal": {"loss": "diagonal"},
    "softmax, cached texts": {"loss": "softmax", "cached": True},
    "softmax, dropout, patches dropped": {"loss": "softmax", **DROPPED},
    "sigmoid, dropout and stochastic depth": {"loss": "sigmoid", "dropout": True, "vision": "dinov2"},
}
SHAPES = {"whole": {"chunk": None, "tile": 64}, "tiles": {"chunk": None, "tile": 5}}
SHAPES |= {"chunks": {"chunk": 2, "tile": 64}, "uneven chunks": {"chunk": 3, "tile": 64}}
SHAPES |= {"chunks and tiles": {"chunk": 3, "tile": 3}, "uneven chunks and tiles": {"chunk": 5, "tile": 5}}
ALL = {f"{case}; {shape}": {**CASES[case], **SHAPES[shape]} for case in CASES for shape in SHAPES}
QUICK = "uneven chunks and tiles"
RUNS = [
    pytest.param(name, world, marks=[] if world == 1 and name.endswith(f"; {QUICK}") else pytest.mark.slow)
    for name in ALL
    for world in (1, 2, 3)
]


@pytest.fixture(scope="module")
def answers_of(tmp_path_factory):
    """Case and number of processes -> each rank's loss and gradients, from real gloo processes under DDP."""
    folder, answers = tmp_path_factory.mktemp("parity"), {}
    torch.save(ALL, folder / "cases.pt")

    def answers_of(name, world):
        if world == 1:
            return [parity.step(ALL[name])]
        if world not in answers:
            ranks = [start(rank, world, folder) for rank in range(world)]
            errors = [process.communicate()[1] for process in ranks]
            assert [process.returncode for process in ranks] == [0] * world, errors
            answers[world] = [torch.load(folder / f"answers-{rank}-of-{world}.pt") for rank in range(world)]
        return [answer[name] for answer in answers[world]]

    return answers_of


def start(rank, world, folder):
    command = [sys.executable, "-m", "tests.training.parity", str(rank), str(world), str(folder)]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize(("name", "world"), RUNS)
def test_loss_and_gradients_are_those_of_the_plain_batch(answers_of, name, world):
    # Without dropout the reference knows nothing of chunks and processes.
    case = ALL[name] if ALL[name].get("dropout") else {**ALL[name], "chunk": None}
    expected = parity.plain(case, world if case.get("dropout") else 1)
    largest = 0.0
    for answer in answers_of(name, world):
        assert set(expected) <= set(answer)
        for part, value in expected.items():
            difference = (answer[part] - value).abs().max() / value.abs().max().clamp(min=1e-6)
            largest = max(largest, difference.item())
    print(f"{world} process(es); {name}: largest relative difference {largest:.1e}")
    assert largest <= LIMIT
    assert all(value.abs().max() > 1e-4 for part, value in expected.items() if part.endswith("weight"))


@pytest.mark.parametrize(("name", "world"), [run for run in RUNS if run.values[0].startswith(("softmax;", "sigmoid;"))])
def test_statistics_are_those_of_the_global_batch(answers_of, name, world):
    batch = parity.batch_of({})
    with torch.no_grad():
        output = parity.build({"loss": ALL[name]["loss"]})(
            **{name: tensor for name, tensor in batch.items() if name != "group"}
        )
    logits, positive = output.logits_per_image, group_targets(batch["group"]).bool()
    rows = torch.arange(len(logits))
    expected = {
        "positive_share": positive.sum() / len(logits) ** 2,
        "image_to_text_accuracy": positive[rows, logits.argmax(1)].double().mean(),
        "text_to_image_accuracy": positive[logits.argmax(0), rows].double().mean(),
    }
    for answer in answers_of(name, world):
        for part, value in expected.items():
            assert answer[f"statistic {part}"] == pytest.approx(value.item(), abs=1e-7), part


def test_dropout_is_on_in_the_cases_that_name_it():
    """Else they would show nothing."""
    case = {**CASES["softmax, dropout, patches dropped"], "chunk": None}
    other = {**CASES["softmax"], "chunk": None}
    for drops in (case, {**other, "patch_dropout": 0.5}):
        assert abs(parity.plain(drops)["loss"] - parity.plain(other)["loss"]) > 1e-3
    model = parity.build(case)
    pixels = parity.batch_of(case)["pixel_values"]
    assert not torch.equal(model.vision_tower_features(pixels)[1], model.vision_tower_features(pixels)[1])
