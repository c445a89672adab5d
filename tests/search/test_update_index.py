"""Change, kill and damage an index, and count what is encoded and kept."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from modeling_clipscratch.data.images.decode import BadImageError, decode_image
from modeling_clipscratch.search import index_files, update_index
from modeling_clipscratch.search.index_files import INSIDE, open_index

NAMES = [*(f"{n}.png" for n in range(5)), *(f"deep/er/{n}.png" for n in range(5, 10))]


def counts(changes):
    return {name: number for name, number in asdict(changes).items() if name != "errors" and number}


def embeds_by_name(index):
    rows = {digest: row for row, digest in enumerate(index.digests)}
    return {name: index.embeds[rows[image.digest]] for name, image in index.images.items()}


def test_a_first_call_encodes_each_image_and_a_second_none(images, update, monkeypatch):
    index, changes = update(images)
    assert list(index.images) == NAMES and index.embeds.shape == (10, 8)
    assert counts(changes) == {"encoded": 10}
    monkeypatch.setattr(update_index, "encode_pixels", None)
    assert counts(update(images)[1]) == {"unchanged": 10}


def test_embeddings_are_those_of_the_model(images, update, model, word_processor):
    for name, embed in embeds_by_name(update(images)[0]).items():
        inputs = word_processor(images=decode_image(images / name, name=name), return_tensors="pt")
        expected = model.get_image_features(**inputs).pooler_output[0].detach().numpy()
        np.testing.assert_allclose(embed, expected / np.linalg.norm(expected), atol=1e-5)  # float32, another batch


def test_only_new_or_changed_images_are_encoded_and_deleted_ones_dropped(images, update, save_image):
    update(images)
    save_image(images / "new.png", 100)
    save_image(images / "1.png", 101)
    (images / "2.png").unlink()
    index, changes = update(images)
    # The old content of 1.png does not count as gone: its name is there.
    assert counts(changes) == {"encoded": 2, "unchanged": 8, "gone": 1}
    assert len(index.embeds) == 10 and "2.png" not in index.images
    assert set(index.digests) == {image.digest for image in index.images.values()}


def test_moved_copied_and_touched_images_are_recognised(images, update):
    before = embeds_by_name(update(images)[0])
    (images / "0.png").rename(images / "deep" / "renamed.png")
    shutil.copy(images / "1.png", images / "copy.png")
    os.utime(images / "2.png", ns=(1, 1))
    index, changes = update(images)
    assert counts(changes) == {"recognised": 3, "unchanged": 8}
    after = embeds_by_name(index)
    assert (after["deep/renamed.png"] == before["0.png"]).all() and (after["copy.png"] == before["1.png"]).all()
    assert len(index.embeds) == 10 and "0.png" not in index.images


def test_equal_images_of_a_first_call_are_encoded_once(images, update):
    shutil.copy(images / "1.png", images / "copy.png")
    index, changes = update(images)
    assert counts(changes) == {"encoded": 10, "recognised": 1} and len(index.embeds) == 10


def test_unreadable_images_are_named_and_left_out(images, update, caplog):
    update(images)
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:60])
    index, changes = update(images)
    assert counts(changes) == {"unchanged": 9, "gone": 1} and len(changes.errors) == 2 and len(index.embeds) == 9
    assert f"{images / 'broken.jpg'}: cannot be decoded" in caplog.text and str(images / "3.png") in caplog.text


def test_an_unreadable_image_stops_a_strict_call_and_what_was_encoded_is_kept(images, update):
    (images / "zz.jpg").write_bytes(b"no image")
    with pytest.raises(BadImageError, match="zz.jpg: cannot be decoded"):
        update(images, on_bad_row="raise", batch_size=5)
    (images / "zz.jpg").unlink()
    assert counts(update(images)[1]) == {"recognised": 10}


KILLED = """
import os, signal, sys
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.search import update_index as module
write, times = module.write_vectors, []
def killing(*arguments):
    write(*arguments)
    times.append(1)
    if len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
