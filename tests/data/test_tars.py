"""Read tiny tars, and the shared real ones, indexed and streamed: their splits, samples, texts and faults."""

import logging
import os
import pickle
import re
import tarfile

import datasets
import numpy as np
import pytest

from modeling_clipscratch.data.columns import DataOptions
from modeling_clipscratch.data.dataset import ImageReader, class_names, prepare_dataset
from modeling_clipscratch.data.sources import tars
from modeling_clipscratch.data.sources.streams import shard_rows
from modeling_clipscratch.utils.local_files import walk_files

RED, BLUE = (255, 0, 0), (0, 0, 255)


def tar_source(folder, **options):
    return tars.tar_source(folder, dict(walk_files(folder)), "set", DataOptions(**options))


def open_split(folder, split="test", **options):
    table = tar_source(folder, **options)[split].open()
    return prepare_dataset(table, DataOptions(**options), name="set", split=split)


def stream_split(folder, split="test", **options):
    stream = tar_source(folder, **options)[split].stream()
    return [row for shard in range(stream.num_shards) for row, _ in shard_rows(stream, shard)]


def color_of(dataset, row):
    return ImageReader(dataset)(row).getpixel((0, 0))


def raises_both_ways(folder, message, split="test"):
    """Check that the split cannot be indexed nor streamed."""
    for read in (open_split, stream_split):
        with pytest.raises(ValueError, match=message):
            read(folder, split)


# Which tars there are


LAYOUTS = [
    "train/0.tar test/0.tar", "train/0.tar val/0.tar", "data/train/0.tar data/validation/0.tar",
    "train_256/0.tar dev-256/0.tar", "training/0.tar evaluation/0.tar", "train-000000.tar val-000000.tar",
    "train-000000.tar train-000001.tar test-000000.tar", "train_0.tar valid_0.tar eval_0.tar",
    "flickr_train_00.tar flickr_test_00.tar", "coco.train.0.tar coco.dev.0.tar",
    "data/train-00000-of-00001.tar data/extra-00000-of-00001.tar", "00000.tar 00001.tar",
    "latest.tar trained.tar",  # no words of splits
    "test.tar", "train.tar val.tar test.tar", "my-data-train.tar my-data-dev-2.tar",
    "set-train-0.tar set-train-1.tar set-testing-0.tar", "data/train-0.tar data/test-0.tar",
    "train/00000.tar train/00001.tar valid/00000.tar", "contest.tar devices.tar restval.tar",
    "shards/0.tar shards/1.tar",
]  # fmt: skip


@pytest.mark.parametrize("names", LAYOUTS)
def test_splits_are_those_of_load_dataset(names, write_files):
    folder = write_files(names.split())
    expected = {
        split: sorted(row["__key__"].rpartition("/")[2] for row in rows)
        for split, rows in datasets.load_dataset("webdataset", data_dir=str(folder), streaming=True).items()
    }
    assert {split: sorted(part.open()["key"][:]) for split, part in tar_source(folder).items()} == expected
    for split, keys in expected.items():
        assert sorted(row["key"].rpartition("/")[2] for row in stream_split(folder, split)) == keys


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        ("00000.tar 00000.parquet 00000_stats.json", ["train"]),  # of img2dataset
        ("notes.md", None),
        ("cats/0.jpg dogs/0.jpg", None),
        ("captions.csv images.tar", None),
        ("cats/0.jpg dogs/0.jpg images.tar", None),  # a download beside what was unpacked from it
        ("train/cats/0.jpg train/cats/1.jpg train.tar", None),
        ("train/cats/0.jpg train/cats/1.jpg train/cats.tar", None),
        ("._0.tar __MACOSX/0.tar", None),
    ],
)
def test_tars_that_are_not_the_data_are_left_to_other_readers(names, splits, write_files):
    source = tar_source(write_files(names.split()))
    assert source is None if splits is None else list(source) == splits


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("en/0.tar de/0.tar", "'de', 'en' hold data of their own, .* --dataset_config de"),
        ("en/train/0.tar de/train/0.tar", "'de', 'en' hold data of their own"),
        ("train_test-0.tar", "train_test-0.tar: its name means test and train"),
    ],
)
def test_tars_that_can_be_read_in_two_ways_raise(names, message, write_files):
    with pytest.raises(ValueError, match=message):
        tar_source(write_files(names.split()))


