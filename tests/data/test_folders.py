"""Folders of pictures go in; classes, their order and metadata tables are checked."""

import os
from pathlib import Path

import datasets
import pytest

from modeling_clipscratch.data import BadImageError, load_rows
from modeling_clipscratch.data.columns import Columns
from modeling_clipscratch.data.stream import open_stream


@pytest.fixture
def write_pictures(tmp_path, encode):
    def write(*names):
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode("blue" if "blue" in name else "red", "PNG"))
        return tmp_path / "set"

    return write


def load(folder, split="train", **options):
    return load_rows(str(folder), split, **({"validation_fraction": 0} | options))


def test_one_sub_folder_a_class(write_pictures):
    rows = load(write_pictures("dark_blue/b.png", "red/a.png", "red/deeper/c.png", "red/.hidden.png"))
    assert rows.class_names == ["dark blue", "red"]
    assert rows.keys == ["dark_blue/b.png", "red/a.png", "red/deeper/c.png"]
    assert rows.labels.tolist() == [0, 1, 1]
    assert rows.read_image(0).getpixel((0, 0)) == (0, 0, 255)
    assert rows[1]["captions"] == ["a photo of a red."]


def test_splits_number_classes_as_train_does(write_pictures):
    folder = write_pictures("train/dog/1.png", "train/cat/2.png", "val/dog/3.png", "test/ant/4.png", "test/dog/5.png")
    assert load(folder).class_names == load(folder, "test").class_names == ["cat", "dog", "ant"]
    assert load(folder, "validation").labels.tolist() == [1]
    test = load(folder, "test")
    assert dict(zip(test.keys, test.labels, strict=True)) == {"ant/4.png": 2, "dog/5.png": 1}


def test_folders_named_by_numbers_are_in_label_order(write_pictures):
    rows = load(write_pictures("10/a.png", "9/b.png"), class_names=["nine", "ten"])
    assert rows.keys == ["9/b.png", "10/a.png"]
    assert rows.class_names == ["nine", "ten"]


def test_class_names_must_be_one_for_each_folder(write_pictures):
    with pytest.raises(ValueError, match="1 class names for 2 sub-folders"):
        load(write_pictures("a/a.png", "b/b.png"), class_names=["one"])


def test_metadata_table_gives_captions(write_pictures, tmp_path):
    folder = write_pictures("a.png", "deep/blue.png")
    (folder / "metadata.csv").write_text("file_name,text\ndeep/blue.png,a blue thing\n")
    rows = load(folder, cache_dir=str(tmp_path / "cache"))
    assert (rows.keys, rows.captions) == (["deep/blue.png"], [["a blue thing"]])


def test_metadata_table_in_each_split_folder(write_pictures, tmp_path):
    folder = write_pictures("train/a.png", "test/blue.png")
    (folder / "train" / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "red"}')
    (folder / "test" / "metadata.jsonl").write_text('{"file_name": "blue.png", "caption": "blue"}')
    rows = load(folder, "test", cache_dir=str(tmp_path / "cache"))
    assert rows.captions == [["blue"]]
    assert rows.read_image(0).getpixel((0, 0)) == (0, 0, 255)


def test_metadata_beside_split_folders_is_refused(write_pictures):
    folder = write_pictures("train/x/a.png", "test/x/b.png")
    (folder / "metadata.csv").write_text("file_name,text\ntrain/x/a.png,red\n")
    with pytest.raises(ValueError, match="metadata.csv: lies beside split folders"):
        load(folder)


def test_fingerprint_follows_the_pictures(write_pictures, encode):
    folder = write_pictures("x/a.png", "y/b.png")
    first = load(folder).fingerprint
    assert load(folder).fingerprint == first
    write_pictures("y/c.png")
    assert load(folder).fingerprint != first


def test_what_file_managers_leave_behind_is_no_class_and_no_row(write_pictures):
    names = ("cat/1.png", "dog/1.png", "cat/.ipynb_checkpoints/1.png", "dog/@eaDir/1.png", "__MACOSX/1.png")
    folder = write_pictures(*names)
    (folder / "empty").mkdir()
    rows = load(folder)
    assert rows.class_names == ["cat", "dog"] and rows.keys == ["cat/1.png", "dog/1.png"]


