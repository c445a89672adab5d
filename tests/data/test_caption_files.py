"""Read caption files that are known by name: COCO's, Karpathy's and Flickr8k's."""

import json
import logging

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
TOKENS = "".join(f"{name}.png#{turn}\t{name}.png {'ab'[turn]}\n" for name in "123" for turn in (0, 1))
LISTS = {"text/Flickr_8k.trainImages.txt": "1.png\n", "text/Flickr_8k.devImages.txt": "2.png\n"}
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
    "Flickr8k": ({"Flickr8k.token.txt": TOKENS, **images("Images/1 Images/2 Images/3")}, {"train": "123"}),
    "Flickr30k": ({"results_20130124.token": TOKENS, **images("1 2 3")}, {"train": "123"}),
    "Flickr8k with its lists": (
        {"text/Flickr8k.token.txt": TOKENS, **LISTS, **images("Images/1 Images/2 Images/3")},
        {"train": "1", "validation": "2"},
    ),
}


@pytest.mark.parametrize(("files", "expected"), FORMS.values(), ids=FORMS)
def test_images_captions_and_splits(write_files, files, expected):
    data = load_data(write_files(files), validation_fraction=0)
    assert {split: [row["captions"] for row in part] for split, part in data.items()} == {
        split: [[f"{name}.png a", f"{name}.png b"] for name in names] for split, names in expected.items()
    }


def test_a_file_is_read_by_its_path_and_restval_is_logged(write_files, caplog):
    folder = write_files(FORMS["COCO"][0])
    data = load_data(folder / "annotations" / "captions_val2017.json")
    assert list(data) == ["validation"] and data["validation"]["key"][:] == ["3.png"]
    with caplog.at_level(logging.INFO):
        load_data(write_files(FORMS["Karpathy's COCO"][0]))
    assert "1 images of restval are read as train" in caplog.text


def test_of_files_of_one_name_those_in_the_folder_of_the_split_are_taken(write_files):
    files = {"annotations/captions_train2017.json": coco("1.png", "2.png")}
    files |= {"annotations/captions_val2017.json": coco("1.png")}
    folder = write_files(files | images("train2017/1 train2017/2 val2017/1"))
    (path,) = [cell["path"] for cell in load_data(folder, validation_fraction=0)["validation"]["image"]]
    assert path == str(folder / "val2017" / "1.png")


def test_image_root_names_the_images(write_files, tmp_path):
    folder = write_files({"set/Flickr8k.token.txt": TOKENS, **images("far/1 far/2 far/3")})
    with pytest.raises(ValueError, match="--image_root names another folder"):
        load_data(folder / "set")
    assert len(load_data(folder / "set", image_root=str(folder / "far"), validation_fraction=0)["train"]) == 3


def test_a_line_of_another_form_is_named(write_files):
    with pytest.raises(ValueError, match="Flickr8k.token.txt, line 2: is not of the form name.jpg#0<TAB>caption"):
        load_data(write_files({"Flickr8k.token.txt": "1.png#0\ta\n1.png b\n", "1.png": None}))


def test_a_table_that_is_only_called_like_one_is_a_table(write_files, tmp_path):
    rows = [{"image": "1.png", "caption": "a"}]
    folder = write_files({"dataset_train.json": json.dumps(rows), "captions_train.json": "{}", "1.png": None})
    assert len(load_data(folder, validation_fraction=0, cache_dir=str(tmp_path / "cache"))["train"]) == 1
