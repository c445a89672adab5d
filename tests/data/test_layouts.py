"""Split local folders as `datasets.load_dataset` does, or raise and name both readings."""

import csv
import json

import datasets
import pytest

from modeling_clipscratch.data.load import load_data
from tests.data.conftest import images

SAME = "same"  # as load_dataset reads it


def rows(names):
    """Return {path of a table: number of its rows} of "path:number path:number"."""
    return {name: int(count) for name, count in (word.split(":") for word in names.split())}


# {path: number of rows of a table, rows of a metadata table, or None for an image}, then SAME, or a part of the error.
TABLES = {
    "names that begin with the split": (rows("train.csv:2 test.csv:1"), SAME),
    "names that end with the split": (rows("flickr30k_train.csv:2 flickr30k_val.csv:1 flickr30k_test.csv:3"), SAME),
    "jsonl": (rows("flickr30k-train.jsonl:2 flickr30k-dev.jsonl:1"), SAME),
    "parquet": (rows("partial-train-0000.parquet:2 partial-train-0001.parquet:1 partial-eval.parquet:1"), SAME),
    "shards in data": (rows("data/train-00000-of-00002.parquet:1 data/train-00001-of-00002.parquet:2"), SAME),
    "shards of a split of its own": (
        rows("data/train-00000-of-00001.parquet:2 data/restval-00000-of-00001.parquet:1"),
        SAME,
    ),
    "cifar10 as it is published": (
        rows("plain_text/train-00000-of-00001.parquet:2 plain_text/test-00000-of-00001.parquet:1"),
        SAME,
    ),
    "the word in the middle": (rows("my.train.rows.csv:2 my.valid.rows.csv:1"), SAME),
    "digits after the word": (rows("train2017.csv:2 val2017.csv:1"), SAME),
    "folders": (rows("train/rows.csv:2 validation/rows.csv:1 testing/rows.csv:1"), SAME),
    "folders with a word among others": (rows("my_train/rows.csv:2 my_test/rows.csv:1"), SAME),
    "folders of shards": (rows("train/0.parquet:2 train/1.parquet:1 evaluation/0.parquet:1"), SAME),
    "folders in a folder": (rows("rows/train/0.csv:2 rows/test/0.csv:1"), SAME),
    "latest is no test": (rows("latest.csv:3"), SAME),
    "contest is no test": (rows("contest.jsonl:3"), SAME),
    "trainer is no train": (rows("trainer_notes.parquet:3"), SAME),
    "one table": (rows("captions.csv:3"), SAME),
    "one table of a split": (rows("val.csv:3"), SAME),
    "two tables without a split": (rows("part_a.csv:3 part_b.csv:1"), SAME),
    "two words in a name": (rows("train_test.csv:3"), "test and train; name the file"),
    "another word than the folder's": (rows("train/test.csv:2 test/test.csv:1"), "test and train; name the file"),
    "configurations": (rows("en/rows.csv:2 de/rows.csv:1"), "'de', 'en' hold data .* --dataset_config de"),
    "configurations with splits": (rows("en/train.csv:2 de/train.csv:1"), "--dataset_config de"),
}
IMAGES = {
    "classes": (images("cat/1 dog/2 dog/3"), SAME),
    "split folders of classes": (images("train/cat/1 train/dog/2 test/cat/3"), SAME),
    "other words": (images("training/a/1 training/b/2 dev/a/3 dev/b/4"), SAME),
    "a photograph of a train": ({"cat/photo of a trainer.png": None, "dog/2.png": None}, SAME),
    "metadata": ({**images("1 2"), "metadata.csv": ["1.png", "2.png"]}, SAME),
    "metadata in JSON lines": ({**images("a/1 2"), "metadata.jsonl": ["a/1.png", "2.png"]}, SAME),
    "metadata in split folders": (
        {**images("train/1 val/2 val/3"), "train/metadata.csv": ["1.png"], "val/metadata.csv": ["2.png", "3.png"]},
        SAME,
    ),
    "metadata in each sub-folder": (
        {**images("a/1 b/1"), "a/metadata.csv": ["1.png"], "b/metadata.csv": ["1.png"]},
        SAME,
    ),
    "one metadata table for split folders": (
        {**images("train/1 train/2 test/3"), "metadata.csv": ["train/1.png", "train/2.png", "test/3.png"]},
        SAME,
    ),
    "split folders without classes": (images("train/1 test/2"), "neither classes nor captions"),
    "images alone": (images("1 2"), "neither classes nor captions"),
    "split words among classes": (images("train/1 test/2 car/3"), "folder_names splits"),
    "one class beside a split word": (images("train/1 car/3"), "folder_names splits"),
    "COCO's folders": (images("train2017/1 val2017/2"), "folder_names splits"),
    "folders of years with classes": (images("train2017/a/1 val2017/b/2"), "folder_names splits"),
    "split words at the end": (images("cats_train/1 cats_test/2"), "folder_names splits"),
    "splits in a folder": (images("images/train/1 images/val/2"), "splits 'train', 'validation'"),
    "splits in classes": (
        images("cat/train/1 cat/test/2 dog/train/3"),
        "splits 'test', 'train', which names of folders or files mean",
    ),
    "classes in a folder": (
        images("set/cat/1 set/dog/2"),
        "classes 'cat', 'dog'; .* give the folder that holds the classes",
    ),
    "shards": (images("00000/1 00001/2"), "img2dataset's shards, whose .txt files are missing"),
    "images and masks": (images("images/1 masks/1"), r"the images \(images\) and what belongs"),
    "images in a folder": (images("images/1 images/2"), "neither classes nor captions"),
    "split words in all file names": (
        images("cat/train_1 cat/test_2 dog/train_3"),
        "splits 'test', 'train', which names of folders or files mean",
    ),
    "metadata that names a file in no split": (
        {**images("train/1 test/2 3"), "metadata.csv": ["train/1.png", "test/2.png", "3.png"]},
        "row 3 has the split '', by its folder",
    ),
    "metadata above and in split folders": (
        {**images("train/1"), "train/metadata.csv": ["1.png"], "metadata.csv": ["train/1.png"]},
        SAME,
    ),
}


