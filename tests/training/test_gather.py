"""Two processes with half of a batch each go in; values and gradients are held to one process with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_clipscratch.training import gather
from modeling_clipscratch.training.gather import gather_rows

# Loads the file alone: a process that imports torch only is up in a second.
SCRIPT = """
import importlib.util, sys
import torch
import torch.distributed as dist

file, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
spec = importlib.util.spec_from_file_location("gather", file)
gather = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gather)
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

given = torch.load(f"{folder}/given.pt")
weight = given["weight"].requires_grad_()
scale = given["scale"].requires_grad_()
mine = slice(3 * rank, 3 * rank + 3)
images = torch.nn.functional.normalize(given["images"][mine] @ weight, dim=-1)
texts = torch.nn.functional.normalize(given["texts"][mine] @ weight, dim=-1)
gathered = gather.gather_rows(images)
logits = gathered @ gather.gather_rows(texts).t() * scale.exp()
own = torch.arange(6)
loss = torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.t(), own)
loss.backward()
for parameter in (weight, scale):  # what DDP does
    dist.all_reduce(parameter.grad)
    parameter.grad /= 2

# Two gathers whose sum hands the same gradient to both.
first, second = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
((gather.gather_rows(first) + gather.gather_rows(second)) ** 2).sum().backward()

found = {"loss": loss.detach(), "gathered": gathered.detach(), "group": gather.gather_rows(given["group"][mine])}
found |= {"weight": weight.grad, "scale": scale.grad, "first": first.grad, "second": second.grad}
torch.save(found, f"{folder}/found{rank}.pt")
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """(what was given, what rank 0 found, what rank 1 found), in float64."""
    folder = tmp_path_factory.mktemp("gather")
    generator = torch.Generator().manual_seed(0)
    given = {
        name: torch.randn(*shape, generator=generator, dtype=torch.float64)
        for name, shape in (("images", (6, 5)), ("texts", (6, 5)), ("weight", (5, 4)))
    }
    given |= {"scale": torch.tensor(1.5, dtype=torch.float64), "group": torch.tensor([3, 1, 2, 9, 8, 7])}
    torch.save(given, folder / "given.pt")
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, gather.__file__, str(rank), str(folder)],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"} if Path("/sys/class/net/lo").exists() else None,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate()[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    return given, torch.load(folder / "found0.pt"), torch.load(folder / "found1.pt")


def test_every_process_gets_all_rows_in_rank_order(two_processes):
    given, *found = two_processes
    expected = torch.nn.functional.normalize(given["images"] @ given["weight"], dim=-1)
    for one in found:
        assert torch.allclose(one["gathered"], expected, atol=1e-15)
        assert one["group"].dtype == torch.int64 and torch.equal(one["group"], given["group"])


def test_loss_and_gradients_are_those_of_one_process_with_all_rows(two_processes):
    given, *found = two_processes
    weight, scale = given["weight"].clone().requires_grad_(), given["scale"].clone().requires_grad_()
    images, texts = (torch.nn.functional.normalize(given[name] @ weight, dim=-1) for name in ("images", "texts"))
    logits = images @ texts.t() * scale.exp()
    own = torch.arange(6)
    loss = torch.nn.functional.cross_entropy(logits, own) + torch.nn.functional.cross_entropy(logits.t(), own)
    loss.backward()
    for one in found:
        # float64 sums of some 30 terms in another order.
        assert torch.allclose(one["loss"], loss, atol=1e-13)
        assert torch.allclose(one["weight"], weight.grad, atol=1e-13)
        assert torch.allclose(one["scale"], scale.grad, atol=1e-13)
    assert weight.grad.abs().max() > 0.01


def test_gradient_that_two_gathers_share_is_summed_once_for_each(two_processes):
    # Each of 2 processes adds (1 + 1) ** 2 for each row: 2 * 2 * (1 + 1) = 8.
    for one in two_processes[1:]:
        assert one["first"].tolist() == [8.0, 8.0] and one["second"].tolist() == [8.0, 8.0]


def test_without_processes_the_tensor_itself_comes_back():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
