"""Prepare any table of images: its images, columns, keys, captions and labels; and read the images."""

import multiprocessing
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import datasets
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.dataset import (
    IMAGE_FEATURE,
    ImageReader,
    build_dataset,
    class_names,
    content_fingerprint,
    image_bytes,
    image_files,
    is_prepared,
    labels_of,
    prepare_dataset,
    title,
)
from modeling_clipscratch.data.images.decode import BadImageError

RGB = {"red": (255, 0, 0), "blue": (0, 0, 255), "lime": (0, 255, 0)}
Value, ClassLabel = datasets.Value, datasets.ClassLabel


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch, encode):
    """{colour: bytes} of images that are also in the working directory, as `red.png` and so on."""
    monkeypatch.chdir(tmp_path)
    stored = {colour: encode(colour) for colour in RGB}
    for colour, data in stored.items():
        (tmp_path / f"{colour}.png").write_bytes(data)
    return stored


def table_of(features=None, **columns):
    table = datasets.Dataset.from_dict(columns)
    return table.cast(datasets.Features({**table.features, **features})) if features else table


def prepare(table, **options):
    own = {name: options.pop(name) for name in ("train", "root", "name", "split") if name in options}
    return prepare_dataset(table, DataOptions(**options), **own)


def colours(dataset):
    read, names = ImageReader(dataset), {rgb: name for name, rgb in RGB.items()}
    return [names[read(row).getpixel((0, 0))] for row in range(len(dataset))]


# Images

STORED = {
    "Image": (lambda c, data: {"bytes": data, "path": None}, datasets.Image()),
    "Image, not decoded": (lambda c, data: {"bytes": data, "path": "any"}, IMAGE_FEATURE),
    "Image of a mode": (lambda c, data: {"bytes": data, "path": None}, datasets.Image(mode="L")),
    "Image, a path": (lambda c, data: {"bytes": None, "path": f"{c}.png"}, datasets.Image()),
    "PIL": (lambda c, data: Image.new("RGB", (3, 3), c), None),
    "bytes": (lambda c, data: data, None),
    "large bytes": (lambda c, data: data, Value("large_binary")),
    "path": (lambda c, data: f"{c}.png", None),
    "large path": (lambda c, data: f"./{c}.png", Value("large_string")),
    "absolute path": (lambda c, data: os.path.abspath(f"{c}.png"), None),
    "struct": (lambda c, data: {"bytes": data if c == "red" else None, "path": f"{c}.png"}, None),
    "wider struct": (lambda c, data: {"bytes": data, "path": "any", "width": 6}, None),
}


@pytest.mark.parametrize("stored", STORED)
def test_an_image_may_be_stored_in_any_way(files, stored):
    make, feature = STORED[stored]
    cells = [make(colour, files[colour]) for colour in ("red", "blue")]
    dataset = prepare(table_of({"image": feature} if feature else None, image=cells, captions=[["a", "b"], ["c"]]))
    assert is_prepared(dataset) and dataset.features["image"] == IMAGE_FEATURE and colours(dataset) == ["red", "blue"]
    names = ["red.png", "blue.png"] if "path" in stored and "Image" not in stored else ["row-00000000", "row-00000001"]
    assert dataset["key"][:] == names and dataset["captions"][:] == [["a", "b"], ["c"]]


@pytest.fixture
def in_tar(tmp_path, files, write_shard):
    """A prepared dataset of red, blue and lime in a tar."""
    with tarfile.open(write_shard(tmp_path / "0.tar", {f"{c}.png": data for c, data in files.items()})) as tar:
        cells = [{"shard": tar.name, "member": m.name, "offset": m.offset_data, "size": m.size} for m in tar]
    return build_dataset(pa.array(cells), list(files), captions=[[c] for c in files])


