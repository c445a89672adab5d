"""Walk local folders and open local files: one file is one image."""

import os

import pytest

from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.images.decode import BadImageError
from modeling_clipscratch.utils.local_files import read_json, walk_files


@pytest.fixture
def folder(image_folder, encode):
    """The folder of `image_folder`, with `secret.png` beside it."""
    (image_folder.parent / "secret.png").write_bytes(encode())
    return image_folder


def write_table(path, names):
    path.write_text("\n".join(["file_name,caption", *(f"{name},word {row}" for row, name in enumerate(names))]))
    return path


SPELLINGS = ["images/a.png", "./images/a.png", r"images\a.png", "images//a.png", "images/../images/a.png"]
SPELLINGS += ["{folder}/images/a.png", "link/a.png"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_file_in_two_spellings_is_one_image(folder, load, spelling):
    os.symlink(folder / "images", folder / "link")
    names = [spelling.format(folder=folder), "images/b.png", "images/a.png"]
    rows = load(write_table(folder / "rows.csv", names))
    assert rows["captions"][:] == [["word 0", "word 2"], ["word 1"]]
    assert ImageReader(rows)(0).getpixel((0, 0)) == (255, 0, 0)
    assert rows["key"][:] == ["link/a.png" if "link" in spelling else "images/a.png", "images/b.png"]


def test_a_name_with_a_backslash_in_it_is_read_as_it_is(folder, load, encode):
    (folder / r"images\a.png").write_bytes(encode("white"))
    rows = load(write_table(folder / "rows.csv", [r"images\a.png", "images/a.png", r"C:\data\a.png", "gone.png"]))
    assert len(rows) == 4 and ImageReader(rows)(0).getpixel((0, 0)) == (255, 255, 255)
    for row in (2, 3):
        with pytest.raises(BadImageError, match="no such image; check the path, or remove its row"):
            ImageReader(rows)(row)


def test_a_metadata_table_may_name_its_files_by_absolute_paths_and_through_links(folder, load):
    os.symlink(folder.parent / "secret.png", folder / "images" / "linked.png")  # as in the Hub's cache
    names = [str(folder / "images" / "a.png"), "images/linked.png"]
    write_table(folder / "metadata.csv", names)
    assert load(folder)["key"][:] == ["images/a.png", "images/linked.png"]


@pytest.mark.parametrize("text", [b"", b'{"a": ', b"\xff\x00", b"[]", b"null", b'"x"', b"[" * 100_000])
def test_json_that_is_not_an_object_is_named(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ValueError, match="a.json is damaged"):
        read_json(tmp_path / "a.json")


def test_folders_are_walked_in_order_through_links_and_around_loops(write_files, tmp_path):
    folder = write_files(["b/1", "b/0", "a/x/1", ".git/1", "c/1", "c/__MACOSX/1", "c/@eaDir/1", "c/.cache/1"])
    (tmp_path / "far" / "deep").mkdir(parents=True)
    (tmp_path / "far" / "1").write_text("")
    links = {"a/up": folder, "a/side": folder / "b", "far": tmp_path / "far", "far/back": folder, "far/self": "."}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    expected = {"": [], "a": [], "a/side": ["0", "1"], "a/x": ["1"], "b": ["0", "1"], "c": ["1"]}
    expected |= {"far": ["1"], "far/deep": []}
    assert list(walk_files(folder)) == list(walk_files(f"{folder}/")) == list(expected.items())


def test_a_folder_that_cannot_be_read_is_not_passed_over(write_files, load, monkeypatch):
    folder = write_files(["cat/a.png", "cat/deep/a.png"])
    scandir = os.scandir

    def locked(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(ValueError, match="deep: this folder cannot be read .Permission denied."):
        load(folder)
