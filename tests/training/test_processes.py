"""Launch runs of two processes, and hold them to the run of one process with the whole batch."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_clipscratch.training.saving.checkpoints import find_checkpoint
from tests.training.conftest import state_of

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).resolve().parents[2]
# Plain SGD: its steps are linear in the gradients, where AdamW would blow roundings of tiny ones up to whole steps.
FOUR_STEPS = {
    "freeze_text": True, "max_steps": 4, "optim": "sgd", "learning_rate": 0.5, "weight_decay": 0.0,
    "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
    "load_best_model_at_end": False,
}  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}


def accelerate():
    """Return the start of a command that launches two processes."""
    launcher = ["accelerate.commands.launch", "--main_process_port", str(free_port())]
    return [*launcher, "--config_file", "configuration/accelerate/cpu_2.yaml", "run_train.py"]


def launch(*command):
    """Run a program of two processes to its end."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=REPOSITORY, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_processes_make_the_run_of_one_with_the_double_batch(write_recipe, run_recipe, tmp_path):
    recipe = write_recipe(tmp_path / "two", **FOUR_STEPS, per_device_train_batch_size=200)
    done = launch(*accelerate(), str(recipe))
    assert done.stderr.count("running on 2 processes on cpu, fp32") == 1
    assert done.stdout.count("model, metrics and curves: ") == 1
    two = tmp_path / "two" / "run"
    assert {"config.json", "model.safetensors", "metrics.json", "curves.png"} < {path.name for path in two.iterdir()}
    assert not (two / ".incomplete").exists()
    for checkpoint in ("checkpoint-2", "checkpoint-4"):
        assert {"rng_state_0.pth", "rng_state_1.pth"} < {path.name for path in (two / checkpoint).iterdir()}

    one, metrics = run_recipe(tmp_path / "one", **FOUR_STEPS)
    found, expected = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    first = state_of(one)["log_history"]
    second = state_of(two)["log_history"]
    for a, b in zip(first, second, strict=True):
        for name in {"loss", "positive_share", "grad_norm", "temperature", "images_seen"} & set(a):
            assert abs(a[name] - b[name]) <= 1e-4 * abs(a[name]), name  # float32 sums over 400 x 400 pairs
        if "eval_top1" in a:
            assert abs(a["eval_top1"] - b["eval_top1"]) < 3 / 180  # of 180 images, two may be ties
    assert [line["images_seen"] for line in second if "loss" in line] == [400, 800, 1200, 1600]
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, atol=1e-5), name
    start = torch.tensor(2.6592)
    assert abs(expected["logit_scale"] - start) > 1e-3  # the steps moved something a hundred times the tolerance
    assert json.loads((two / "metrics.json").read_text())["digits"].keys() == metrics["digits"].keys()


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(signal.SIGINT, "stopped. To resume"), (signal.SIGTERM, "stopped by SIGTERM. To resume")],
)
def test_processes_end_with_their_launcher_and_say_so_once(write_recipe, tmp_path, number, sentence):
    steps = {**FOUR_STEPS, "max_steps": 100_000, "eval_strategy": "no", "enable_jit_checkpoint": True}
    recipe = write_recipe(tmp_path, **steps, per_device_train_batch_size=200, dataloader_num_workers=1)
    command = [sys.executable, "-m", *accelerate(), str(recipe)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stderr=subprocess.PIPE, text=True) as launcher:
        while not (tmp_path / "run" / "checkpoint-2").is_dir():
            assert launcher.poll() is None
            time.sleep(0.1)
        launcher.send_signal(number)
        stderr = launcher.stderr.read()  # to its end: until the last process is gone
    assert stderr.count("stopped") == stderr.count(sentence) == 1
    assert (find_checkpoint(tmp_path / "run", "auto") is not None) and not (tmp_path / "run" / "config.json").exists()


def test_sharded_weights_make_the_run_of_whole_ones_and_its_resumed_half_too(write_recipe, run_recipe, tmp_path):
    steps = {**FOUR_STEPS, "ema_decay": 0.5}
    one, _ = run_recipe(tmp_path / "one", **steps)
    recipe = write_recipe(tmp_path / "two", **steps, per_device_train_batch_size=200)
    sharded = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port")
    launch(*sharded, str(free_port()), "-m", "tests.training.fsdp_on_cpu", str(recipe))
    two = tmp_path / "two" / "run"
    straight, expected = load_file(two / "model.safetensors"), load_file(one / "model.safetensors")
    for name, tensor in expected.items():
        assert torch.allclose(straight[name], tensor, atol=1e-5), name

    adam = ("--optim", "adamw_torch", "--learning_rate", "0.01", "--output_dir", str(tmp_path / "three"))
    adam += ("--muon_learning_rate", "0.02")
    adam += ("--eval_strategy", "no")  # the first to call another method than forward is the measuring at the end
    launch(*sharded, str(free_port()), "-m", "tests.training.fsdp_on_cpu", str(recipe), *adam)
    straight = load_file(tmp_path / "three" / "model.safetensors")
    shutil.rmtree(tmp_path / "three" / "checkpoint-4")
    again = (*adam, "--resume_from_checkpoint", "auto")
    launch(*sharded, str(free_port()), "-m", "tests.training.fsdp_on_cpu", str(recipe), *again)
    resumed = load_file(tmp_path / "three" / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    assert AutoModel.from_pretrained(tmp_path / "three", trust_remote_code=True).config.model_type == "clipscratch"
    assert not list(tmp_path.glob("*/**/_fsdp*.py"))  # torch's code, where the model's belongs
