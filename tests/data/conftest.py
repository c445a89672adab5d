"""Write small sets of images, and load them."""

from pathlib import Path

import datasets
import pytest

from modeling_clipscratch.data.load import load_data


def color(number):
    """The color that stands for a row."""
    return (number % 200, number // 200, 7)


def images(names):
    """Names of images without `.png`, with blanks between -> files for `write_files`."""
    return dict.fromkeys(f"{name}.png" for name in names.split())


@pytest.fixture
def load(tmp_path):
    """(path, split, options of `load_data`) -> the split, whole."""

    def load_here(path, split="train", **options):
        return load_data(path, **{"validation_fraction": 0, "cache_dir": str(tmp_path / "cache")} | options)[split]

    return load_here


@pytest.fixture
def image_folder(write_files, encode):
    """A folder with `images/a.png`, `b.png` and `c.png`: red, blue and lime."""
    colours = {"a": "red", "b": "blue", "c": "lime"}
    return write_files({f"images/{name}.png": encode(colour) for name, colour in colours.items()})


@pytest.fixture(scope="session")
def make_table(encode):
    """Further columns, or other cells of images -> dataset; row n is an image of color n."""

    def make(**columns):
        count = len(next(iter(columns.values())))
        cells = [{"bytes": encode(color(n)), "path": None} for n in range(count)]
        return datasets.Dataset.from_dict({"image": cells, **columns}).cast_column("image", datasets.Image())

    return make


@pytest.fixture(scope="session")
def write_shards(write_shard):
    """Writes shards of a table with keys and captions: `tars/train/0.tar`, `parquet/train-0.parquet`, ..."""

    def write(folder: Path, table, sizes, *, batch_size) -> tuple[Path, Path]:
        tars, files, row = folder / "tars", folder / "parquet", 0
        files.mkdir()
        for shard, size in enumerate(sizes):
            part = table.select(range(row, row := row + size))
            part.to_parquet(str(files / f"train-{shard}.parquet"), batch_size=batch_size)
            members = {}
            for cell in part.cast_column("image", datasets.Image(decode=False)):
                members[f"{cell['key']}.png"] = cell["image"]["bytes"]
                members[f"{cell['key']}.txt"] = "\n".join(cell["captions"]).encode()
            write_shard(tars / "train" / f"{shard}.tar", members)
        return tars, files

    return write


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
