"""Read folders of images: classes and their order, text files beside images, and what is left out."""

import pytest

from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import load_data


def names_of(dataset):
    return dataset.features["label"].names


def test_one_sub_folder_a_class_in_the_order_of_classes_folders_and_names(write_files):
    names = ["dark_blue/b.png", "red/a.png", "red/x/1.png", "red/x-y/1.png", "red/x/y/1.png", "red/.hidden.png"]
    data = load_data(write_files(names), validation_fraction=0)
    train = data["train"]
    assert names_of(train) == ["dark blue", "red"] and train["label"][:] == [0, 1, 1, 1, 1]
    keys = ["dark_blue/b.png", "red/a.png", "red/x/1.png", "red/x/y/1.png", "red/x-y/1.png"]
    assert train["key"][:] == keys and data.templates == ["a photo of a {}."]
    assert ImageReader(train)(0).getpixel((0, 0)) == (0, 0, 255)


def test_splits_number_classes_as_train_does(load, write_files):
    folder = write_files(["train/dog/1.png", "train/cat/2.png", "val/dog/3.png", "test/ant/4.png", "test/dog/5.png"])
    assert names_of(load(folder)) == names_of(load(folder, "test")) == ["cat", "dog", "ant"]
    assert load(folder, "validation")["label"][:] == [1]
    test = load(folder, "test")
    assert dict(zip(test["key"], test["label"], strict=True)) == {"ant/4.png": 2, "dog/5.png": 1}


CLASSES = {  # names, options -> classes, keys
    "numbers are in label order": (
        ["10/a.png", "9/b.png"],
        {"class_names": ["nine", "ten"]},
        (["nine", "ten"], ["9/b.png", "10/a.png"]),
    ),
    "class names settle what folders leave open": (
        ["maple_tree/a.png", "maple tree/b.png", "dog/c.png"],
        {"class_names": ["one", "two", "three"]},
        (["one", "two", "three"], ["dog/c.png", "maple tree/b.png", "maple_tree/a.png"]),
    ),
    "folders of file managers": (
        ["cat/1.png", "dog/1.png", "cat/.ipynb_checkpoints/1.png", "dog/@eaDir/1.png", "__MACOSX/1.png", "empty/x.md"],
        {},
        (["cat", "dog"], ["cat/1.png", "dog/1.png"]),
    ),
}


@pytest.mark.parametrize(("names", "options", "expected"), CLASSES.values(), ids=CLASSES)
def test_classes_and_their_order(load, write_files, names, options, expected):
    train = load(write_files({name: None if name.endswith(".png") else "" for name in names}), **options)
    assert (names_of(train), train["key"][:]) == expected


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a/a.png", "b/b.png"], {"class_names": ["one"]}, "1 class names for 2 sub-folders"),
        (
            ["train/a/1.png", "eval/a/1.png", "test/a/1.png"],
            {},
            "'eval' and 'test' both mean test; rename or remove",
        ),
        (
            ["train1/a/1.png", "train2/a/1.png"],
            {"folder_names": "splits"},
            "'train1' and 'train2' both mean train",
        ),
        (["cat/1.png"], {"folder_names": "splits"}, "neither classes nor captions in a split"),
        (["train/a/1.png", "train/b/1.png", "test/c/1.png"], {}, "test has 'c', none of them; give all splits"),
        (["maple tree/1.png", "maple_tree/1.png"], {}, "label 'maple tree' is given twice"),
        (["cat/1.png"], {"image_column": "image"}, "image_column='image': .* is not a table and has no columns"),
        (["en/1.png", "de/1.png"], {"dataset_config": "fr"}, "set/fr: holds none of the known forms"),
    ],
)
def test_what_makes_no_classes_is_named(load, write_files, names, options, message):
    with pytest.raises(ValueError, match=message):
        load(write_files(names), **options)


def test_images_that_are_left_out_are_counted_and_their_classes_logged(load, write_files, caplog):
    folder = write_files(["red/a.png", "red/b.HEIC", "blue/c.svg", "green/d.tga", "1.png", "red/e.ico"])
    assert (len(load(folder)), names_of(load(folder))) == (1, ["red"])
    assert "4 images are of a kind that is not read" in caplog.text
    assert "the images in '.' are of no class" in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("settings.json", "{}"),
        ("labels.csv", "id,label\n1,2\n"),
        ("urls.csv", "image,caption\nhttps://x/1.jpg,a\n"),
        ("rows.jsonl", "damaged"),
    ],
)
def test_a_table_without_these_images_is_left_out_with_a_warning(load, write_files, caplog, name, content):
    folder = write_files(["cat/1.png", "dog/2.png"])
    (folder / name).write_text(content)
    assert names_of(load(folder)) == ["cat", "dog"]
    assert f"1 tables are left out ({name}" in caplog.text


