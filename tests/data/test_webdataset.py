"""Tar shards, tiny ones and the shared real ones, go in; rows, and sentences about damage, are checked."""

import multiprocessing
import os
import pickle
import re
import tarfile
import threading

import numpy as np
import pytest

from modeling_clipscratch.data import BadImageError, load_rows

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_class_set_gives_pictures_labels_names_and_prompts(tmp_path, write_class_set):
    rows = load_rows(str(write_class_set(tmp_path)), "test")
    assert (rows.kind, len(rows), rows.split) == ("class", 4, "test")
    assert rows.keys == ["s0000000", "s0000001", "s0000002", "s0000003"]
    assert rows.labels.tolist() == [0, 1, 0, 1]
    assert [rows.read_image(i).getpixel((0, 0)) for i in range(4)] == [RED, BLUE, RED, BLUE]
    assert rows[3]["captions"] == ["a deep blue thing.", "all deep blue."]


def test_caption_set_gives_one_caption_a_line(tmp_path, write_shard, encode):
    (tmp_path / "dataset_type.txt").write_text("retrieval")
    members = {"a.jpg": encode("red", "JPEG"), "a.txt": b" A dog . \n\nA cat .\n"}
    write_shard(tmp_path / "test" / "0.tar", members)
    rows = load_rows(str(tmp_path), "test")
    assert (rows.kind, rows.captions) == ("caption", [["A dog .", "A cat ."]])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_kind_of_picture_is_read(tmp_path, write_shard, encode, format):
    members = {f"x.{format.lower()}": encode("red", format), "x.txt": b"red"}
    write_shard(tmp_path / "train" / "0.tar", members)
    rows = load_rows(str(tmp_path), "train", validation_fraction=0)
    assert np.abs(np.array(rows.read_image(0).getpixel((0, 0))) - RED).max() <= 2  # JPEG is lossy


def test_shards_are_taken_in_the_order_of_their_numbers(tmp_path, write_shard, encode):
    for number in (0, 2, 10):
        write_shard(tmp_path / "test" / f"{number}.tar", {f"k{number}.png": encode(), f"k{number}.txt": b"red"})
    assert load_rows(str(tmp_path), "test").keys == ["k0", "k2", "k10"]


def test_keys_that_repeat_across_shards_name_their_shard(tmp_path, write_shard, encode):
    for number in range(2):
        write_shard(tmp_path / "test" / f"{number}.tar", {"0.png": encode(), "0.txt": b"red"})
    assert load_rows(str(tmp_path), "test").keys == ["0/0", "1/0"]


def test_files_without_a_picture_and_hidden_files_are_no_rows(tmp_path, write_shard, encode):
    members = {"a.png": encode(), "a.txt": b"red", "a.json": b"{}", "._a.png": b"x", "readme.txt": b"hello"}
    write_shard(tmp_path / "test" / "0.tar", members)
    assert load_rows(str(tmp_path), "test").keys == ["a"]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pictures_are_read_in_other_processes(tmp_path, write_class_set, method):
    rows = load_rows(str(write_class_set(tmp_path)), "test")
    assert rows.read_image(0).getpixel((0, 0)) == RED  # the shard is open before the fork
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(rows.read_image, (1,)).getpixel((0, 0)) == BLUE
    assert rows.read_image(0).getpixel((0, 0)) == RED


def test_threads_do_not_disturb_each_other(tmp_path, write_class_set):
    rows = load_rows(str(write_class_set(tmp_path)), "test")
    wrong = []

    def read(index):
        expected = (RED, BLUE)[index % 2]
        wrong.extend(i for i in range(200) if rows.read_image(index).getpixel((0, 0)) != expected)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_replaced_shard_is_read_anew(tmp_path, write_shard, encode):
    path = tmp_path / "test" / "0.tar"
    write_shard(path, {"a.txt": b"red", "a.png": encode()})
    before = load_rows(str(tmp_path), "test")
    before.read_image(0)
    path.unlink()
    write_shard(path, {"a.txt": b"blue", "b.txt": b"x" * 9999, "a.png": encode("blue")})
    after = load_rows(str(tmp_path), "test")
    assert after.read_image(0).getpixel((0, 0)) == BLUE
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("cut", [700, 512 * 3, 512 * 3 + 60, 512 * 4, 512 * 6 + 100])
def test_truncated_shard_is_named(tmp_path, write_class_set, cut):
    shard = write_class_set(tmp_path) / "test" / "1.tar"
    shard.write_bytes(shard.read_bytes()[:cut])
    with pytest.raises(ValueError, match=f"{re.escape(str(shard))}: damaged or cut short"):
        load_rows(str(tmp_path), "test")


def test_garbage_inside_a_shard_does_not_pass_for_its_end(tmp_path, write_class_set):
    shard = write_class_set(tmp_path) / "test" / "0.tar"
    data = bytearray(shard.read_bytes())
    data[1024:1536] = b"\xaa" * 512  # the second member's header
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="0.tar: damaged or cut short"):
        load_rows(str(tmp_path), "test")


def test_picture_cut_short_inside_a_shard_is_named_with_its_member(tmp_path, write_shard, encode):
    members = {"a.jpg": encode("red", "JPEG", (64, 64))[:400], "a.txt": b"red"}
    shard = write_shard(tmp_path / "test" / "0.tar", members)
    rows = load_rows(str(tmp_path), "test")
    with pytest.raises(BadImageError, match=f"{re.escape(str(shard))}: a.jpg: cannot be decoded"):
        rows[0]