def test_columns_raise_and_shards_are_in_the_order_of_their_numbers(write_files):
    folder = write_files(["test/0.tar", "test/2.tar", "test/10.tar"])
    assert open_split(folder)["key"][:] == ["test_0_tar", "test_2_tar", "test_10_tar"]
    assert [row["key"].partition("/")[0] for row in stream_split(folder)] == ["0", "2", "10"]
    with pytest.raises(ValueError, match="caption_column='text': set is not a table and has no columns"):
        tar_source(folder, caption_column="text")


# What is read


def test_class_set_gives_images_labels_names_and_templates(tmp_path, write_class_set, caplog):
    with caplog.at_level(logging.INFO):
        dataset = open_split(write_class_set(tmp_path))
    assert not caplog.records
    assert tar_source(tmp_path)["test"].templates == ["a {} thing.", "all {}."]
    assert dataset["key"][:] == ["s0000000", "s0000001", "s0000002", "s0000003"]
    assert dataset["label"][:] == [0, 1, 0, 1] and class_names(dataset) == ["red", "deep blue"]
    assert [color_of(dataset, row) for row in range(4)] == [RED, BLUE, RED, BLUE]


def test_a_stream_has_the_prepared_columns_and_a_shard_a_tar(tmp_path, write_class_set, encode):
    stream = tar_source(write_class_set(tmp_path))["train"].stream()
    assert stream.num_shards == 2 and stream.split == "train"
    assert stream.features == datasets.Features(
        image=datasets.Image(decode=False),
        label=datasets.ClassLabel(names=["red", "deep blue"]),
        key=datasets.Value("string"),
    )
    rows = list(stream)
    assert [row["label"] for row in rows] == [0, 1, 0, 1]
    assert [row["key"] for row in rows] == ["0/s0000000", "0/s0000001", "1/s0000002", "1/s0000003"]
    path = f"{tmp_path / 'train' / '1.tar'}: s0000002.webp"
    assert rows[2]["image"] == {"bytes": encode("red", "WEBP", lossless=True), "path": path}
    assert list(pickle.loads(pickle.dumps(stream))) == rows


def test_repeated_keys_name_their_shard(tmp_path, write_shard, encode):
    for number in range(2):
        write_shard(tmp_path / "test" / f"{number}.tar", {"x.bmp": encode("red", "BMP"), "x.txt": b"red"})
    assert open_split(tmp_path)["key"][:] == ["0/x", "1/x"] and color_of(open_split(tmp_path), 0) == RED


