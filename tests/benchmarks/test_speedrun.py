"""Check what the speed run records of small runs, and the table of its marks."""

import json
import time
from argparse import Namespace

import pytest

from benchmarks.reporting import REPOSITORY
from benchmarks.speedrun import attempt, main
from modeling_clipscratch.training.trainer import ClipScratchTrainer

DIGITS = str(REPOSITORY / "configuration" / "digits.yaml")
SMALL = ["--text_num_layers", "1", "--vision_num_layers", "1"]


@pytest.mark.slow
def test_evaluations_count_images_and_seconds_of_training_only(tmp_path, monkeypatch):
    evaluate, clock, measuring = ClipScratchTrainer.evaluate, time.perf_counter, []

    def slow(*args, **kwargs):
        measuring.append(1000)  # seconds
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(ClipScratchTrainer, "evaluate", slow)
    monkeypatch.setattr("benchmarks.speedrun.time.perf_counter", lambda: clock() + sum(measuring))
    options = Namespace(images=256, evaluations=2, output=tmp_path, dataset=None, text_tower=None)
    run = attempt(DIGITS, 1, options, [*SMALL, "--global_batch_size", "32"])
    assert [evaluation["images"] for evaluation in run["evaluations"]] == [128, 256]
    first, second = (evaluation["seconds"] for evaluation in run["evaluations"])
    assert 0 < second - first < 1000  # an evaluation lies between them
    assert run["images"] == 256 and run["operations"] > 1e6
    assert 0 <= run["test_top1"] <= 1
    assert ClipScratchTrainer.evaluate is slow  # restored


def test_runs_of_other_processes_are_joined(tmp_path, capsys):
    files = []
    for seed, images, top1 in [(1, 1000, 0.52), (2, 1000, 0.58), (3, 2000, 0.71)]:
        evaluations = [{"images": images, "top1": top1, "seconds": 10.0 * seed}]
        run = {"recipe": "some/a.yaml", "seed": seed, "images": images, "operations": 1e9, "evaluations": evaluations}
        files.append(tmp_path / f"{seed}.json")
        files[-1].write_text(json.dumps({"machine": "one", "runs": [{**run, "test_top1": top1 + 0.01}]}))
    main([*map(str, files), "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "a.yaml, 1,000 images: test top-1 56.0%, standard deviation 4.2%, seeds 1, 2" in printed
    assert "a.yaml, 2,000 images: test top-1 72.0%, seeds 3" in printed
    marks = [line.split()[1:4] for line in printed.splitlines() if line.startswith("50%")]
    assert marks == [["1,000", "1", "15"], ["2,000", "2", "30"]]
    assert (tmp_path / "speedrun.png").stat().st_size > 10_000
