"""Check that a write that fails half-way keeps the old content, leaves nothing else and names the place."""

import errno
import os
import re
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from modeling_clipscratch.utils.atomic_files import (
    WriteError,
    check_new_folder,
    replacing_files,
    write_text,
    write_whole,
)

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def file(path, fail):
    write_whole(path, lambda temporary: (temporary.write_text("new"), fail()))


def folder(path, fail):
    write_whole(path, lambda temporary: ((temporary / "a").write_text("new"), fail()), folder=True)


def files(path, fail):
    with replacing_files(path, last="z") as temporary:
        write_text(temporary / "a", "new")
        write_text(temporary / "deep" / "b", "new")
        fail()


@pytest.fixture(params=[file, folder, files], ids=lambda write: write.__name__)
def target(request, tmp_path):
    """(function that writes, path, old content)."""
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


@pytest.mark.parametrize("error", [FULL, SafetensorError("No space left"), KeyboardInterrupt(), FileNotFoundError()])
def test_a_failed_write_keeps_the_old_content_and_names_the_place(target, tmp_path, error):
    write, path, before = target

    def fail():
        raise error

    full = error is FULL or isinstance(error, SafetensorError)
    message = rf"{path} cannot be written \(No space left.*\), and" if full else None
    with pytest.raises(WriteError if full else type(error), match=message):
        write(path, fail)
    assert contents(tmp_path) == before


def test_the_next_write_removes_what_a_killed_process_left_and_nothing_else(target, tmp_path, monkeypatch):
    write, path, _ = target
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *arguments, **named: None)  # as if it had been killed
        with pytest.raises(ZeroDivisionError):
            write(path, lambda: 1 / 0)
    (tmp_path / ".place-backup.part").write_text("the user's")
    assert len([name for name in contents(tmp_path) if ".part" in name]) > 1
    write(path, lambda: None)
    assert [name for name in contents(tmp_path) if ".part" in name] == [str(tmp_path / ".place-backup.part")]


def test_files_are_replaced_together_and_others_kept(tmp_path):
    for name in ("a", "z", "another's"):
        (tmp_path / name).write_text("old")
    files(tmp_path, lambda: None)
    names = {"a": "new", "another's": "old", "deep": None, "deep/b": "new"}  # the old z vouched for the old a
    assert contents(tmp_path) == {str(tmp_path / name): text for name, text in names.items()}


def test_a_new_folder_has_the_usual_permissions_and_may_lie_behind_a_link_but_must_be_empty(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "usual").write_text("")
    mode = (tmp_path / "there").stat().st_mode, (tmp_path / "there" / "usual").stat().st_mode
    with pytest.raises(ValueError, match=f"page={re.escape(str(tmp_path / 'there'))} exists already"):
        check_new_folder("page", tmp_path / "there")
    (tmp_path / "there" / "usual").unlink()
    (tmp_path / "link").symlink_to("there")
    check_new_folder("page", tmp_path / "link")
    weights = {"weight": torch.ones(1)}  # safetensors writes files for their owner only
    write_whole(tmp_path / "link", lambda temporary: save_file(weights, temporary / "weights"), folder=True)
    assert (tmp_path / "link").is_symlink()
    assert ((tmp_path / "there").stat().st_mode, (tmp_path / "there" / "weights").stat().st_mode) == mode