MEMBERS = {  # members beside an image, the image's name, the captions or label
    "lines are captions": ({"a.txt": b" A dog . \n\nA cat .\n"}, "a.png", ["A dog .", "A cat ."]),
    "img2dataset's lines are one": ({"a.txt": b"A dog\nand a cat", "a.json": b"{}"}, "a.png", ["A dog and a cat"]),
    "a byte-order mark": ({"a.txt": "\ufeffcafé".encode()}, "a.png", ["café"]),
    "UTF-16": ({"a.txt": "café".encode("utf-16")}, "a.png", ["café"]),
    "capital letters": ({"A.TXT": b"red"}, "A.PNG", ["red"]),
    "capital label": ({"A.CLS": b"1"}, "A.JPG", 1),
    "dots": ({"photo.v1.txt": b"red"}, "photo.v1.png", ["red"]),
    "folders": ({"./x/a.txt": b"red"}, "./x/a.png", ["red"]),
    "json caption": ({"a.json": b'{"caption": "A dog"}'}, "a.png", ["A dog"]),
    "json text": ({"a.json": b'{"text": ["A dog", " A cat ", ""]}'}, "a.png", ["A dog", "A cat"]),
    "class by name": ({"a.cls": b"deep blue \n"}, "a.png", 1),
    "hidden label": ({"a.cls": b"-1\n", "b.cls": b"0", "b.png": None}, "a.png", -1),
    "others": ({"a.txt": b"red", "._a.png": b"x", "readme.txt": b"hello", "a.npy": b""}, "a.png", ["red"]),
    "the image last": ({"a.txt": b"red", "b.txt": b"blue", "b.png": None}, "a.png", None),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_texts_are_read_alike_indexed_and_streamed(case, tmp_path, write_shard, encode):
    members, image, expected = MEMBERS[case]
    members = {name: encode() if data is None else data for name, data in ({**members, image: None}).items()}
    write_shard(tmp_path / "test" / "0.tar", dict(sorted(members.items(), key=lambda item: item[0].lower())))
    (tmp_path / "classnames.txt").write_text("red\ndeep blue\n")
    dataset, rows = tar_source(tmp_path)["test"].open(), stream_split(tmp_path)
    column = "label" if isinstance(expected, int) else "captions"
    assert dataset[column][0] == rows[0][column] == (["red"] if expected is None else expected)
    assert [f"0/{key}" for key in dataset["key"]] == [row["key"] for row in rows]
    assert dataset["key"][0] == image.removeprefix("./").rpartition(".")[0]
    assert ImageReader(dataset)(0).size == (6, 4)


@pytest.mark.parametrize(
    ("path", "key", "options", "expected"),
    [
        ("test/0.tar", "s0000000", {}, ["A dog", "A cat"]),
        ("test/00007.tar", "000070012", {}, ["A dog A cat"]),  # img2dataset's numbers
        ("test/00007.tar", "s0070012", {}, ["A dog", "A cat"]),
        ("test/0.tar", "s0000000", {"caption_lines": "join"}, ["A dog A cat"]),
        ("test/00007.tar", "000070012", {"caption_lines": "split"}, ["A dog", "A cat"]),
    ],
)
def test_lines_are_several_captions_or_one(path, key, options, expected, tmp_path, write_shard, encode):
    write_shard(tmp_path / path, {f"{key}.png": encode(), f"{key}.txt": b"A dog\nA cat\n"})
    assert open_split(tmp_path, **options)["captions"][0] == expected
    assert stream_split(tmp_path, **options)[0]["captions"] == expected


def test_images_and_texts_far_apart_raise(tmp_path, write_shard, encode):
    images, texts = {f"{n}.png": encode() for n in range(3)}, {f"{n}.txt": b"%d" % n for n in range(3)}
    write_shard(tmp_path / "test" / "0.tar", images | texts)
    raises_both_ways(tmp_path, r"members of 0 are not next to each other; .* \(tar --sort=name")


# Rows that lack something

BAD = {  # what a second sample has -> the message
    "an empty text": ({"b.txt": b" \n"}, "b has no caption"),
    "no text": ({}, "b has no caption"),
    "no field": ({"b.json": b"{}"}, "b has no caption"),
    "an empty field": ({"b.json": b'{"caption": null}'}, "b has no caption"),
    "bytes of no text": ({"b.txt": b"caf\xe9"}, "b has no caption"),
    "UTF-16 unmarked": ({"b.txt": "a dog".encode("utf-16-le")}, "b has no caption"),
    "json cut short": ({"b.json": b'{"caption": "a'}, "b has no caption"),
    "json list": ({"b.json": b"[1]"}, "b has no caption"),
    "a word": ({"b.cls": b"ox"}, "0.tar: b.png: its label 'ox' is not the name or number of one of"),
    "too large": ({"b.cls": b"2"}, "b.png: its label '2' is .* one of the 2 classes that have names, or set"),
    "nothing": ({"b.cls": b""}, "b has no label"),
    "no label": ({}, "b has no label"),
    "hidden": ({"b.cls": b"-1"}, "b has label -1"),
    "below": ({"b.cls": b"-5"}, "0.tar: b.png: its label '-5' is not"),
}


@pytest.mark.parametrize("case", BAD)
def test_row_without_text_is_named_or_skipped(case, tmp_path, write_shard, encode):
    members, message = BAD[case]
    column = "label" if "label" in message else "captions"
    good = {"a.txt": b"red", "c.txt": b"red"} if column == "captions" else {"a.cls": b"0", "c.cls": b"1"}
    members = {**good, **members, **{f"{key}.png": encode() for key in "abc"}}
    write_shard(tmp_path / "test" / "0.tar", dict(sorted(members.items())))
    (tmp_path / "classnames.txt").write_text("red\nblue\n")
    with pytest.raises(ValueError, match=message):
        open_split(tmp_path)
    assert open_split(tmp_path, on_bad_row="skip")["key"][:] == ["a", "c"]
    rows = stream_split(tmp_path, on_bad_row="skip")
    assert [row[column] in ([], None, -1) for row in rows] == [False, True, False]
    if "tar: " in message:
        with pytest.raises(ValueError, match=message):
            stream_split(tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, r"hold no images with a label \(.cls\) or captions"),
        ({"a.jpg": b"x", "a.txt": b"x"}, "a.png and a.jpg are images of one sample"),
    ],
)
def test_sample_that_can_be_read_in_two_ways_or_none_is_named(tmp_path, write_shard, encode, members, message):
    write_shard(tmp_path / "test" / "0.tar", {"a.png": encode()} | members)
    raises_both_ways(tmp_path, message)


