"""Write small sets of images, and load them."""

from pathlib import Path

import pytest

from modeling_clipscratch.data import load_data


@pytest.fixture
def load(tmp_path):
    """(path, split, options of `load_data`) -> the split, whole."""

    def load_here(path, split="train", **options):
        return load_data(path, **{"validation_fraction": 0, "cache_dir": str(tmp_path / "cache")} | options)[split]

    return load_here


@pytest.fixture
def pictures(write_files, encode):
    """A folder with `images/a.png`, `b.png` and `c.png`: red, blue and lime."""
    colours = {"a": "red", "b": "blue", "c": "lime"}
    return write_files({f"images/{name}.png": encode(colour) for name, colour in colours.items()})


@pytest.fixture(scope="session")
def write_class_set(write_shard, encode):
    """Writes a class set in CLIP_benchmark's layout: two shards of two samples a split, red is 0 and blue is 1."""

    def write(folder: Path, splits=("train", "test")) -> Path:
        for split in splits:
            for shard in range(2):
                members = {}
                for label, colour in enumerate(("red", "blue")):
                    key = f"s{2 * shard + label:07d}"
                    members |= {f"{key}.cls": str(label).encode(), f"{key}.webp": encode(colour, "WEBP", lossless=True)}
                write_shard(folder / split / f"{shard}.tar", members)
            (folder / split / "nshards.txt").write_text("2")
        (folder / "classnames.txt").write_text("red\ndeep blue\n")
        (folder / "zeroshot_classification_templates.txt").write_text("a {c} thing.\nall {c}.\n")
        return folder

    return write