@pytest.mark.parametrize("kind", ["tar", "memory", "path", "disk"])
def test_images_are_read_in_threads_and_other_processes(tmp_path, files, in_tar, kind):
    dataset = in_tar
    if kind != "tar":
        cells = [f"{c}.png" for c in files] if kind == "path" else list(files.values())
        dataset = prepare(table_of(image=cells, captions=[["a"]] * 3))
    if kind == "disk":
        dataset.save_to_disk(tmp_path / "saved")
        dataset = prepare(datasets.load_from_disk(tmp_path / "saved").shuffle(seed=1))
    read, rows = ImageReader(dataset), [0, 1, 2] * 8
    expected = [np.asarray(read(row)) for row in rows]
    assert len({image.tobytes() for image in expected}) == 3
    for reader in (read, pickle.loads(pickle.dumps(read))):  # the first has opened its files before the fork
        with ThreadPoolExecutor(4) as threads, multiprocessing.get_context("fork").Pool(2) as processes:
            for images in (threads.map(reader, rows), processes.map(reader, rows)):
                assert all(map(np.array_equal, images, expected))


@pytest.mark.parametrize("column", ["caption", "label"])
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        *((cell, "row-00000001 has no image; remove") for cell in (None, {"bytes": b"", "path": ""}, "", " ")),
        ({"bytes": b"broken", "path": "any"}, "toy, split test: row-00000001: cannot be decoded"),
        ({"bytes": None, "path": "nowhere.png"}, "nowhere.png: there is no such image"),
        ("nowhere.png", "nowhere.png: there is no such image"),
    ],
)
def test_an_image_that_cannot_be_read_is_named_and_alone(files, cell, message, column):
    path = isinstance(cell, str)
    images = ["red.png" if path else {"bytes": files["red"], "path": None}, cell, None, None]
    table = table_of(None if path else {"image": datasets.Image()}, image=images, **{column: list("abcd")})
    dataset = prepare(table, name="toy", split="test")
    with pytest.raises(BadImageError, match=message):
        ImageReader(dataset)(1)
    assert len(dataset) == 4  # nor are the two rows without an image one


# Rows

ROWS = [("red", "1"), ("blue", "2"), ("red", "3"), ("lime", "4"), ("red", "5"), ("blue", "6")]
SELECTED = {
    "all": lambda table: table,
    "shuffle": lambda table: table.shuffle(seed=3),
    "select": lambda table: table.select([5, 0, 3, 1]),
    "range": lambda table: table.select(range(2, 5)),
    "train_test_split": lambda table: table.train_test_split(0.5, seed=0)["test"],
    "filter": lambda table: table.filter(lambda row: row["extra"] > 0),
    "twice": lambda table: table.select([1, 1, 3, 0, 3]),
    "joined": lambda table: datasets.concatenate_datasets([table.select([4]), table.shuffle(seed=0)]),
}


@pytest.mark.parametrize("column", ["bytes", "Image", "path", "list"])
@pytest.mark.parametrize("selection", SELECTED)
def test_rows_that_share_an_image_become_one_with_all_its_captions(files, selection, column):
    cells = [f"{c}.png" if column == "path" else files[c] for c, _ in ROWS]
    texts = [[text] if column == "list" else text for _, text in ROWS]  # rows with a list each are not compared
    features = {} if column in ("bytes", "path") else {"image": datasets.Image()}
    table = SELECTED[selection](table_of(features, image=cells, caption=texts, extra=range(6)))
    colour_of, expected = {text: colour for colour, text in ROWS}, {}
    for number, text in enumerate(sum(table["caption"], []) if column == "list" else table["caption"]):
        expected.setdefault(number if column == "list" else colour_of[text], []).append(text)
    dataset = prepare(table)
    assert dataset["captions"][:] == [*expected.values()] and len({*dataset["key"]}) == len(expected)
    assert colours(dataset) == [colour_of[texts[0]] for texts in expected.values()]


def address(dataset):
    """Where the bytes of the first chunk of images lie in memory."""
    column = dataset.data.column("image").chunk(0)
    return (column.field("bytes") if pa.types.is_struct(column.type) else column).buffers()[2].address


@pytest.mark.parametrize("kind", ["binary", "Image"])
@pytest.mark.parametrize("selection", ["all", "shuffle", "select"])
def test_images_are_not_copied(tmp_path, files, selection, kind):
    table = table_of({"image": datasets.Image() if kind == "Image" else Value("binary")}, image=[b"x" * 9999] * 6)
    table = table.add_column("label", ["a"] * 6)
    table.save_to_disk(tmp_path / "saved")
    for raw in (table, datasets.load_from_disk(tmp_path / "saved")):
        chosen = SELECTED[selection](raw)
        dataset = prepare(chosen)
        assert address(dataset) == address(chosen) == address(prepare(dataset))
    assert len(pickle.dumps(ImageReader(dataset))) < 9999  # the places in the file, not the images


