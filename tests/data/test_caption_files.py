"""Read the caption files of COCO and Karpathy."""

import json

import pytest

from modeling_clipscratch.data.load import load_data
from tests.data.conftest import images


def coco(*names):
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions = [{"image_id": number, "caption": f"{name} {turn}"} for turn in "ab" for number, name in enumerate(names)]
    return json.dumps({"images": images, "annotations": captions})


def karpathy(*rows):
    images = [
        {"filename": name, "filepath": path, "split": split, "sentences": [{"raw": f"{name} a"}, {"raw": f"{name} b"}]}
        for path, name, split in rows
    ]
    return json.dumps({"images": images, "dataset": "coco"})


COCO = {
    "annotations/captions_train2017.json": coco("1.png", "2.png"),
    "annotations/captions_val2017.json": coco("3.png"),
    "annotations/instances_val2017.json": json.dumps({"images": [], "annotations": []}),
}
IN_COCO = [("val2014", "1.png", "restval"), ("train2014", "2.png", "train"), ("val2014", "3.png", "val")]
FLICKR = "Flicker8k_Dataset/1 Flicker8k_Dataset/2 Flicker8k_Dataset/3"  # so it is spelled
IN_FLICKR = [(None, "1.png", "train"), (None, "2.png", "test"), (None, "3.png", "val")]


FORMS = {
    "COCO": (COCO | images("train2017/1 train2017/2 val2017/3"), {"train": "12", "validation": "3"}),
    "COCO with images together": (COCO | images("images/1 images/2 images/3"), {"train": "12", "validation": "3"}),
    "Karpathy's COCO": (
        {"dataset_coco.json": karpathy(*IN_COCO), **images("train2014/2 val2014/1 val2014/3")},
        {"train": "12", "validation": "3"},
    ),
    "Karpathy's Flickr8k": (
        {"dataset_flickr8k.json": karpathy(*IN_FLICKR), **images(FLICKR)},
        {"train": "1", "test": "2", "validation": "3"},
    ),
}


@pytest.mark.parametrize(("files", "expected"), FORMS.values(), ids=FORMS)
def test_images_captions_and_splits(write_files, files, expected):
    data = load_data(write_files(files), validation_fraction=0)
    assert {split: [row["captions"] for row in part] for split, part in data.items()} == {
        split: [[f"{name}.png a", f"{name}.png b"] for name in names] for split, names in expected.items()
    }


def test_a_file_is_read_by_its_path(write_files):
    folder = write_files(FORMS["COCO"][0])
    data = load_data(folder / "annotations" / "captions_val2017.json")
    assert list(data) == ["validation"] and data["validation"]["key"][:] == ["3.png"]


def test_of_files_of_one_name_those_in_the_folder_of_the_split_are_taken(write_files):
    files = {"annotations/captions_train2017.json": coco("1.png", "2.png")}
    files |= {"annotations/captions_val2017.json": coco("1.png")}
    folder = write_files(files | images("train2017/1 train2017/2 val2017/1"))
    (path,) = [cell["path"] for cell in load_data(folder, validation_fraction=0)["validation"]["image"]]
    assert path == str(folder / "val2017" / "1.png")


def test_a_table_that_is_only_called_like_one_is_a_table(write_files, tmp_path):
    rows = [{"image": "1.png", "caption": "a"}]
    folder = write_files({"dataset_train.json": json.dumps(rows), "captions_train.json": "{}", "1.png": None})
    assert len(load_data(folder, validation_fraction=0, cache_dir=str(tmp_path / "cache"))["train"]) == 1