@pytest.fixture
def write_layout(tmp_path, encode):
    def write(layout):
        (tmp_path / "images").mkdir()
        for name, content in layout.items():
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.write_bytes(encode())
                continue
            names = content if isinstance(content, list) else []
            for row in range(0 if names else content):
                image = tmp_path / "images" / f"{name.replace('/', '-')}-{row}.png"
                image.write_bytes(encode())
                names.append(str(image))
            rows = [{"file_name": name, "caption": f"caption {row}"} for row, name in enumerate(names)]
            if path.suffix == ".csv":
                with open(path, "w", newline="") as file:
                    csv.writer(file).writerows([list(rows[0]), *(row.values() for row in rows)])
            elif path.suffix == ".jsonl":
                path.write_text("\n".join(map(json.dumps, rows)))
            else:
                datasets.Dataset.from_list(rows).to_parquet(path)
        return tmp_path / "set"

    return write


@pytest.mark.parametrize(("layout", "expected"), [*TABLES.values(), *IMAGES.values()], ids=[*TABLES, *IMAGES])
def test_splits_are_those_of_load_dataset_or_an_error_names_the_readings(tmp_path, write_layout, layout, expected):
    folder, options = write_layout(layout), {"validation_fraction": 0, "cache_dir": str(tmp_path / "cache")}
    if expected is not SAME:
        with pytest.raises(ValueError, match=expected):
            load_data(folder, **options)
        return
    theirs = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "theirs"))
    assert {split: len(part) for split, part in load_data(folder, **options).items()} == {
        split: len(part) for split, part in theirs.items()
    }


@pytest.mark.parametrize(
    "name", [name for name in TABLES if "parquet" in str(TABLES[name]) and TABLES[name][1] is SAME]
)
def test_a_stream_has_the_same_splits(tmp_path, write_layout, name):
    folder, options = write_layout(TABLES[name][0]), {"validation_fraction": 0, "cache_dir": str(tmp_path / "cache")}
    streams = load_data(folder, streaming=True, **options)
    rows = {split: len(part) for split, part in load_data(folder, **options).items()}
    assert {split: len(list(stream)) for split, stream in streams.items()} == rows


CHOICES = {  # layout, options -> rows by split, classes
    "classes named like splits": (
        images("train/1 test/2 car/3"),
        {"folder_names": "classes"},
        ({"train": 3}, ["car", "test", "train"]),
    ),
    "splits of years": (
        images("train2017/a/1 val2017/a/2 extra/a/3"),
        {"folder_names": "splits"},
        ({"train": 1, "validation": 1}, ["a"]),
    ),
    "numbers are classes": (images("00000/1 00001/2"), {"folder_names": "classes"}, ({"train": 2}, ["00000", "00001"])),
    "a folder in a folder": (images("set/cat/1 set/dog/2"), {"folder_names": "classes"}, ({"train": 2}, ["set"])),
    "the folder in it": (images("en/cat/1 en/dog/2 de/x/3"), {"dataset_config": "en"}, ({"train": 2}, ["cat", "dog"])),
    "a class called train": (images("bus/1 car/2 train/3"), {}, ({"train": 3}, ["bus", "car", "train"])),
    "a split without classes": (images("train/cat/1 train/dog/2 test/3"), {}, ({"train": 2}, ["cat", "dog"])),
    "a folder beside the splits": (images("train/a/1 test/a/2 old/3"), {}, ({"train": 1, "test": 1}, ["a"])),
}


@pytest.mark.parametrize(("names", "options", "expected"), CHOICES.values(), ids=CHOICES)
def test_an_option_chooses_a_reading(write_layout, names, options, expected):
    data = load_data(write_layout(names), validation_fraction=0, **options)
    assert ({split: len(part) for split, part in data.items()}, data["train"].features["label"].names) == expected