@pytest.mark.parametrize("writable", [True, False])
def test_a_table_on_disk_is_compared_once_where_its_folder_can_be_written(tmp_path, files, monkeypatch, writable):
    cells = [None] * 70 + [files["red"]] * 2  # no image for longer than a batch
    assert len(prepare(table_of({"image": datasets.Image()}, image=cells, caption=["a"] * 72))) == 71
    table_of(image=[*files.values()] * 2, caption=list("abcdef")).save_to_disk(tmp_path / "saved")
    monkeypatch.setattr(os, "access", lambda path, mode: writable)
    caches = []
    for _ in range(2):
        dataset = prepare(datasets.load_from_disk(tmp_path / "saved"))
        assert [*map("".join, dataset["captions"])] == ["ad", "be", "cf"]
        caches.append({(path, path.stat().st_ino) for path in (tmp_path / "saved").glob("cache-*")})
    assert caches[0] == caches[1] and len(caches[0]) == writable  # another file would have another number


@pytest.mark.parametrize("keys", [["x", "y"], [7, 3], ["x", "x"], ["x", None], [0.5, 1.5], [["x"], ["y"]]], ids=str)
def test_keys_are_the_user_s_where_they_name_each_row(files, keys):
    dataset = prepare(table_of(image=[files["red"], files["blue"]], captions=[["a"], ["b"]], key=keys))
    own = keys in (["x", "y"], [7, 3])
    assert dataset["key"][:] == ([*map(str, keys)] if own else ["row-00000000", "row-00000001"])


# Columns