def test_a_class_may_be_called_train(write_pictures):
    assert load(write_pictures("bus/1.png", "car/1.png", "train/1.png")).class_names == ["bus", "car", "train"]


def test_two_folders_of_one_split_are_refused(write_pictures):
    with pytest.raises(ValueError, match="'eval' and 'val' both stand for validation; rename or remove one"):
        load(write_pictures("train/a/1.png", "eval/a/1.png", "val/a/1.png"))


def test_tars_that_are_no_split_do_not_hide_the_pictures(write_pictures, write_shard):
    folder = write_pictures("train/cat/1.png", "train/dog/1.png")
    write_shard(folder / "downloads" / "raw.tar", {"1.png": b""})
    assert load(folder).class_names == ["cat", "dog"]


def test_metadata_beside_folders_of_pictures_named_after_splits_is_refused(write_pictures):
    folder = write_pictures("train/a.png", "test/b.png")
    (folder / "metadata.csv").write_text("file_name,text\ntrain/a.png,one\ntest/b.png,two\n")
    with pytest.raises(ValueError, match="metadata.csv: lies beside split folders"):
        load(folder)


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        ("maple tree", "'maple tree' and 'maple_tree' would be classes of one name; rename one"),
        (os.fsdecode(b"caf\xe9"), r"'caf\\udce9' has a name that is no UTF-8; rename it"),
    ],
)
def test_folders_whose_names_do_not_make_classes_are_named(write_pictures, second, sentence):
    folder = write_pictures("maple_tree/a.png", f"{second}/b.png")
    with pytest.raises(ValueError, match=sentence):
        load(folder)
    assert load(folder, class_names=["one", "two"]).class_names == ["one", "two"]


def test_link_to_a_picture_that_went_away_is_a_bad_picture(write_pictures):
    folder = write_pictures("red/a.png")
    (folder / "red" / "b.png").symlink_to(folder / "gone.png")
    with pytest.raises(BadImageError, match="b.png: there is no such picture"):
        load(folder).read_image(1)


def test_pictures_of_phones_that_are_left_out_are_counted(write_pictures, caplog):
    folder = write_pictures("red/a.png", "red/b.HEIC", "blue/c.heic")
    assert len(load(folder)) == 1
    assert "2 pictures are of a kind that is not read" in caplog.text


def test_img2dataset_s_folder_is_read(tmp_path, write_shard, encode):
    folder = tmp_path / "fetched"
    for shard in range(2):
        members = {f"{shard}0.jpg": encode("red", "JPEG"), f"{shard}0.txt": b"a rose", f"{shard}0.json": b"{}"}
        write_shard(folder / f"0000{shard}.tar", members)
        table = {"url": ["https://x"], "caption": ["a rose"], "key": [f"{shard}0"], "status": ["success"]}
        datasets.Dataset.from_dict(table).to_parquet(folder / f"0000{shard}.parquet")
        (folder / f"0000{shard}_stats.json").write_text("{}")
    rows = load(folder)
    assert (rows.keys, rows.captions) == (["00", "10"], [["a rose"], ["a rose"]])
    stream, others = open_stream(str(folder), Columns())
    assert [Path(file).name for file in stream.shards.files] == ["00000.tar", "00001.tar"]
    assert (stream.kind, others) == ("caption", {})
    with pytest.raises(
        ValueError, match="00000.tar: is a file of no known kind; give the folder that holds the shards"
    ):
        load(folder / "00000.tar")


def test_tar_beside_a_table_of_another_name_is_not_read(write_pictures, write_shard, tmp_path):
    folder = write_pictures("a.png")
    write_shard(folder / "backup.tar", {})
    (folder / "train.csv").write_text("image,caption\na.png,one\n")
    assert load(folder, cache_dir=str(tmp_path / "cache")).captions == [["one"]]