module.write_vectors, module.PART_IMAGES = killing, 3
model, processor = load_model(sys.argv[1], "cpu")
module.update_index(sys.argv[2], model, processor, model_name="a model", batch_size=3)
"""


@pytest.mark.slow
def test_after_sigkill_the_next_call_encodes_the_rest_only(images, update, model, word_processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    word_processor.save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "model"), str(images)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL
    index, changes = update(images)
    assert counts(changes) == {"encoded": 4, "recognised": 6}
    left = sorted(path.name for path in (images / INSIDE).iterdir())
    assert left[:2] == ["clipscratch-index.json", "lock"] and len(left) == 3 and left[2].startswith("vectors-")
    straight = embeds_by_name(update(images, rebuild=True)[0])
    for name, embed in embeds_by_name(index).items():
        np.testing.assert_allclose(embed, straight[name], atol=1e-6)  # batches of 3 against one of 10


def test_an_update_that_stops_before_its_table_leaves_the_old_index(images, update, save_image, monkeypatch):
    update(images)
    save_image(images / "new.png", 100)
    with monkeypatch.context() as patch:
        patch.setattr(index_files, "write_text", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            update(images)
    assert len([*(images / INSIDE).glob("vectors-*")]) == 2
    assert list(open_index(images).images) == NAMES
    assert counts(update(images)[1]) == {"recognised": 1, "unchanged": 10}
    assert len([*(images / INSIDE).glob("vectors-*")]) == 1


@pytest.fixture
def stopped(images, update, monkeypatch):
    """A folder of images whose first update stopped with two parts on disk."""
    with monkeypatch.context() as patch:
        patch.setattr(update_index, "save_index", lambda *arguments: 1 / 0)
        patch.setattr(update_index, "PART_IMAGES", 5)
        with pytest.raises(ZeroDivisionError):
            update(images, batch_size=5)
    return images


def test_parts_of_another_model_are_not_used(stopped, update, make_model):
    assert counts(update(stopped, model=make_model(seed=1))[1]) == {"encoded": 10}
    assert not [*(stopped / INSIDE).glob("parts-*")]


def test_the_images_of_a_damaged_part_are_encoded_again(stopped, update, caplog):
    damaged, _ = (stopped / INSIDE).glob("parts-*/part-*")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert counts(update(stopped)[1]) == {"encoded": 5, "recognised": 5}
    assert f"{damaged} is damaged" in caplog.text


def flip_last_bit(path):
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def change_table(index, old, new):
    path = index / "clipscratch-index.json"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda index: {"seed": 1}, r"made with another model \(a model, "),
        (lambda index: {"image_mean": [0.1] * 3}, "made with another model"),
        (lambda index: {"do_normalize": False}, "made with another model"),
        (lambda index: flip_last_bit(*index.glob("vectors-*")), "cannot be read .*is damaged"),
        (lambda index: next(index.glob("vectors-*")).unlink(), "cannot be read .*FileNotFoundError"),
        (lambda index: change_table(index, "{", ""), "cannot be read .*is damaged"),
        (lambda index: change_table(index, '"format": 2', '"format": 1'), "it has format 1, and this version reads 2"),
    ],
)
def test_an_unfit_index_is_refused_until_it_is_rebuilt(
    images, update, make_model, word_processor, tmp_path, spoil, message
):
    update(images, where=tmp_path / "index")
    settings = {"processor": copy.deepcopy(word_processor), "where": tmp_path / "index"}
    changes = spoil(tmp_path / "index") or {}
    if "seed" in changes:
        settings["model"] = make_model(**changes)
    for name, value in changes.items():
        setattr(settings["processor"].image_processor, name, value)
    remedy = rf"clipscratch index \S+ --index {tmp_path}/index --model DIR --rebuild"
    with pytest.raises(ValueError, match=f"the index .*{message}.*: {remedy}$") as error:
        update(images, **settings)
    assert "\n" not in str(error.value)
    assert counts(update(images, rebuild=True, **settings)[1]) == {"encoded": 10}


def test_a_reader_that_meets_a_writer_gets_the_new_index(images, update, monkeypatch):
    update(images)
    read, paths = index_files.read_vectors, []

    def meanwhile(path):
        paths.append(path)
        if len(paths) == 1:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read(path)

    monkeypatch.setattr(index_files, "read_vectors", meanwhile)
    assert len(open_index(images).embeds) == 10 and len(paths) == 2


def test_an_index_moves_with_its_folder(images, update, tmp_path):
    update(images)
    moved = images.rename(tmp_path / "elsewhere")
    index, changes = update(moved)
    assert counts(changes) == {"unchanged": 10} and index.folder == moved


def test_an_index_elsewhere_follows_a_moved_folder_and_refuses_another(images, update, tmp_path, save_image):
    update(images, where=tmp_path / "index")
    assert not (images / INSIDE).exists()
    save_image(tmp_path / "others" / "a.png", 50)
    with pytest.raises(ValueError, match="is that of .*images, not of .*others"):
        update(tmp_path / "others", where=tmp_path / "index")
    moved = images.rename(tmp_path / "elsewhere")
    assert counts(update(moved, where=tmp_path / "index")[1]) == {"unchanged": 10}
    assert open_index(tmp_path / "index").folder == moved


def test_two_calls_do_not_write_one_index(images, update):
    update(images)
    with FileLock(images / INSIDE / "lock"), pytest.raises(ValueError, match="written by another process"):
        update(images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a folder"),
        ({}, "hold no image"),
        ({"a.jpg": b"no image"}, "none of 1 images can be read; .*a.jpg"),
        ({"index": b"", "a.png": b""}, "index is a file"),
    ],
)
def test_a_folder_without_images_or_a_file_for_an_index_is_refused(tmp_path, update, content, message):
    folder = tmp_path / "empty"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        update(folder, where=folder / "index" if content and "index" in content else None)


def test_a_folder_that_was_emptied_does_not_empty_its_index(images, update, tmp_path):
    """An unmounted drive looks like this."""
    update(images, where=tmp_path / "index")
    shutil.rmtree(images)
    images.mkdir()
    with pytest.raises(ValueError, match="hold no image"):
        update(images, where=tmp_path / "index")
    assert len(open_index(tmp_path / "index").images) == 10


def test_names_that_are_not_utf_8_are_kept(images, update, tmp_path):
    raw = os.fsdecode(b"caf\xe9.png")
    (images / "0.png").rename(images / raw)
    folder = images.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    update(folder)
    assert counts(update(folder)[1]) == {"unchanged": 10}
    assert raw in open_index(folder).images


def test_other_files_are_left_out_and_counted(images, update, save_image, caplog):
    save_image(images / ".thumbnails" / "small.png", 1)
    (images / "notes.txt").write_text("")
    (images / "index.json").write_text("[1]")  # not ours
    (images / "deep" / "IMG_1.HEIC").write_bytes(b"of a phone")
    os.mkfifo(images / "x.png")
    os.symlink("/dev/zero", images / "deep" / "y.jpg")
    assert list(update(images)[0].images) == NAMES
    assert "IMG_1.HEIC" in caplog.text and "2 pipes, sockets or devices (" in caplog.text
    assert (images / "index.json").read_text() == "[1]"


def test_an_index_that_cannot_be_written_stays_the_old_one(images, update, save_image, monkeypatch):
    update(images)
    before = {path: path.read_bytes() for path in (images / INSIDE).iterdir()}
    save_image(images / "new.png", 100)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=rf"{INSIDE}/.* cannot be written \(No space left .* MB free there\)"):
            update(images)
    assert {path: path.read_bytes() for path in (images / INSIDE).iterdir() if path.is_file()} == before
    assert len(update(images)[0].images) == 11
