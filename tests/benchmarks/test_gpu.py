"""Check that every part of the GPU benchmark writes its figures, in its small form."""

import json

import pytest

from benchmarks import gpu


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
    assert 0 < found["c"]["busy"]["plain"] <= 1 and 0 < found["c"]["outside"] < 1
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