def test_a_table_that_names_the_images_is_read(load, write_files, tmp_path):
    folder = write_files(["cat/1.png", "dog/2.png"])
    (folder / "labels.csv").write_text("image,caption\ncat/1.png,a cat\n")
    assert load(folder, cache_dir=str(tmp_path / "cache"))["captions"][:] == [["a cat"]]
    assert names_of(load(folder, folder_names="classes")) == ["cat", "dog"]


TEXTS = {  # files -> captions by key
    "one line": (
        {"1.png": None, "1.txt": "a dog", "b/photo.v1.png": None, "b/photo.v1.TXT": "a cat\n"},
        {},
        {"1.png": ["a dog"], "b/photo.v1.png": ["a cat"]},
    ),
    "several lines": ({"1.png": None, "1.txt": "\ufeffa dog \n\n a cat"}, {}, {"1.png": ["a dog", "a cat"]}),
    "joined": ({"1.png": None, "1.txt": "a\ndog"}, {"caption_lines": "join"}, {"1.png": ["a dog"]}),
    "img2dataset": (
        {
            "00000/1.png": None,
            "00000/1.txt": "a\ndog",
            "00000/1.json": "{}",
            "00001/2.png": None,
            "00001/2.txt": "a cat",
        },
        {},
        {"00000/1.png": ["a dog"], "00001/2.png": ["a cat"]},
    ),
    "img2dataset, split": (
        {"00000/1.png": None, "00000/1.txt": "a\ndog"},
        {"caption_lines": "split"},
        {"00000/1.png": ["a", "dog"]},
    ),
    "a .json beside it": ({"x/1.png": None, "x/1.txt": "a\ndog", "x/1.json": "{}"}, {}, {"x/1.png": ["a dog"]}),
    "skipped": (
        {"1.png": None, "1.txt": "a", "2.png": None, "2.txt": "", "3.png": None, "3.txt": b"\xe9", "4.png": None},
        {"on_bad_row": "skip"},
        {"1.png": ["a"]},
    ),
    "a folder beside that of a split": (
        {"toy train/1.png": None, "toy train/1.txt": "a", "car/2.png": None, "car/2.txt": "b"},
        {},
        {"toy train/1.png": ["a"]},  # as load_dataset reads it
    ),
}


@pytest.mark.parametrize(("files", "options", "expected"), TEXTS.values(), ids=TEXTS)
def test_text_files_beside_images_are_captions(load, write_files, files, options, expected):
    train = load(write_files(files), **options)
    assert dict(zip(train["key"], train["captions"], strict=True)) == expected


@pytest.mark.parametrize("words", [("train", "val"), ("train2017", "val2017"), ("images/train", "images/dev")])
def test_texts_in_split_folders_keep_their_splits(load, write_files, words):
    files = {
        f"{word}/{number}.{end}": content
        for word in words
        for number in "12"
        for end, content in (("png", None), ("txt", word))
    }
    folder = write_files(files)
    assert load(folder)["captions"][:] == [[words[0]]] * 2
    assert load(folder, "validation")["captions"][:] == [[words[1]]] * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": None, "1.txt": "a", "2.png": None}, "2.png has no caption"),
        ({"1.png": None, "1.txt": "a", "2.png": None, "2.txt": " \n"}, "2.png has no caption"),
        ({"1.png": None, "1.txt": "a\ncafé".encode("latin1")}, "1.txt, line 2: is not UTF-8"),
        ({"1.png": None, "1.txt": "version https://git-lfs.github.com/spec/v1\n"}, "1.txt: is a Git LFS pointer"),
    ],
)
def test_texts_that_are_no_captions_are_named(load, write_files, files, message):
    with pytest.raises(ValueError, match=message):
        load(write_files(files))


def test_few_texts_beside_classes_make_no_captions(load, write_files):
    files = {"cat/1.png": None, "cat/2.png": None, "dog/3.png": None, "dog/3.txt": "note"}
    assert names_of(load(write_files(files))) == ["cat", "dog"]
    files["cat/1.txt"] = files["cat/2.txt"] = "note"
    assert names_of(load(write_files(files), folder_names="classes")) == ["cat", "dog"]
