"""Compare one process with two at the same global batch: losses, throughput, bytes sent per step.

python -m benchmarks.scaling

Trains three times: one process with one thread, one with two, and two processes with one thread each through
`accelerate launch`. The clock and the collectives of torch.distributed are recorded in the same process. The runs use
fp32 and a frozen text tower, so there is no dropout, whose draws would differ between processes, and all three make
the same run.

Throughput is the median over the steps after the first five. Bytes are what a process passes to each collective, and
what a ring would send of it (for W processes an all-reduce sends 2 (W - 1) / W of its tensor, an all-gather W - 1
times its part, a reduce-scatter (W - 1) / W of its whole), beside what batch, width and parameters predict. DDP's
all-reduce of the gradients runs in C++, so it is recorded through a communication hook that does the same. On Linux
the counter of the loopback device stands beside them. It counts every process on the machine, so run nothing else that
uses the network; it includes the headers of packets; and gloo implements reduce-scatter by an all-reduce, which sends
twice as much.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from modeling_clipscratch.cli import train as run_train
from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.training.trainer import ClipScratchTrainer

from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures

RUNS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
FIRST = 5  # steps to warm up
COLLECTIVES = ("all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor", "broadcast")


# In each process of a run


class Recorder:
    """Record the clock, the collectives and the loopback counter at the beginning of every step."""

    def __init__(self):
        self.sent, self.moments, self.core = Counter(), [], None

    def start(self):
        for name in COLLECTIVES:
            setattr(dist, name, self._counted(name, getattr(dist, name)))
        broadcast = dist._broadcast_coalesced  # DDP's, of buffers, before each forward pass

        def buffers(group, tensors, *args):
            self.sent["broadcast buffers"] += sum(t.numel() * t.element_size() for t in tensors)
            return broadcast(group, tensors, *args)

        dist._broadcast_coalesced = buffers
        begin, step = DistributedDataParallel.__init__, ClipScratchTrainer.training_step

        def hooked(ddp, *args, **kwargs):
            begin(ddp, *args, **kwargs)
            ddp.register_comm_hook(None, allreduce_hook)  # ends in dist.all_reduce, which is counted

        def timed(trainer, model, *args, **kwargs):
            self.core = trainer.accelerator.unwrap_model(model)
            self.moments.append((time.perf_counter(), Counter(self.sent), loopback_bytes()))
            return step(trainer, model, *args, **kwargs)

        DistributedDataParallel.__init__, ClipScratchTrainer.training_step = hooked, timed

    def _counted(self, name, collective):
        def call(*args, **kwargs):
            # all_gather(list, tensor), the _tensor ones (output, input), the others (tensor).
            tensor = args[1] if name.startswith(("all_gather", "reduce_scatter")) else args[0]
            # DDP reduces buckets of gradients, of various shapes.
            from_hook = sys._getframe(1).f_code.co_filename.endswith("default_hooks.py")
            what = "buckets" if from_hook else "x".join(map(str, tensor.shape)) or "scalar"
            self.sent[f"{name} {what}"] += tensor.numel() * tensor.element_size()
            return collective(*args, **kwargs)

        return call

    def steps(self):
        """Return seconds, bytes by collective and bytes on the loopback device of each step after the first five."""
        pairs = list(zip(self.moments, self.moments[1:], strict=False))[FIRST:]
        return [{"seconds": b[0] - a[0], "sent": dict(b[1] - a[1]), "loopback": b[2] - a[2]} for a, b in pairs]


def loopback_bytes():
    counters = Path("/proc/net/dev")
    lines = counters.read_text().splitlines() if counters.is_file() else []
    return sum(int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:"))


def recorded_run(answer, arguments):
    recorder = Recorder()
    recorder.start()
    run_train.main(arguments)
    if os.environ.get("RANK", "0") == "0":
        core = recorder.core
        found = {
            "steps": recorder.steps(),
            "trained": sum(parameter.numel() for parameter in core.parameters() if parameter.requires_grad),
            "buffer_bytes": sum(buffer.numel() * buffer.element_size() for buffer in core.buffers()),
            "projection": core.config.projection_dim,
        }
        Path(answer).write_text(json.dumps(found))


# Around the runs


def run(folder, processes, threads, arguments):
    """Start one of the runs; return its record and its losses."""
    folder.mkdir(parents=True)
    launch = [sys.executable]
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        launch += ["-m", "accelerate.commands.launch", "--main_process_port", port]
        launch += ["--config_file", "configuration/accelerate/cpu_2.yaml"]
    worker = ["-m", "benchmarks.scaling", "--worker", str(folder / "record.json"), "--"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*launch, *worker, *arguments, "--output_dir", str(folder / "run")],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    log = json.loads((folder / "run" / "trainer_state.json").read_text())["log_history"]
    return {
        **json.loads((folder / "record.json").read_text()),
        "losses": [line["loss"] for line in log if "loss" in line],
    }


def traffic(found, batch, processes):
    """Return (name, measured bytes per step of a process, predicted bytes, factor of a ring) by kind of traffic."""
    sent = Counter()
    for step in found["steps"]:
        sent.update(step["sent"])
    sent = {name: total / len(found["steps"]) for name, total in sent.items()}
    rows, width, whole = batch // processes, found["projection"], (processes - 1) / processes
    lines = [
        ("gradients", "all_reduce buckets", 4 * found["trained"], 2 * whole),
        ("text embeddings", f"all_gather {rows}x{width}", 4 * rows * width, processes - 1),
        ("their gradients", f"reduce_scatter_tensor {batch}x{width}", 4 * batch * width, whole),
        ("groups", f"all_gather {rows}", 8 * rows, processes - 1),
        ("columns: log-sums and 2 statistics", f"all_gather 1x{batch}", 3 * 4 * batch, processes - 1),
        ("columns: sums of targets x logits", f"all_reduce {batch}", 4 * batch, 2 * whole),
        ("rows: 2 statistics", "all_reduce 2", 4 * 2, 2 * whole),
        ("buffers (DDP)", "broadcast buffers", found["buffer_bytes"], whole),
    ]
    table = [(what, sent.pop(name, 0), computed, factor) for what, name, computed, factor in lines]
    return [*table, ("the Trainer's own (log lines, data order)", sum(sent.values()), None, 2 * whole)]


def median(found, name):
    return statistics.median(step[name] for step in found["steps"])


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--worker"]:
        recorded_run(arguments[1], arguments[3:])
        return
    parser = parser_of("scaling")
    parser.add_argument("--recipe", default="configuration/digits.yaml", help="trained with a frozen text tower")
    parser.add_argument("--global_batch_size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args(arguments)
    batch = options.global_batch_size
    recipe = [options.recipe, "--global_batch_size", str(batch), "--max_steps", str(options.steps)]
    recipe += ["--freeze_text", "true", "--bf16", "false", "--attention", "sdpa", "--logging_steps", "1"]
    recipe += ["--use_cpu", "true"]  # one process on a GPU and two on a CPU are not comparable
    recipe += ["--eval_strategy", "no", "--save_strategy", "no", "--test_split", "none", "--disable_tqdm", "true"]
    print(machine())
    with tempfile.TemporaryDirectory() as base:
        recipe += ["--cache_dir", f"{base}/cache"]
        found = {name: run(Path(base) / f"{p}-{t}", p, t, recipe) for name, (p, t) in RUNS.items()}
    first, _, two = found.values()
    base = median(first, "seconds")
    rows = []
    for name, answer in found.items():
        off = [abs(a - b) for a, b in zip(answer["losses"], first["losses"], strict=True)]
        seconds = median(answer, "seconds")
        rows.append([name, f"{seconds:.3f}", f"{batch / seconds:,.0f}", f"{base / seconds:.2f}", f"{max(off):.1e}"])
    print(f"\n{options.recipe}, text tower frozen, global batch {batch:,}, {options.steps} steps; medians after the "
          f"first {FIRST}; loss from {first['losses'][0]:.3f} to {first['losses'][-1]:.3f}")  # fmt: skip
    print_table(["run", "s per step", "images/s", "ratio", "largest loss difference"], rows)
    lines = traffic(two, batch, 2)
    table = [
        [what, f"{measured:,.0f}", "-" if computed is None else f"{computed:,.0f}", f"{factor * measured:,.0f}"]
        for what, measured, computed, factor in lines
    ]
    measured, computed = sum(line[1] for line in lines), sum(line[2] or 0 for line in lines)
    sent = sum(line[1] * line[3] for line in lines)
    table.append(["all", f"{measured:,.0f}", f"{computed:,.0f}", f"{sent:,.0f}"])
    print("\nbytes per step that each of the two processes passes to a collective, and that a ring would send of them")
    print_table(["what", "measured", "computed", "sent"], table)
    wire = 2 * (sent + next(measured * factor for what, measured, _, factor in lines if what == "their gradients"))
    print(f"loopback device, both processes, median per step: {median(two, 'loopback'):,.0f} (expected: {wire:,.0f}, "
          "twice the last column, the reduce-scatter as in gloo)")  # fmt: skip
    figures = {"batch": batch, "steps": options.steps, "recipe": options.recipe, "runs": found, "traffic": lines}
    save_figures(options.output / "scaling.json", figures)


if __name__ == "__main__":
    run_command(main)