def test_shard_that_vanishes_later_is_named(tmp_path, write_class_set):
    rows = load_rows(str(write_class_set(tmp_path)), "test")
    (tmp_path / "test" / "1.tar").unlink()
    with pytest.raises(BadImageError, match="1.tar: s0000001.webp|1.tar: s0000002.webp: cannot be read"):
        rows.read_image(2)


def test_missing_shard_is_named(tmp_path, write_class_set):
    (write_class_set(tmp_path) / "train" / "1.tar").unlink()
    with pytest.raises(ValueError, match="1.tar: is missing, one of 2 shards"):
        load_rows(str(tmp_path), "train")


@pytest.mark.parametrize("written", ["", "two", "0"])
def test_number_of_shards_that_is_none_is_refused(tmp_path, write_class_set, written):
    (write_class_set(tmp_path) / "test" / "nshards.txt").write_text(written)
    with pytest.raises(ValueError, match="nshards.txt: .* is not a number of shards"):
        load_rows(str(tmp_path), "test")


def test_class_without_a_name_is_refused(tmp_path, write_class_set):
    (write_class_set(tmp_path) / "classnames.txt").write_text("red\n")
    with pytest.raises(ValueError, match="label 1 has no class name; 1 names are known"):
        load_rows(str(tmp_path), "test")


def test_class_set_without_names_asks_for_them(tmp_path, write_class_set):
    (write_class_set(tmp_path) / "classnames.txt").unlink()
    with pytest.raises(ValueError, match="has no classnames.txt; write one name a line"):
        load_rows(str(tmp_path), "test")
    assert load_rows(str(tmp_path), "test", class_names=["r", "b"]).class_names == ["r", "b"]


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"a.cls": b"cat"}, r"a.png: its label \(.cls\) is 'cat'"),
        ({"a.json": b"{}"}, "a.png: has neither a label"),
        ({"a.txt": b" \n"}, "a.png: has no captions"),
        ({"a.b.png": b"x", "a.txt": b"x"}, "a.png and a.b.png are two pictures of one sample"),
    ],
)
def test_sample_that_is_not_whole_is_named(tmp_path, write_shard, encode, members, sentence):
    write_shard(tmp_path / "test" / "0.tar", {"a.png": encode()} | members)
    with pytest.raises(ValueError, match=sentence):
        load_rows(str(tmp_path), "test")


def test_other_kinds_of_sets_are_refused(tmp_path, write_class_set):
    (write_class_set(tmp_path) / "dataset_type.txt").write_text("multilabel")
    with pytest.raises(ValueError, match="dataset_type.txt: 'multilabel' is not supported"):
        load_rows(str(tmp_path), "test")


def test_cifar10_is_whole(shared_folder):
    rows = load_rows(str(shared_folder / "wds_vtab-cifar10"), "test")
    assert (len(rows), len(rows.class_names), len(rows.templates)) == (10000, 10, 18)
    assert np.bincount(rows.labels).tolist() == [1000] * 10
    assert rows.read_image(9999).size == (32, 32)
    assert "{c}" not in "".join(rows.templates)
    assert len(pickle.dumps(rows)) < 2e6  # what a worker is sent


def test_cifar10_validation_is_stratified_and_apart_from_train(shared_folder):
    folder = str(shared_folder / "wds_vtab-cifar10")
    train, validation = load_rows(folder, "train"), load_rows(folder, "validation")
    assert (len(train), len(validation)) == (45000, 5000)
    assert np.bincount(validation.labels).tolist() == [500] * 10
    assert not set(train.keys) & set(validation.keys)


def test_flickr8k_has_five_captions_a_picture(shared_folder):
    rows = load_rows(str(shared_folder / "wds_flickr8k"), "val")
    assert (len(rows), rows.kind, rows.split) == (1000, "caption", "validation")
    assert {len(captions) for captions in rows.captions} == {5}
    assert min(rows.read_image(500).size) == 160


def test_picture_that_is_a_link_to_another_is_refused(tmp_path, encode):
    path = tmp_path / "train" / "0.tar"
    path.parent.mkdir()
    (tmp_path / "a.png").write_bytes(encode())
    os.link(tmp_path / "a.png", tmp_path / "b.png")
    with tarfile.open(path, "w") as tar:
        for name in ("a", "b"):
            tar.add(tmp_path / f"{name}.png", f"{name}.png")
    with pytest.raises(ValueError, match="b.png is a link to a.png; tar --hard-dereference writes pictures"):
        load_rows(str(tmp_path), "train", validation_fraction=0)


def test_small_files_of_windows_are_read_and_a_skipped_class_is_refused(tmp_path, write_class_set):
    folder = write_class_set(tmp_path)
    (folder / "classnames.txt").write_text("red\ndeep blue\n", encoding="utf-8-sig")
    (folder / "dataset_type.txt").write_text("classification", encoding="utf-8-sig")
    (folder / "train" / "._0.tar").write_bytes(b"of macOS")
    assert load_rows(str(folder), "train", validation_fraction=0).class_names == ["red", "deep blue"]
    (folder / "classnames.txt").write_text("red\n\ndeep blue\n")
    with pytest.raises(ValueError, match="label 2 of 3 is empty"):
        load_rows(str(folder), "train", validation_fraction=0)
    (folder / "classnames.txt").write_text("red\ndeep blue\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a thing.\n")
    with pytest.raises(ValueError, match="template 'a thing.' has no {}"):
        load_rows(str(folder), "train", validation_fraction=0)


def test_published_list_with_two_classes_of_one_name_is_read_with_a_word(tmp_path, write_class_set, caplog):
    write_class_set(tmp_path)
    (tmp_path / "classnames.txt").write_text("missile\nmissile\n")
    assert load_rows(str(tmp_path), "train").class_names == ["missile", "missile"]
    assert "missile stand for several classes each" in caplog.text