IMAGES = ["red.png", "blue.png"]
IMAGE, CAPTION = {"image": IMAGES}, {"caption": ["a", "b"]}


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        ({"img": IMAGES, "sentence": ["a", "b"]}, {}, [["a"], ["b"]]),
        ({**IMAGE, "caption_0": ["a", "b"], "caption_1": ["c ", None]}, {}, [["a", "c"], ["b"]]),
        ({**IMAGE, "captions": [["a", " c "], ["b", "", None]]}, {}, [["a", "c"], ["b"]]),
        ({**IMAGE, "text": ["['a dog', 'a cat']", '["it\'s"]']}, {}, [["a dog", "a cat"], ["it's"]]),
        ({**IMAGE, "text": ["['a dog'\n 'a cat']", '["a", "b"]']}, {}, [["a dog", "a cat"], ["a", "b"]]),
        ({**IMAGE, "text": ["[a dog]", "['a cat']"]}, {}, [["[a dog]"], ["['a cat']"]]),
        ({**IMAGE, "text": ["[1, 2]", "[3]"]}, {}, [["[1, 2]"], ["[3]"]]),
        ({**IMAGE, "caption": ["x", "y"], "text": ["a", "b"]}, {"caption_column": "text"}, [["a"], ["b"]]),
        ({"x": IMAGES, "image": ["a", "b"]}, {"image_column": "x", "caption_column": "image"}, [["a"], ["b"]]),
        ({**IMAGE, "key": ["a", "b"]}, {"caption_column": "key"}, [["a"], ["b"]]),
        ({"key": IMAGES, **CAPTION}, {"image_column": "key"}, [["a"], ["b"]]),
        ({**IMAGE, "label": ["b ", " a"]}, {}, ["b", "a"]),
        ({**IMAGE, "label": ["b ", "b"]}, {}, ["b", "b"]),
        ({**IMAGE, "fine_label": ["a", "b"], "coarse_label": ["c", "c"]}, {}, ["a", "b"]),
        ({**IMAGE, "fine_label": ["a", "b"], "coarse_label": ["d", "c"]}, {"label_column": "coarse_label"}, ["d", "c"]),
        ({**IMAGE, "label": ["10", "9"]}, {}, ["10", "9"]),
        ({**IMAGE, "captions": ["x", "y"], "label": ["a", "b"]}, {"label_column": "label"}, ["a", "b"]),
        ({**IMAGE, "cls": [1, 0]}, {"class_names": ["a", "b"]}, ["b", "a"]),
        ({**IMAGE, "label": ["b", "a"]}, {"class_names": ["c", "b", "a"]}, ["b", "a"]),
    ],
)
def test_columns_are_found_by_name_or_named(columns, options, expected):
    dataset = prepare(table_of(**columns), **options)
    names, labels = class_names(dataset), labels_of(dataset)
    assert (dataset["captions"][:] if names is None else [names[label] for label in labels]) == expected
    assert colours(dataset) == ["red", "blue"]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({**IMAGE, "words": ["a", "b"]}, {}, "no captions or label among the columns image, words"),
        ({"a": IMAGES, **CAPTION}, {}, "no image among the columns a, caption; .* --image_column"),
        ({**IMAGE, "path": IMAGES, **CAPTION}, {}, "columns image, path could all be the image"),
        ({**IMAGE, **CAPTION, "text": ["a", "b"]}, {}, "columns caption, text could all be the captions"),
        ({**IMAGE, **CAPTION, "label": ["a", "b"]}, {}, "columns caption, label could all be the captions or label"),
        ({**IMAGE, **CAPTION}, {"caption_column": "captoin"}, "is missing; .* did you mean 'caption'"),
        ({**IMAGE, **CAPTION}, {"image_column": "zzz"}, "image_column='zzz' is missing; the columns are"),
        ({"id": [1, 2], **CAPTION}, {"image_column": "id"}, "image_column='id' holds .*, not images or paths"),
        ({**IMAGE, "n": [1, 2]}, {"caption_column": "n"}, "caption_column='n' holds .*, not text"),
        ({**IMAGE, "label": [0, 1]}, {}, "labels in column 'label' are numbers without names; .*class_names"),
        ({**IMAGE, "label": [0.0, 1.0]}, {}, r"label column 'label' holds Value\('float64'\); labels are whole"),
        ({**IMAGE, "label": ["a", "b"]}, {"class_names": ["a"]}, "label 'b' is not among the 1 class names; add it"),
        ({"image": [], "caption": []}, {}, "the dataset: no rows; choose another split"),
        ({"image": ["no.png", None], **CAPTION}, {}, "names the image no.png, which is missing, .*--image_root"),
        ({"image": ["", None], **CAPTION}, {}, "column 'image' names no image; paths are relative to"),
        ({"image": ["red.png", "./red.png"], "label": ["a", "b"]}, {}, "red.png is in several rows; an image has one"),
    ],
)  # fmt: skip
def test_columns_that_leave_something_open_raise_one_sentence(columns, options, message):
    with pytest.raises(ValueError, match=message) as error:
        prepare(table_of(**columns), **options)
    assert "\n" not in str(error.value)


WORDS = ClassLabel(names=["maple_tree", "dog"])


@pytest.mark.parametrize(
    ("train", "feature", "known"),
    [(["dog", "cat "], None, ["cat", "dog", "ant"]), ([1, 0], ClassLabel(names=["dog", "cat"]), ["dog", "cat", "ant"])],
)
@pytest.mark.parametrize("prepared", [False, True])
def test_class_names_are_numbered_by_train(train, feature, known, prepared):
    train = table_of({"cls": feature} if feature else None, image=IMAGES, cls=train)
    train = prepare(train) if prepared else train
    dataset = prepare(table_of(image=IMAGES, cls=["ant", " dog"]), train=lambda: train)
    assert class_names(dataset) == known and [known[label] for label in labels_of(dataset)] == ["ant", "dog"]


# Rows that lack what they need


TEXTS = datasets.List(Value("string"))


