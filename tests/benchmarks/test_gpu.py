"""Check that every part of the GPU benchmark writes its figures, in its small form."""

import json

import pytest

from benchmarks import gpu
from modeling_clipscratch.training.recipe.recipe import parse_recipe


def figures_of(folder, *options):
    gpu.main(["--small", "--no_compile", "--output", str(folder), *options])
    return {path.stem[-1]: json.loads(path.read_text()) for path in folder.glob("gpu_?.json")}


@pytest.mark.slow
def test_every_part_writes_rate_mfu_and_accuracy(tmp_path):
    found = figures_of(tmp_path, "--images", "320", "--steps", "2")
    assert set(found) == set("abcd")
    for part, figures in found.items():
        assert "error" not in figures and figures["machine"] and figures["peak"] > 0, part
        for way in figures["ways"].values():
            assert way["rate"] > 0
            assert way["mfu"] == pytest.approx(way["rate"] * figures["operations"] / figures["peak"])
    assert found["a"]["images"] == 320 and 0 <= found["a"]["test_top1"] <= 1
    assert set(found["b"]["ways"]) == {"ClipScratch", "by hand"} and set(found["c"]["ways"]) == {"plain", "workers"}
    assert found["c"]["ways"]["plain"]["between_steps_share"] > 0 and 0 < found["c"]["busy"]["plain"] <= 1
    assert 0 < found["c"]["outside"] < 1
    assert 0 <= found["d"]["validation"]["text_to_image_recall@10"] <= 1


def test_figures_of_a_part_that_fails_are_kept(tmp_path, monkeypatch):
    def fails(options, compiled, figures):
        figures.note(operations=1.0)
        figures.note_way("first", 5.0)
        raise RuntimeError("out of memory")

    monkeypatch.setitem(gpu.PARTS, "b", fails)
    with pytest.raises(ValueError, match="^part b failed; its error is above and in gpu_b.json.$"):
        figures_of(tmp_path, "--parts", "b")
    kept = json.loads((tmp_path / "gpu_b.json").read_text())
    assert kept["ways"]["first"]["rate"] == 5.0 and "out of memory" in kept["error"]


def test_missing_folders_raise_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="^--cifar10 is missing"):
        gpu.main(["--parts", "a", "--text_tower", "x", "--output", str(tmp_path)])


@pytest.mark.parametrize(
    ("intervals", "share"), [([(0, 4)], 1.0), ([(0, 1), (3, 4)], 0.5), ([(2, 3), (0, 1), (0.5, 1)], 2 / 3)]
)
def test_busy_share_counts_overlaps_once(intervals, share):
    assert gpu.busy_share(intervals) == pytest.approx(share)


def test_budget_in_the_cifar10_recipe_follows_from_its_sizes():
    model, data, args, _ = parse_recipe([str(gpu.CIFAR10)])
    tokens = (model.image_size // model.patch_size) ** 2 + 1
    width, layers = model.vision_hidden_size, model.vision_num_layers
    forward = layers * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width)
    assert round(3 * forward / 1e9, 1) == 6.4 and "6.4 with the backward pass" in gpu.CIFAR10.read_text()
    assert args.muon_learning_rate and not args.logging_nan_inf_filter
