"""Change, kill and damage an index, and count what is encoded and kept."""

import copy
import os
import shutil
from dataclasses import asdict

import pytest
import torch

from modeling_clipscratch.data.images.decode import decode_image
from modeling_clipscratch.search import image_index
from modeling_clipscratch.search.image_index import FILE, INSIDE, open_index

NAMES = [*(f"{n}.png" for n in range(5)), *(f"deep/er/{n}.png" for n in range(5, 10))]


def counts(changes):
    return {name: number for name, number in asdict(changes).items() if number}


def embeds_by_name(index):
    return dict(zip(index.images, index.embeds, strict=True))


def test_a_first_call_encodes_each_image_and_a_second_none(images, update, monkeypatch):
    index, changes = update(images)
    assert list(index.images) == NAMES and index.embeds.shape == (10, 8)
    assert counts(changes) == {"encoded": 10}
    monkeypatch.setattr(image_index, "encode_pixels", None)
    assert counts(update(images)[1]) == {"unchanged": 10}


def test_only_new_or_changed_images_are_encoded_and_deleted_ones_dropped(images, update, save_image):
    update(images)
    save_image(images / "new.png", 100)
    save_image(images / "1.png", 101)
    (images / "2.png").unlink()
    index, changes = update(images)
    # The old content of 1.png does not count as gone: its name is there.
    assert counts(changes) == {"encoded": 2, "unchanged": 8, "gone": 1}
    assert len(index.embeds) == 10 and "2.png" not in index.images


def test_moved_copied_and_touched_images_are_recognised(images, update):
    shutil.copy(images / "1.png", images / "copy.png")
    index, changes = update(images)
    assert counts(changes) == {"encoded": 10, "recognised": 1}
    before = embeds_by_name(index)
    (images / "0.png").rename(images / "deep" / "renamed.png")
    shutil.copy(images / "1.png", images / "another.png")
    os.utime(images / "2.png", ns=(1, 1))
    index, changes = update(images)
    assert counts(changes) == {"recognised": 3, "unchanged": 9}
    after = embeds_by_name(index)
    assert (after["deep/renamed.png"] == before["0.png"]).all() and (after["another.png"] == before["1.png"]).all()
    assert len(index.embeds) == 12 and "0.png" not in index.images


def test_unreadable_images_are_named_and_left_out(images, update, caplog):
    update(images)
    (images / "broken.jpg").write_bytes(b"no image")
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:60])
    index, changes = update(images)
    assert counts(changes) == {"unchanged": 9, "gone": 1, "unreadable": 2} and len(index.embeds) == 9
    assert f"{images / 'broken.jpg'}: cannot be decoded" in caplog.text and str(images / "3.png") in caplog.text


def test_what_was_encoded_before_an_error_is_kept(images, update, monkeypatch):
    def failing(data, name):
        return 1 / 0 if name.endswith("9.png") else decode_image(data, name=name)

    with monkeypatch.context() as patch:
        patch.setattr(image_index, "decode_image", failing)
        patch.setattr(image_index, "SAVE_EVERY", 3)
        with pytest.raises(ZeroDivisionError):
            update(images, batch_size=5)
    assert counts(update(images)[1]) == {"encoded": 5, "unchanged": 5}


def test_a_model_that_gives_nan_makes_no_index(images, update, monkeypatch):
    monkeypatch.setattr(
        image_index, "encode_pixels", lambda model, pixels, *more: torch.full((len(pixels), 2), torch.nan)
    )
    with pytest.raises(ValueError, match="the model gives NaN or infinity for an image; check its weights"):
        update(images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"made with another model \(a model, "),
        ({"image_mean": [0.1] * 3}, "made with another model"),
        ({"do_normalize": False}, "made with another model"),
        ({"bytes": 100}, "index.safetensors is damaged"),
        ({"bytes": 0}, "index.safetensors is damaged"),
    ],
)
def test_an_unfit_index_is_refused_until_it_is_rebuilt(images, update, make_model, word_processor, changes, message):
    update(images)
    settings = {"processor": copy.deepcopy(word_processor)}
    if "seed" in changes:
        settings["model"] = make_model(**changes)
    if "bytes" in changes:
        os.truncate(images / INSIDE / FILE, changes["bytes"])
    for name, value in changes.items():
        setattr(settings["processor"].image_processor, name, value)
    with pytest.raises(ValueError, match=f"{message}.* --rebuild.$") as error:
        update(images, **settings)
    assert "\n" not in str(error.value)
    assert counts(update(images, rebuild=True, **settings)[1]) == {"encoded": 10}


def test_an_index_elsewhere_follows_a_moved_folder_and_refuses_another(images, update, tmp_path, save_image):
    update(images, where=tmp_path / "index")
    assert not (images / INSIDE).exists()
    save_image(tmp_path / "others" / "a.png", 50)
    with pytest.raises(ValueError, match="is that of .*images, not of .*others"):
        update(tmp_path / "others", where=tmp_path / "index")
    moved = images.rename(tmp_path / "elsewhere")
    assert counts(update(moved, where=tmp_path / "index")[1]) == {"unchanged": 10}
    assert open_index(tmp_path / "index").folder == moved


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ValueError, "is not a folder"),
        ({}, ValueError, "hold no image"),
        ({"a.jpg": b"no image"}, ValueError, "none of 1 images can be read"),
        ({"index": b"", "a.png": b""}, OSError, "index cannot be written"),
    ],
)
def test_a_folder_without_images_or_a_file_for_an_index_is_refused(tmp_path, update, content, error, message):
    folder = tmp_path / "empty"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(error, match=message):
        update(folder, where=folder / "index" if content and "index" in content else None)


def test_a_folder_that_was_emptied_does_not_empty_its_index(images, update, tmp_path):
    """An unmounted drive looks like this."""
    update(images, where=tmp_path / "index")
    shutil.rmtree(images)
    images.mkdir()
    with pytest.raises(ValueError, match="hold no image"):
        update(images, where=tmp_path / "index")
    assert len(open_index(tmp_path / "index").images) == 10


def test_an_index_moves_with_its_folder_also_if_names_are_not_utf_8(images, update, tmp_path):
    raw = os.fsdecode(b"caf\xe9.png")
    (images / "0.png").rename(images / raw)
    folder = images.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    update(folder)
    assert counts(update(folder)[1]) == {"unchanged": 10}
    assert raw in open_index(folder).images


def test_other_files_are_left_out(images, update, save_image, caplog):
    save_image(images / ".thumbnails" / "small.png", 1)
    (images / "notes.txt").write_text("")
    (images / "deep" / "IMG_1.HEIC").write_bytes(b"of a phone")
    os.mkfifo(images / "x.png")
    os.symlink("/dev/zero", images / "deep" / "y.jpg")
    assert list(update(images)[0].images) == NAMES
    assert "IMG_1.HEIC" in caplog.text