@pytest.mark.parametrize(
    ("column", "values", "feature", "bad"),
    [
        ("caption", ["a", None, " ", "b"], None, ["no caption", "no caption"]),
        ("captions", [["a"], [], [None, ""], ["b"]], None, ["no caption", "no caption"]),
        ("captions", [["a"], None, [], ["b"]], TEXTS, ["no caption", "no caption"]),
        ("captions, prepared", [["a"], None, [], ["b"]], TEXTS, ["no caption", "no caption"]),
        ("captions, prepared", [["a"], [""], [None, " "], ["b"]], TEXTS, ["no caption", "no caption"]),
        ("label", ["a", None, " ", "b"], None, ["no label", "no label"]),
        ("label", [0, None, -1, 1], WORDS, ["no label", "label -1"]),
        ("label", [0, 2, None, 1], Value("int64"), ["label 2", "no label"]),
    ],
)
def test_rows_without_caption_or_label_are_named_or_left_out(files, caplog, column, values, feature, bad):
    column, _, prepared = column.partition(", ")
    table = table_of({column: feature} if feature else None, image=[*files.values(), b"x"], **{column: values})
    if prepared:  # of the right columns, but not what they promise
        table = table.add_column("key", [f"row-0000000{row}" for row in range(4)]).cast_column("image", IMAGE_FEATURE)
        assert is_prepared(table)
    names = {"class_names": ["a", "b"]} if feature == Value("int64") else {}
    first = f"row-00000001 has {bad[0]}"
    with pytest.raises(ValueError, match=f"toy: {first}; every row needs .*: correct it, or set on_bad_row to skip"):
        prepare(table, name="toy", **names)
    dataset = prepare(table, name="toy", on_bad_row="skip", **names)
    assert len(dataset) == 2 and colours(dataset.select([0])) == ["red"] and len({*dataset["key"]}) == 2
    message = f"toy: left out 2 of 4 rows: {first}; row-00000002 has {bad[1]}"
    assert [record.getMessage() for record in caplog.records] == [message]
    with pytest.raises(ValueError, match=f"toy: .* has {bad[0]}; every row needs"):
        prepare(table.select([1, 2]), name="toy", on_bad_row="skip", **names)


# What is kept


@pytest.mark.parametrize("words", [{**CAPTION}, {"label": [1, 0]}])
def test_name_split_and_description_are_kept_and_preparing_twice_changes_nothing(words):
    table = table_of({"label": WORDS} if "label" in words else None, image=IMAGES, **words).with_format("numpy")
    table.info.dataset_name, table.info.description, table._split = "birds", "from here", datasets.Split.TEST
    once = prepare(table)
    assert (title(once), once.info.description) == ("birds, split test", "from here")
    named = prepare(table, name="toy", split="dev")
    assert (title(named), title(prepare(named)), title(table)) == ("toy, split dev",) * 2 + ("birds, split test",)
    again = prepare(once)
    assert again.to_dict() == once.to_dict() and again.features == once.features
    if "label" in words:
        assert class_names(again) == ["maple tree", "dog"]
        assert class_names(prepare(again, class_names=["x", "y"])) == ["x", "y"]


@pytest.mark.parametrize("kind", ["memory", "path", "tar"])
def test_fingerprint_follows_images_and_nothing_else(files, in_tar, kind):
    def fingerprint(colours=("red", "blue", "lime"), keys="abc", **words):
        images = {
            "memory": image_bytes([files[colour] for colour in colours]),
            "path": image_files([f"{colour}.png" for colour in colours]),
            "tar": pa.array([dict(zip(files, in_tar["image"], strict=True))[colour] for colour in colours]),
        }[kind]
        dataset = build_dataset(images, keys, **(words or {"labels": [0, 1, 1], "class_names": ["a", "b"]}))
        return content_fingerprint(pickle.loads(pickle.dumps(prepare(dataset, name=keys, split=keys))))

    first, tar = fingerprint(), content_fingerprint(in_tar)
    assert first == fingerprint(keys="def") == fingerprint(captions=[["a"]] * 3)
    assert tar == content_fingerprint(in_tar.select(range(3))) != content_fingerprint(in_tar.select([2, 1, 0]))
    changed = [fingerprint(["red", "lime", "blue"]), fingerprint(["red", "red", "lime"])]
    if kind != "memory":
        name = "red.png" if kind == "path" else "0.tar"
        os.utime(name, (1, 1))
        changed.append(fingerprint())
        os.remove(name)
        changed.append(fingerprint())
    assert len({first, *changed}) == 1 + len(changed)