# Files beside the tars


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("classnames.txt", None, "classnames.txt: is missing; write one name a line"),
        ("classnames.txt", "red\n", "its label '1' is not the .* of one of the 1 classes that have names"),
        ("classnames.txt", "red\n\ndeep blue\n", "label 2 of 3 is empty"),
        ("zeroshot_classification_templates.txt", "a thing.\n", "template 'a thing.' has no {}"),
    ],
)
def test_small_file_that_is_wrong_or_missing_is_named(tmp_path, write_class_set, name, content, message):
    path = write_class_set(tmp_path) / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    raises_both_ways(tmp_path, message)


def test_class_names_of_the_user_of_windows_and_of_two_alike_classes_are_read(tmp_path, write_class_set):
    write_class_set(tmp_path).joinpath("classnames.txt").unlink()
    assert class_names(open_split(tmp_path, class_names=["r", "b"])) == ["r", "b"]
    (tmp_path / "classnames.txt").write_text("red\ndeep blue\n", encoding="utf-8-sig")
    (tmp_path / "test" / "._0.tar").write_bytes(b"of macOS")
    assert class_names(open_split(tmp_path)) == ["red", "deep blue"]
    (tmp_path / "classnames.txt").write_text("missile\nmissile\n")
    assert class_names(open_split(tmp_path)) == ["missile", "missile"]


# Damage

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
DAMAGES = {  # how the bytes of a shard change
    **{f"cut at {cut}": lambda data, cut=cut: data[:cut] for cut in (700, 1536, 1596, 2048, 3172)},
    "garbage for a header": lambda data: data[:1024] + b"\xaa" * 512 + data[1536:],
    "a letter of a name": lambda data: data[:1024] + b"x" + data[1025:],
    "a Git LFS pointer": lambda data: POINTER,
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_shard_is_named(tmp_path, write_class_set, case):
    shard = write_class_set(tmp_path) / "test" / "1.tar"
    shard.write_bytes(DAMAGES[case](shard.read_bytes()))
    raises_both_ways(tmp_path, f"{re.escape(str(shard))}: cannot be read .*git lfs pull, if it is a Git LFS pointer")


def test_file_that_is_a_link_to_another_raises(tmp_path, encode):
    (tmp_path / "test").mkdir()
    (tmp_path / "a").write_bytes(encode())
    os.link(tmp_path / "a", tmp_path / "b")
    with tarfile.open(tmp_path / "test" / "0.tar", "w") as tar:
        for name in ("a", "b"):
            tar.add(tmp_path / name, f"{name}.png")
    raises_both_ways(tmp_path, "b.png is a link; tar --hard-dereference writes files")


# Real data


def test_cifar10_is_whole(shared_folder):
    source = tar_source(shared_folder / "wds_vtab-cifar10")
    assert list(source) == ["test", "train"] and len(source["test"].templates) == 18
    assert "{c}" not in "".join(source["test"].templates)
    dataset = open_split(shared_folder / "wds_vtab-cifar10")
    assert (len(dataset), len(class_names(dataset))) == (10000, 10)
    assert np.bincount(dataset["label"][:]).tolist() == [1000] * 10
    assert ImageReader(dataset)(9999).size == (32, 32)
    assert len(pickle.dumps(ImageReader(dataset))) < 2e6  # what a worker is sent


def test_names_that_are_not_utf8_are_refused(tmp_path, write_shard, encode):
    write_shard(tmp_path / "test" / "0.tar", {"caf\udce9.png": encode(), "caf\udce9.txt": b"red"})
    with pytest.raises(ValueError, match="caf\ufffd.*its name is not UTF-8; rename it"):
        open_split(tmp_path)
