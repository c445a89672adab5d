"""Index folders that change and calls that are killed, and count what is encoded and kept."""

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

from modeling_clipscratch.data.images.decode import BadImageError
from modeling_clipscratch.search import index_files as store
from modeling_clipscratch.search import update_index as module
from modeling_clipscratch.search.index_files import INSIDE, open_index
from modeling_clipscratch.search.vectors import number_of, numbers_in

NAMES = [*(f"{n}.png" for n in range(5)), *(f"deep/er/{n}.png" for n in range(5, 10))]


def counts(changes):
    return {name: number for name, number in asdict(changes).items() if name != "errors" and number}


def vectors_by_name(index):
    return {n: index.vectors.reconstruct(number_of(picture.digest)) for n, picture in index.pictures.items()}


def test_a_first_call_encodes_each_picture_and_a_second_none(pictures, update, monkeypatch):
    index, changes = update(pictures)
    assert list(index.pictures) == NAMES and index.vectors.ntotal == 10
    assert counts(changes) == {"encoded": 10}
    monkeypatch.setattr(module, "encode_pixels", None)
    assert counts(update(pictures)[1]) == {"unchanged": 10}


def test_vectors_are_those_of_the_model(pictures, update, model, word_processor):
    found = vectors_by_name(update(pictures)[0])
    from modeling_clipscratch.data.images.decode import decode_image

    for name, vector in found.items():
        inputs = word_processor(images=decode_image(pictures / name, name=name), return_tensors="pt")
        expected = model.get_image_features(**inputs).pooler_output[0].detach().numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)  # float32, another batch


def test_only_what_is_new_or_changed_is_encoded_and_what_is_gone_is_dropped(pictures, update, save_picture):
    update(pictures)
    save_picture(pictures / "new.png", 100)
    save_picture(pictures / "1.png", 101)
    (pictures / "2.png").unlink()
    index, changes = update(pictures)
    # The old content of 1.png is no picture that is gone: its name is there.
    assert counts(changes) == {"encoded": 2, "unchanged": 8, "gone": 1}
    assert index.vectors.ntotal == 10 and "2.png" not in index.pictures
    assert set(numbers_in(index.vectors)) == {number_of(picture.digest) for picture in index.pictures.values()}


def test_a_moved_a_copied_and_a_touched_picture_are_recognised(pictures, update):
    before = vectors_by_name(update(pictures)[0])
    (pictures / "0.png").rename(pictures / "deep" / "renamed.png")
    shutil.copy(pictures / "1.png", pictures / "copy.png")
    os.utime(pictures / "2.png", ns=(1, 1))
    index, changes = update(pictures)
    assert counts(changes) == {"recognised": 3, "unchanged": 8}
    after = vectors_by_name(index)
    assert (after["deep/renamed.png"] == before["0.png"]).all() and (after["copy.png"] == before["1.png"]).all()
    assert index.vectors.ntotal == 10 and "0.png" not in index.pictures


def test_equal_pictures_of_a_first_call_are_encoded_once(pictures, update):
    shutil.copy(pictures / "1.png", pictures / "copy.png")
    index, changes = update(pictures)
    assert counts(changes) == {"encoded": 10, "recognised": 1} and index.vectors.ntotal == 10


def test_hidden_folders_and_other_files_are_passed_over(pictures, update, save_picture):
    save_picture(pictures / ".thumbnails" / "small.png", 1)
    (pictures / "notes.txt").write_text("")
    assert list(update(pictures)[0].pictures) == NAMES


def test_an_unreadable_picture_is_named_and_left_out(pictures, update, caplog):
    (pictures / "broken.jpg").write_bytes(b"no picture")
    (pictures / "3.png").write_bytes((pictures / "3.png").read_bytes()[:60])
    index, changes = update(pictures)
    assert counts(changes) == {"encoded": 9} and len(changes.errors) == 2
    assert f"{pictures / 'broken.jpg'}: cannot be decoded" in caplog.text and str(pictures / "3.png") in caplog.text
    assert "broken.jpg" not in index.pictures


def test_an_unreadable_picture_stops_a_strict_call_and_what_was_encoded_is_kept(pictures, update):
    (pictures / "zz.jpg").write_bytes(b"no picture")
    with pytest.raises(BadImageError, match="zz.jpg: cannot be decoded"):
        update(pictures, on_bad_row="raise", batch_size=5)
    (pictures / "zz.jpg").unlink()
    assert counts(update(pictures)[1]) == {"recognised": 10}


def test_a_picture_that_broke_is_no_longer_found(pictures, update):
    update(pictures)
    (pictures / "3.png").write_bytes(b"no picture")
    index, changes = update(pictures)
    assert "3.png" not in index.pictures and index.vectors.ntotal == 9 and changes.gone == 1


