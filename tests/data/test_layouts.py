"""Splits of local folders: those of `datasets.load_dataset`, or a refusal that names both readings."""

import csv
import json

import datasets
import pytest

from modeling_clipscratch.data import load_data

SAME = "same"  # as load_dataset reads it

# {path: number of rows of a table, rows of a metadata table, or None for an image}, then SAME, or words of the refusal.
TABLES = {
    "names that begin with the split": ({"train.csv": 2, "test.csv": 1}, SAME),
    "names that end with the split": (
        {"flickr30k_train.csv": 2, "flickr30k_val.csv": 1, "flickr30k_test.csv": 3},
        SAME,
    ),
    "jsonl": ({"flickr30k-train.jsonl": 2, "flickr30k-dev.jsonl": 1}, SAME),
    "parquet": ({"partial-train-0000.parquet": 2, "partial-train-0001.parquet": 1, "partial-eval.parquet": 1}, SAME),
    "shards in data": ({"data/train-00000-of-00002.parquet": 1, "data/train-00001-of-00002.parquet": 2}, SAME),
    "shards of a split of its own": (
        {"data/train-00000-of-00001.parquet": 2, "data/restval-00000-of-00001.parquet": 1},
        SAME,
    ),
    "cifar10 as it is published": (
        {"plain_text/train-00000-of-00001.parquet": 2, "plain_text/test-00000-of-00001.parquet": 1},
        SAME,
    ),
    "the word in the middle": ({"my.train.rows.csv": 2, "my.valid.rows.csv": 1}, SAME),
    "digits after the word": ({"train2017.csv": 2, "val2017.csv": 1}, SAME),
    "folders": ({"train/rows.csv": 2, "validation/rows.csv": 1, "testing/rows.csv": 1}, SAME),
    "folders with a word among others": ({"my_train/rows.csv": 2, "my_test/rows.csv": 1}, SAME),
    "folders of shards": ({"train/0.parquet": 2, "train/1.parquet": 1, "evaluation/0.parquet": 1}, SAME),
    "folders in a folder": ({"rows/train/0.csv": 2, "rows/test/0.csv": 1}, SAME),
    "latest is no test": ({"latest.csv": 3}, SAME),
    "contest is no test": ({"contest.jsonl": 3}, SAME),
    "trainer is no train": ({"trainer_notes.parquet": 3}, SAME),
    "one table": ({"captions.csv": 3}, SAME),
    "one table of a split": ({"val.csv": 3}, SAME),
    "two tables without a split": ({"part_a.csv": 3, "part_b.csv": 1}, SAME),
    "two words in a name": ({"train_test.csv": 3}, "test and for train; name the file"),
    "another word than the folder's": ({"train/test.csv": 2, "test/test.csv": 1}, "test and for train; name the file"),
    "configurations": ({"en/rows.csv": 2, "de/rows.csv": 1}, "'de', 'en' hold tables .* --dataset_config de"),
    "configurations with splits": ({"en/train.csv": 2, "de/train.csv": 1}, "--dataset_config de"),
}
IMAGES = {
    "classes": ({"cat/1.png": None, "dog/2.png": None, "dog/3.png": None}, SAME),
    "split folders of classes": ({"train/cat/1.png": None, "train/dog/2.png": None, "test/cat/3.png": None}, SAME),
    "other words": (
        {"training/a/1.png": None, "training/b/2.png": None, "dev/a/3.png": None, "dev/b/4.png": None},
        SAME,
    ),
    "a photograph of a train": ({"cat/photo of a trainer.png": None, "dog/2.png": None}, SAME),
    "metadata": ({"1.png": None, "2.png": None, "metadata.csv": ["1.png", "2.png"]}, SAME),
    "metadata in JSON lines": ({"a/1.png": None, "2.png": None, "metadata.jsonl": ["a/1.png", "2.png"]}, SAME),
    "metadata in split folders": (
        {
            "train/1.png": None,
            "train/metadata.csv": ["1.png"],
            "val/2.png": None,
            "val/3.png": None,
            "val/metadata.csv": ["2.png", "3.png"],
        },
        SAME,
    ),
    "metadata in each sub-folder": (
        {"a/1.png": None, "a/metadata.csv": ["1.png"], "b/1.png": None, "b/metadata.csv": ["1.png"]},
        SAME,
    ),
    "one metadata table for split folders": (
        {
            "train/1.png": None,
            "train/2.png": None,
            "test/3.png": None,
            "metadata.csv": ["train/1.png", "train/2.png", "test/3.png"],
        },
        SAME,
    ),
    "split folders without classes": ({"train/1.png": None, "test/2.png": None}, "neither classes nor captions"),
    "images alone": ({"1.png": None, "2.png": None}, "neither classes nor captions"),
    "split words among classes": ({"train/1.png": None, "test/2.png": None, "car/3.png": None}, "folder_names splits"),
    "one class beside a split word": ({"train/1.png": None, "car/3.png": None}, "folder_names splits"),
    "COCO's folders": ({"train2017/1.png": None, "val2017/2.png": None}, "folder_names splits"),
    "folders of years with classes": ({"train2017/a/1.png": None, "val2017/b/2.png": None}, "folder_names splits"),
    "split words at the end": ({"cats_train/1.png": None, "cats_test/2.png": None}, "folder_names splits"),
    "splits in a folder": ({"images/train/1.png": None, "images/val/2.png": None}, "splits 'train', 'validation'"),
    "splits in classes": (
        {"cat/train/1.png": None, "cat/test/2.png": None, "dog/train/3.png": None},
        "splits 'test', 'train', which lie in them",
    ),
    "classes in a folder": ({"set/cat/1.png": None, "set/dog/2.png": None}, "classes 'cat', 'dog'; .* give .*set"),
    "shards": ({"00000/1.png": None, "00001/2.png": None}, "img2dataset's shards, whose .txt files are missing"),
    "images and masks": ({"images/1.png": None, "masks/1.png": None}, r"the images \(images\) and what belongs"),
    "images in a folder": ({"images/1.png": None, "images/2.png": None}, "neither classes nor captions"),
    "split words in all file names": (
        {"cat/train_1.png": None, "cat/test_2.png": None, "dog/train_3.png": None},
        "files are named after the splits 'test', 'train'",
    ),
    "metadata that names a file in no split": (
        {
            "train/1.png": None,
            "test/2.png": None,
            "3.png": None,
            "metadata.csv": ["train/1.png", "test/2.png", "3.png"],
        },
        "names 3.png, which is in none",
    ),
    "metadata above and in split folders": (
        {"train/1.png": None, "train/metadata.csv": ["1.png"], "metadata.csv": ["train/1.png"]},
        "lies beside split folders",
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
def test_splits_are_those_of_load_dataset_or_refused(tmp_path, write_layout, layout, expected):
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
        ["train/1.png", "test/2.png", "car/3.png"],
        {"folder_names": "classes"},
        ({"train": 3}, ["car", "test", "train"]),
    ),
    "splits of years": (
        ["train2017/a/1.png", "val2017/a/2.png", "extra/a/3.png"],
        {"folder_names": "splits"},
        ({"train": 1, "validation": 1}, ["a"]),
    ),
    "numbers are classes": (
        ["00000/1.png", "00001/2.png"],
        {"folder_names": "classes"},
        ({"train": 2}, ["00000", "00001"]),
    ),
    "a folder in a folder": (["set/cat/1.png", "set/dog/2.png"], {"folder_names": "classes"}, ({"train": 2}, ["set"])),
    "the folder in it": (
        ["en/cat/1.png", "en/dog/2.png", "de/x/3.png"],
        {"dataset_config": "en"},
        ({"train": 2}, ["cat", "dog"]),
    ),
    "a class called train": (["bus/1.png", "car/2.png", "train/3.png"], {}, ({"train": 3}, ["bus", "car", "train"])),
    "a split without classes": (
        ["train/cat/1.png", "train/dog/2.png", "test/3.png"],
        {},
        ({"train": 2}, ["cat", "dog"]),
    ),
    "a folder beside the splits": (
        ["train/a/1.png", "test/a/2.png", "old/3.png"],
        {},
        ({"train": 1, "test": 1}, ["a"]),
    ),
}


@pytest.mark.parametrize(("names", "options", "expected"), CHOICES.values(), ids=CHOICES)
def test_an_option_chooses_a_reading(write_layout, names, options, expected):
    data = load_data(write_layout(dict.fromkeys(names)), validation_fraction=0, **options)
    assert ({split: len(part) for split, part in data.items()}, data["train"].features["label"].names) == expected
