"""Writes that fail half-way: what was there stays, nothing else is left, and one sentence says where."""

import errno
import os
import shutil
import stat

import pytest
from safetensors import SafetensorError

from modeling_clipscratch.utils.atomic_files import (
    WriteError,
    check_new_folder,
    replacing_files,
    write_new_folder,
    write_text,
    write_whole,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def file(path, fail):
    write_whole(path, lambda temporary: (temporary.write_text("new"), fail()))


def folder(path, fail):
    write_new_folder(path, lambda beside: ((beside / "a").write_text("new"), fail()))


def files(path, fail):
    with replacing_files(path, last="z") as inside:
        (inside / "a").write_text("new")
        (inside / "deep").mkdir()
        write_text(inside / "deep" / "b", "new")
        fail()


@pytest.fixture(params=[file, folder, files], ids=lambda write: write.__name__)
def target(request, tmp_path):
    """(function that writes, path, what is there)."""
    path = tmp_path / "place"
    if request.param is file:
        path.write_text("old")
    else:
        path.mkdir()
    if request.param is files:
        for name in ("a", "z", "another's"):
            (path / name).write_text("old")
    return request.param, path, contents(tmp_path)


def contents(folder):
    return {str(path): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize("error", [FULL, SafetensorError("No space left"), WriteError("x")], ids=["os", "st", "nested"])
def test_a_failed_write_leaves_what_was_there_and_says_where(target, tmp_path, error):
    write, path, before = target
    if isinstance(error, WriteError):
        error.__cause__ = FULL

    def fail():
        raise error

    with pytest.raises(
        WriteError, match=rf"{path} cannot be written \(No space left.*; [\d,]+ MB free there\)"
    ) as told:
        write(path, fail)
    assert "\n" not in str(told.value)
    assert contents(tmp_path) == before


def test_an_error_of_another_kind_is_raised_as_it_is(target, tmp_path):
    write, path, before = target
    with pytest.raises(ZeroDivisionError):
        write(path, lambda: 1 / 0)
    assert contents(tmp_path) == before


def test_what_a_killed_process_left_goes_at_the_next_write_and_nothing_else(target, tmp_path, monkeypatch):
    write, path, _ = target
    with monkeypatch.context() as patch:
        for module, name in ((shutil, "rmtree"), (type(path), "unlink")):
            patch.setattr(module, name, lambda *given, **named: None)  # as if it had been killed
        with pytest.raises(ZeroDivisionError):
            write(path, lambda: 1 / 0)
    (tmp_path / ".place-backup.part").write_text("a person's")
    left = [name for name in contents(tmp_path) if ".part" in name]
    assert len(left) > 1
    write(path, lambda: None)
    assert [name for name in contents(tmp_path) if ".part" in name] == [str(tmp_path / ".place-backup.part")]


def test_files_are_replaced_together_and_others_kept(tmp_path):
    for name in ("a", "z", "another's"):
        (tmp_path / name).write_text("old")
    with replacing_files(tmp_path, last="z") as inside:
        write_text(inside / "a", "new")
        write_text(inside / "deep" / "b", "new")
        assert contents(tmp_path)[str(tmp_path / "a")] == "old"
    names = {"a": "new", "another's": "old", "deep": None, "deep/b": "new"}  # the old z vouched for the old a
    assert contents(tmp_path) == {str(tmp_path / name): text for name, text in names.items()}
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "another's").stat().st_mode


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    def stop(where):
        (where / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_new_folder(tmp_path / "new", stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    check_new_folder("page", tmp_path / "new")  # an empty folder is as good as none
    write_new_folder(tmp_path / "new", lambda where: (where / "file").write_text("whole"))
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "file"]
    os.chmod(tmp_path / "new" / "file", 0o600)
    write_new_folder(tmp_path / "again", lambda where: shutil.move(tmp_path / "new" / "file", where / "file"))
    assert (tmp_path / "again" / "file").stat().st_mode == (tmp_path / "new").stat().st_mode & 0o666 | stat.S_IFREG
    shutil.move(tmp_path / "again" / "file", tmp_path / "new" / "file")
    with pytest.raises(ValueError, match="page=.*new is there already; delete it, or choose another name"):
        check_new_folder("page", tmp_path / "new")


def test_an_empty_folder_behind_a_link_is_filled(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to("there")
    check_new_folder("page", link)
    write_new_folder(link, lambda where: (where / "file").write_text("whole"))
    assert link.is_symlink() and (tmp_path / "there" / "file").read_text() == "whole"


def test_a_mounted_disk_is_refused():
    with pytest.raises(ValueError, match="page=/ is where a disk is mounted"):
        check_new_folder("page", "/")
