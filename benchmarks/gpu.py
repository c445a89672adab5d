"""Measure MFU, images/s and accuracy of four trainings on a GPU.

python -m benchmarks.gpu --parts a --cifar10 DATA/wds_vtab-cifar10 --text_tower MODELS/minilm-l6-distilbert
python -m benchmarks.gpu --parts b c d --cifar10 DATA/wds_vtab-cifar10 --flickr8k DATA/wds_flickr8k \
    --text_tower MODELS/minilm-l6-distilbert --vision_tower MODELS/vit-tiny-patch16-224

a  CIFAR-10 from scratch (`gpu_cifar10.yaml`), for `--minutes` of training: top-1 on the test split.
b  ViT-B/16 at 224 pixels: MFU of ClipScratch, and of the step by hand.
c  ViT 192 wide at 32 pixels, batch 4,096: images/s, and how long the GPU waits for the host.
d  Flickr8k, both pretrained towers fully trained: recall on validation.

All are whole training runs. MFU is the share of the rate of matrix products, measured in the same call: operations as
torch counts them (of the step by hand; in a and d of ClipScratch, with captions of the greatest length), over the
time. Each part writes `gpu_<part>.json` after each result; if one fails, its error is kept there and the next part
begins. Data are folders or built in, so nothing is downloaded. `--small` runs the same in seconds on any machine, as a
check; `--fields` change the recipes of a and d.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import tempfile
import time
import traceback
from pathlib import Path

import torch
from transformers import DistilBertConfig

from modeling_clipscratch.cli.command_line import quiet_libraries, run_command
from modeling_clipscratch.training.callbacks import StepUpdates
from modeling_clipscratch.training.optimization.device import choose_precision, no_accelerator
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train
from modeling_clipscratch.training.trainer import ClipScratchTrainer

from . import step_contestants as ways
from . import train_step
from .reporting import REPOSITORY, machine, parser_of, print_table, save_figures
from .speedrun import Watch, attempt

CIFAR10 = REPOSITORY / "benchmarks" / "gpu_cifar10.yaml"
FLICKR8K = REPOSITORY / "configuration" / "flickr8k.yaml"
ONLY_STEPS = {
    "eval_strategy": "no", "save_strategy": "no", "test_split": "none", "disable_tqdm": "true",
    "overwrite_output_dir": "true",
}  # fmt: skip
# With only the last blocks trained, 7 epochs were enough; tower rate and augmentation are those of that run.
WHOLE_TOWERS = {
    "freeze_text": "false", "freeze_vision": "false", "num_train_epochs": 15, "global_batch_size": 256,
    "learning_rate": 1e-3, "tower_learning_rate": 1e-4, "random_crop_min_area": 0.6, "horizontal_flip": 0.5,
    "ema_decay": 0.99, **ONLY_STEPS,
}  # fmt: skip
BATCH, STEPS = {"224": 256, "32": 4096}, {"224": 20, "32": 40}
TINY = {"vision_hidden_size": 32, "vision_num_layers": 1, "vision_num_heads": 2}
SMALL = {
    "a": {"dataset": "digits", "text_tower": "distilbert", **TINY, "global_batch_size": 64},
    "d": {
        "dataset": "scenes", "text_tower": "distilbert", "text_hidden_size": 32, "text_num_layers": 1,
        "vision_tower": "vit", "image_size": 32, "patch_size": 16, **TINY, "global_batch_size": 32, "max_steps": 2,
        "logging_steps": 1, "keep_in_memory": "false",
    },
}  # fmt: skip
SMALL_REGIME = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "heads": 2, "batch": 32}


class Figures(dict):
    """The figures of a part, written to disk after each change."""

    def __init__(self, path: Path, **begun):
        super().__init__(begun)
        self.path = path

    def note(self, **found) -> None:
        self.update(found)
        save_figures(self.path, self)

    @contextlib.contextmanager
    def kept(self, way: str):
        """Keep the error of a way that fails, so that the next can begin."""
        try:
            yield
        except Exception:
            traceback.print_exc()
            self.note(failed={**self.get("failed", {}), way: traceback.format_exc()})

    def note_way(self, way: str, rate: float, **more) -> None:
        mfu = rate * self["operations"] / self["peak"]
        self.note(ways={**self.get("ways", {}), way: {"rate": rate, "mfu": mfu, **more}})


def cifar10(options, compiled: dict, figures: Figures) -> None:
    """Part a: train for the given minutes, then measure the test split."""
    fields = {**compiled, **options.fields, **(SMALL["a"] if options.small else {})}
    words = [str(CIFAR10), *ways.words_of({"dataset": options.cifar10, "text_tower": options.text_tower, **fields})]
    args = parse_recipe(words)[2]
    images = options.images
    if images is None:
        steps = options.steps or 40
        try:
            start, end = ways.steps_of_recipe(
                [*words, *ways.words_of({**ONLY_STEPS, "output_dir": options.output / "rate"})], steps
            )
        except Exception as error:
            if not compiled:
                raise
            print(f"without torch.compile: {' '.join(str(error).split())[:200]}", flush=True)
            return cifar10(options, {}, figures)
        rate = args.global_batch_size * steps / (end - start)
        images = round(min(60 * options.minutes * rate, args.num_train_epochs * 45_000))
        figures.note(rate_before=rate)
        print(f"{rate:,.0f} images/s; {images:,} images take {options.minutes} minutes", flush=True)
    settings = argparse.Namespace(output=options.output, dataset=None, text_tower=None, images=images, evaluations=5)
    run = attempt(str(CIFAR10), options.seed, settings, words[1:])
    first, last = run["evaluations"][0], run["evaluations"][-1]
    rate = (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])
    figures.note(**run, seconds=last["seconds"])
    figures.note_way("cifar10", rate)


def vit_b(options, compiled: dict, figures: Figures) -> None:
    """Part b: images/s and MFU of ViT-B/16, with and without the compiler, and by hand."""
    with _regime(options, "224", options.flickr8k) as (regime, steps):
        figures.note(operations=_operations(regime), batch=regime.batch)
        tried = {train_step.OURS: {}} | ({f"{train_step.OURS}, compiled": compiled} if compiled else {})
        for way, fields in tried.items():
            with figures.kept(way):
                figures.note_way(way, _rate(regime, steps, ways.steps_of_clipscratch(regime, steps, **fields)))
        figures.note_way(train_step.HAND, _rate(regime, steps, (0, ways.by_hand(regime, steps))))


def small_images(options, compiled: dict, figures: Figures) -> None:
    """Part c: images/s at 32 pixels, and the time between the steps, with and without workers."""
    workers = {"dataloader_num_workers": 2 if options.small else 4, "dataloader_persistent_workers": "true"}
    tried = {"plain": {}, "workers": workers}
    tried |= {"compiled": compiled, "compiled, workers": {**compiled, **workers}} if compiled else {}
    tried = {way: {**fields, "logging_steps": 10} for way, fields in tried.items()}  # the default of the package
    with _regime(options, "32", options.cifar10) as (regime, steps):
        figures.note(operations=_operations(regime), batch=regime.batch)
        for way, fields in tried.items():
            with figures.kept(way), Gaps() as gaps:
                times = ways.steps_of_clipscratch(regime, steps, **fields)
                step = (times[1] - times[0]) / steps
                figures.note_way(way, _rate(regime, steps, times), step=step, **gaps.summary(steps, step))
        for way in {"plain", "compiled"} & figures["ways"].keys():
            figures.note(busy={**figures.get("busy", {}), way: _busy(regime, tried[way])})
        if no_accelerator():
            parts = train_step.parts_of_a_step(regime, steps)
            outside = parts["whole"] - sum(parts[part] for part in ("forward and loss", "backward", "optimizer"))
            figures.note(parts=parts, outside=outside / parts["whole"])


class Gaps:
    """Measure the time from the end of a step to the begin of the next, when a GPU has no work of a step. The copy of a
    batch lies there; waiting inside a step does not count (`_busy` measures it)."""

    def __init__(self):
        self._ends, self._begins = [], []

    def __enter__(self):
        self._step, self._last = ClipScratchTrainer.training_step, StepUpdates.on_step_end
        gaps = self

        def training_step(trainer, *args, **kwargs):
            gaps._begins.append(_mark())
            return gaps._step(trainer, *args, **kwargs)

        def on_step_end(callback, *args, **kwargs):
            gaps._last(callback, *args, **kwargs)
            gaps._ends.append(_mark())

        ClipScratchTrainer.training_step, StepUpdates.on_step_end = training_step, on_step_end
        return self

    def __exit__(self, *error):
        ClipScratchTrainer.training_step, StepUpdates.on_step_end = self._step, self._last

    def summary(self, steps: int, step: float) -> dict:
        """Return the mean seconds between two timed steps and their share of a step."""
        ways.now()
        chosen = slice(ways.WARM_UP, ways.WARM_UP + steps - 1)  # at the last one the clock waits for the device
        pairs = list(zip(self._ends[chosen], self._begins[1:][chosen], strict=True))
        gap = sum(_between(end, begin) for end, begin in pairs) / len(pairs)
        return {"between_steps": gap, "between_steps_share": gap / step}


def _mark():
    if not torch.cuda.is_available():
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(end, begin) -> float:
    return begin - end if isinstance(end, float) else end.elapsed_time(begin) / 1000


def busy_share(intervals: list[tuple[float, float]]) -> float:
    """Return the share of the time from the first begin to the last end in which something ran.

    >>> busy_share([(0, 2), (1, 3), (5, 6), (5.5, 5.7)])
    0.6666666666666666
    """
    busy, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        busy += max(end - max(begin, reached), 0)
        reached = max(end, reached)
    return busy / (reached - min(begin for begin, _ in intervals))


def _busy(regime, fields: dict) -> float:
    """Return the busy share of ten profiled steps: a lower bound, because the profiler slows the host."""
    from torch.profiler import ProfilerActivity, profile

    cpu = no_accelerator()
    profiler = profile(activities=[ProfilerActivity.CPU if cpu else ProfilerActivity.CUDA])
    step, done = ClipScratchTrainer.training_step, []

    def switched(self, *args, **kwargs):
        done.append(1)
        if len(done) in (ways.WARM_UP + 1, ways.WARM_UP + 11):
            ways.now()
            profiler.start() if len(done) == ways.WARM_UP + 1 else profiler.stop()
        return step(self, *args, **kwargs)

    ClipScratchTrainer.training_step = switched
    try:
        ways.steps_of_clipscratch(regime, 10, **fields)
    finally:
        ClipScratchTrainer.training_step = step
    device = torch.autograd.DeviceType.CPU if cpu else torch.autograd.DeviceType.CUDA
    ran = [event for event in profiler.events() if event.device_type == device]
    # Events of whole optimizer steps overlap the kernels of a GPU and would hide the gaps between these.
    return busy_share([(e.time_range.start, e.time_range.end) for e in ran if not e.name.startswith("Optimizer.")])


def flickr8k(options, compiled: dict, figures: Figures) -> None:
    """Part d: recall of the final weights on validation."""
    fields = {"dataset": options.flickr8k, "text_tower": options.text_tower, "vision_tower": options.vision_tower}
    fields |= {**WHOLE_TOWERS, **options.fields, **(SMALL["d"] if options.small else {}), "seed": options.seed}
    folder = options.output / "flickr8k-whole"
    with Watch() as watch:
        [metrics] = train(*parse_recipe([str(FLICKR8K), *ways.words_of({**fields, "output_dir": folder})])).values()
    lines = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    first, *_, last = (line for line in lines if "images_seen" in line)
    seconds = last["seconds"] - first["seconds"]  # the first log line includes the start-up of the device
    rate = (last["images_seen"] - first["images_seen"]) / seconds
    figures.note(images=last["images_seen"], seconds=last["seconds"], operations=watch.operations)
    figures.note(validation=metrics)
    figures.note_way("flickr8k", rate)


PARTS = {"a": cifar10, "b": vit_b, "c": small_images, "d": flickr8k}


@contextlib.contextmanager
def _regime(options, name: str, dataset: str | None):
    """Yield a regime of `train_step` with a batch for GPUs, and the number of steps to time."""
    sizes = {**train_step.REGIMES[name], "batch": BATCH[name]}
    steps, text = options.steps or STEPS[name], None
    if options.small:
        sizes, dataset, steps = SMALL_REGIME, "digits", 3
        text = DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64)
    with tempfile.TemporaryDirectory() as folder:
        yield ways.make_regime(dataset or "scenes", Path(folder), text=text, **sizes), steps


def _rate(regime, steps, times) -> float:
    return regime.batch * steps / (times[1] - times[0])


def _operations(regime) -> float:
    few = dataclasses.replace(regime, batch=8)
    return train_step.operations(few) / few.batch


def can_compile() -> bool:
    """Return whether torch.compile works here; `False` without a GPU."""
    if no_accelerator():
        return False
    try:
        tensor = torch.ones(8, device=torch.accelerator.current_accelerator(), requires_grad=True)
        torch.compile(lambda x: (x.sin() + 1).sum())(tensor).backward()
    except Exception as error:  # Triton or a C compiler may be missing; then measure without it
        print(f"without torch.compile: {' '.join(str(error).split())[:200]}", flush=True)
        return False
    return True


def show(part: str, figures: Figures) -> None:
    """Print one line per way, and the accuracy."""
    lines = [
        [way, f"{of['rate']:,.0f}", f"{of['mfu']:.1%}", f"{of['between_steps_share']:.1%}" if "step" in of else "-"]
        for way, of in figures["ways"].items()
    ]
    print_table([f"part {part}", "images/s", "MFU", "between steps"], lines)
    for way, share in figures.get("busy", {}).items():
        print(f"{way}: the device is busy for at least {share:.1%} of the time")
    accuracy = {name: value for name, value in figures.get("validation", {}).items() if "recall@" in name}
    accuracy |= {"test top-1": figures["test_top1"]} if "test_top1" in figures else {}
    print(*(f"{name}: {value:.1%}" for name, value in accuracy.items() if not name.endswith("ci95")), sep="\n")


def main(arguments: list[str]) -> None:
    parser = parser_of("gpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    for name in ("cifar10", "flickr8k", "text_tower", "vision_tower"):
        parser.add_argument(f"--{name}", help="a folder")
    parser.add_argument("--minutes", type=float, default=6, help="minutes of training in part a")
    parser.add_argument("--images", type=int, help="training images of part a, in place of minutes")
    parser.add_argument("--steps", type=int, help="timed steps per way")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fields", nargs="+", default=[], metavar="NAME=VALUE", help="fields of the recipes of a and d"
    )
    parser.add_argument("--no_compile", action="store_true")
    parser.add_argument("--small", action="store_true", help="a check in seconds, on built-in data")
    options = parser.parse_args(arguments)
    options.fields = dict(field.split("=", 1) for field in options.fields)
    needs = {"a": ("cifar10", "text_tower"), "d": ("flickr8k", "text_tower", "vision_tower")}
    for name in () if options.small else sorted({name for part in options.parts for name in needs.get(part, ())}):
        if getattr(options, name) is None:
            raise ValueError(f"--{name} is missing and these parts need it; set it to a folder, or leave the part out.")
    quiet_libraries()
    precision = choose_precision(use_cpu=no_accelerator())
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    compiled = {"torch_compile": "true"} if not options.no_compile and can_compile() else {}
    peak = train_step.matmul_peak(dtype)
    print(f"{machine()}; {precision}, peak {peak / 1e12:.2f} TFLOP/s", flush=True)
    failed = []
    for part in options.parts:
        began = time.perf_counter()
        figures = Figures(options.output / f"gpu_{part}.json", precision=precision, peak=peak)
        try:
            PARTS[part](options, compiled, figures)
            show(part, figures)
            failed += [part] if "failed" in figures else []
        except Exception:
            traceback.print_exc()
            failed.append(part)
            figures.note(error=traceback.format_exc())
        figures.note(part_seconds=time.perf_counter() - began)
        print(f"part {part}: {figures['part_seconds']:.0f} s in all", flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        torch.compiler.reset()
    if failed:
        raise ValueError(f"part {', '.join(failed)} failed; its error is above and in gpu_{failed[0]}.json.")


if __name__ == "__main__":
    run_command(main)