KILLED = """
import os, signal, sys
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.search import update
publish, times = update._publish, []
def killing(*given):
    publish(*given)
    times.append(1)
    if len(times) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
update._publish, update.PART_PICTURES = killing, 3
model, processor = load_model(sys.argv[1], "cpu")
update.update_index(sys.argv[2], model, processor, model_name="a model", batch_size=3)
"""


def test_after_sigkill_the_next_call_encodes_the_rest_only(pictures, update, model, word_processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    word_processor.save_pretrained(tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "model"), str(pictures)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == -signal.SIGKILL
    index, changes = update(pictures)
    assert counts(changes) == {"encoded": 4, "recognised": 6}
    left = sorted(path.name for path in (pictures / INSIDE).iterdir())
    assert left[:2] == ["clipscratch-index.json", "lock"] and len(left) == 3 and left[2].startswith("vectors-")
    straight = vectors_by_name(update(pictures, rebuild=True)[0])
    for name, vector in vectors_by_name(index).items():
        np.testing.assert_allclose(vector, straight[name], atol=1e-6)  # batches of 3 against one of 10


def test_an_index_that_is_being_brought_up_to_date_is_still_the_old_one(pictures, update, save_picture, monkeypatch):
    """The new vectors are written; what stops is the writing of the table."""
    update(pictures)
    save_picture(pictures / "new.png", 100)
    monkeypatch.setattr(store, "write_text", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        update(pictures)
    assert len([*(pictures / INSIDE).glob("vectors-*")]) == 2
    assert list(open_index(pictures / INSIDE).pictures) == NAMES
    monkeypatch.undo()
    assert counts(update(pictures)[1]) == {"recognised": 1, "unchanged": 10}
    assert len([*(pictures / INSIDE).glob("vectors-*")]) == 1


def test_parts_of_another_model_are_not_taken_up(pictures, update, make_model, monkeypatch):
    monkeypatch.setattr(module, "save_index", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        update(pictures)
    monkeypatch.undo()
    assert counts(update(pictures, model=make_model(seed=1))[1]) == {"encoded": 10}
    assert not [*(pictures / INSIDE).glob("parts-*")]


def test_a_damaged_part_is_left_out_and_its_pictures_are_encoded_again(pictures, update, monkeypatch, caplog):
    monkeypatch.setattr(module, "save_index", lambda *given: 1 / 0)
    monkeypatch.setattr(module, "PART_PICTURES", 5)
    with pytest.raises(ZeroDivisionError):
        update(pictures, batch_size=5)
    monkeypatch.undo()
    one, _ = (pictures / INSIDE).glob("parts-*/part-*")
    one.write_bytes(one.read_bytes()[:-1])
    assert counts(update(pictures)[1]) == {"encoded": 5, "recognised": 5}
    assert f"{one} is damaged" in caplog.text


def test_an_index_of_another_model_is_refused_until_it_is_rebuilt(pictures, update, make_model):
    other = make_model(seed=1)
    update(pictures)
    with pytest.raises(ValueError, match=r"made with another model \(a model, .* --rebuild$"):
        update(pictures, model=other)
    assert counts(update(pictures)[1]) == {"unchanged": 10}
    assert counts(update(pictures, model=other, rebuild=True)[1]) == {"encoded": 10}
    with pytest.raises(ValueError, match="made with another model"):
        update(pictures)


@pytest.mark.parametrize("damage", ["half the vectors", "one bit", "no vectors", "half the table", "another form"])
def test_a_damaged_index_is_refused_until_it_is_rebuilt(pictures, update, damage):
    update(pictures)
    table = pictures / INSIDE / "clipscratch-index.json"
    (vectors,) = (pictures / INSIDE).glob("vectors-*")
    data = vectors.read_bytes()
    match damage:
        case "half the vectors":
            vectors.write_bytes(data[: len(data) // 2])
        case "one bit":
            vectors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        case "no vectors":
            vectors.unlink()
        case "half the table":
            table.write_text(table.read_text()[:100])
        case "another form":
            table.write_text(table.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ValueError, match="holds a damaged index .* --rebuild$") as error:
        update(pictures)
    assert "\n" not in str(error.value)
    assert counts(update(pictures, rebuild=True)[1]) == {"encoded": 10}


def test_a_reader_that_meets_a_writer_gets_the_new_index(pictures, update, monkeypatch):
    update(pictures)
    where, read = pictures / INSIDE, store.read_vectors
    reads = []

    def meanwhile(path):
        reads.append(path)
        if len(reads) == 1:
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return read(path)

    monkeypatch.setattr(store, "read_vectors", meanwhile)
    assert store.open_index(where).vectors.ntotal == 10 and len(reads) == 2


def test_remedy_for_an_index_elsewhere_names_it(pictures, update, make_model, tmp_path):
    update(pictures, where=tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"index {pictures} --index {tmp_path}/elsewhere --model DIR --rebuild$"):
        update(pictures, where=tmp_path / "elsewhere", model=make_model(seed=1))


def test_an_index_moves_with_its_folder(pictures, update, tmp_path):
    update(pictures)
    moved = pictures.rename(tmp_path / "elsewhere")
    index, changes = update(moved)
    assert counts(changes) == {"unchanged": 10} and index.folder == moved


def test_an_index_elsewhere_takes_a_moved_folder_and_refuses_another(pictures, update, tmp_path, save_picture):
    update(pictures, where=tmp_path / "index")
    assert not (pictures / INSIDE).exists()
    save_picture(tmp_path / "others" / "a.png", 50)
    with pytest.raises(ValueError, match="is that of .*pictures, not of .*others"):
        update(tmp_path / "others", where=tmp_path / "index")
    moved = pictures.rename(tmp_path / "elsewhere")
    assert counts(update(moved, where=tmp_path / "index")[1]) == {"unchanged": 10}
    assert open_index(tmp_path / "index").folder == moved


def test_two_calls_do_not_write_one_index(pictures, update):
    update(pictures)
    with FileLock(pictures / INSIDE / "lock"), pytest.raises(ValueError, match="written by another process"):
        update(pictures)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "is not a folder"),
        ({}, "holds no picture"),
        ({"a.jpg": b"no picture"}, "none of 1 pictures can be read; .*a.jpg"),
    ],
)
def test_a_folder_without_pictures_is_refused(tmp_path, update, content, sentence):
    folder = tmp_path / "empty"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=sentence):
        update(folder)


def test_a_folder_that_was_emptied_does_not_empty_its_index(pictures, update, tmp_path):
    """A drive that is not mounted looks like this."""
    update(pictures, where=tmp_path / "index")
    shutil.rmtree(pictures)
    pictures.mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        update(pictures, where=tmp_path / "index")
    assert len(open_index(tmp_path / "index").pictures) == 10


def test_an_index_can_not_be_a_file(pictures, update, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        update(pictures, where=tmp_path / "file")


def test_a_name_that_is_no_utf_8_is_kept(pictures, update):
    raw = os.fsdecode(b"caf\xe9.png")
    (pictures / "0.png").rename(pictures / raw)
    update(pictures)
    assert raw in open_index(pictures / INSIDE).pictures


def test_pictures_that_are_not_normalised_are_of_another_model(pictures, update, model, word_processor):
    update(pictures)
    processor = copy.deepcopy(word_processor)
    processor.image_processor.do_normalize = False
    with pytest.raises(ValueError, match="made with another model"):
        module.update_index(pictures, model, processor, model_name="a model")


def test_another_way_to_prepare_pictures_is_another_model(pictures, update, model, word_processor):
    update(pictures)
    processor = copy.deepcopy(word_processor)
    processor.image_processor.image_mean = [0.1] * 3
    with pytest.raises(ValueError, match="made with another model"):
        module.update_index(pictures, model, processor, model_name="a model")


def test_pictures_of_a_kind_that_is_not_read_are_counted(pictures, update, caplog):
    (pictures / "deep" / "IMG_1.HEIC").write_bytes(b"of a phone")
    assert counts(update(pictures)[1]) == {"encoded": 10}
    assert "1 images are of a kind that is not read" in caplog.text and "IMG_1.HEIC" in caplog.text


def test_a_folder_whose_name_is_no_utf8_is_indexed_and_opened(pictures, update, tmp_path):
    folder = pictures.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    update(folder)
    assert counts(update(folder)[1]) == {"unchanged": 10}
    assert open_index(folder / INSIDE).vectors.ntotal == 10


def test_a_pipe_that_is_called_like_a_picture_is_left_out_with_a_word(pictures, update, caplog):
    os.mkfifo(pictures / "x.png")
    os.symlink("/dev/zero", pictures / "deep" / "y.jpg")
    index, changes = update(pictures)
    assert len(index.pictures) == changes.encoded == 10
    assert "2 pipes, sockets or devices (" in caplog.text


def test_an_index_that_cannot_be_written_stays_the_old_one(pictures, update, save_picture, monkeypatch):
    update(pictures)
    before = {path: path.read_bytes() for path in (pictures / INSIDE).iterdir()}
    save_picture(pictures / "new.png", 100)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=rf"{INSIDE}/.* cannot be written \(No space left .* MB free there\)"):
            update(pictures)
    assert {path: path.read_bytes() for path in (pictures / INSIDE).iterdir() if path.is_file()} == before
    assert len(update(pictures)[0].pictures) == 11
