"""A run in miniature goes in; what `Watch` saw of it, and the table of its marks, are checked."""

import json
import time
from argparse import Namespace

import pytest

from benchmarks.reporting import REPOSITORY
from benchmarks.speedrun import attempt, main, table
from modeling_clipscratch.training.trainer import ClipScratchTrainer

DIGITS = str(REPOSITORY / "configuration" / "digits.yaml")
SMALL = ["--text_num_layers", "1", "--vision_num_layers", "1", "--global_batch_size", "32"]


def test_looks_are_counted_in_pictures_and_in_seconds_of_training(tmp_path, monkeypatch):
    evaluate = ClipScratchTrainer.evaluate

    def slow(*args, **kwargs):
        time.sleep(3)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(ClipScratchTrainer, "evaluate", slow)
    options = Namespace(pictures=256, looks=2, output=tmp_path, dataset=None, text_tower=None)
    run = attempt(DIGITS, 1, options, SMALL)
    assert [look["pictures"] for look in run["looks"]] == [128, 256]
    first, second = (look["seconds"] for look in run["looks"])
    assert 0 < second - first < 3  # the sleep lies between them
    assert run["pictures"] == 256 and run["operations"] > 1e6
    assert 0 <= run["test_top1"] <= 1
    assert ClipScratchTrainer.evaluate is slow  # put back


def test_table_is_of_the_seeds_that_reached_a_mark():
    low, high = ({"pictures": 1000, "top1": 0.55, "seconds": 8}, {"pictures": 3000, "top1": 0.72, "seconds": 24})
    runs = [{"operations": 1e9, "looks": [low]}, {"operations": 1e9, "looks": [low, high]}]
    lines = table(runs)
    assert [line[0] for line in lines] == ["50%", "60%", "70%"]
    assert lines[0] == ["50%", "1,000", "1", "8", "2 of 2"]
    assert lines[2] == ["70%", "3,000", "3", "24", "1 of 2"]


@pytest.mark.parametrize("batch", [32, 64])
def test_looks_end_with_the_last_step(tmp_path, batch):
    options = Namespace(pictures=320, looks=3, output=tmp_path, dataset=None, text_tower=None)
    looks = attempt(DIGITS, 0, options, [*SMALL[:4], "--global_batch_size", str(batch)])["looks"]
    assert looks[-1]["pictures"] == 320


def test_runs_of_other_processes_are_told_together(tmp_path, capsys):
    def run(seed, pictures, top1, test):
        looks = [{"pictures": pictures, "top1": top1, "seconds": 10.0 * seed}]
        return {"recipe": "some/a.yaml", "seed": seed, "pictures": pictures, "operations": 1e9, "looks": looks, **test}

    files = []
    for seed, pictures, top1 in [(1, 1000, 0.52), (2, 1000, 0.58), (3, 2000, 0.71)]:
        files.append(tmp_path / f"{seed}.json")
        figures = {"machine": "one", "runs": [run(seed, pictures, top1, {"test_top1": top1 + 0.01})]}
        files[-1].write_text(json.dumps(figures))
    main([*map(str, files), "--output", str(tmp_path)])
    told = capsys.readouterr().out
    assert "a.yaml, 1,000 pictures: test top-1 56.0%, standard deviation 4.2%, seeds 1, 2" in told
    assert "a.yaml, 2,000 pictures: test top-1 72.0%, seeds 3" in told
    assert [line.split()[1:4] for line in told.splitlines() if line.startswith("50%")] == [
        ["1,000", "1", "15"],
        ["2,000", "2", "30"],
    ]
    assert (tmp_path / "speedrun.png").stat().st_size > 10_000
