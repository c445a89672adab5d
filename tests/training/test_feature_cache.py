"""A tiny model with texts and pictures goes in; its cached states, and when they are made anew, are checked."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_clipscratch.data.batches.captions import TokenTable
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.preprocess import normalize
from modeling_clipscratch.data.images.randomness import key_ids, sample_ids
from modeling_clipscratch.training.features import feature_files as state_files
from modeling_clipscratch.training.features.feature_cache import cached_image_features, cached_text_features

TEXTS = ["a red square", "blue", "the photo of a blue circle", "a photo", "red"]
LOOK = Augment(mean=[0.5] * 3, std=[0.5] * 3, random_shift=2, horizontal_flip=0.5)
KEYS = [f"k{number}" for number in range(6)]
# Rows of a batch of another size are added up in another order: a few float32 roundings of numbers about 2.
CLOSE = {"atol": 2e-6, "rtol": 1e-5}


@pytest.fixture
def tokens(word_processor):
    return TokenTable(TEXTS, word_processor.tokenizer, 12)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def model(make_model):
    return make_model(freeze_vision=True)


@pytest.fixture
def calls(monkeypatch):
    """(model) -> list that gets an entry at each pass through one of its towers."""

    def count(model):
        seen = []
        for name in ("text_features", "image_features"):
            own = getattr(model, name)
            monkeypatch.setattr(
                model, name, lambda *given, own=own, name=name, **named: (seen.append(name), own(*given, **named))[1]
            )
        return seen

    return count


def of(pixels):
    """What reads the pictures, and what they depend on."""
    return lambda chosen: pixels[chosen], hashlib.sha256(pixels).hexdigest()


def quiet(folder):
    return {"folder": folder, "progress": False}


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_cached_text_states_are_the_tower_s_own(make_model, tokens, word_processor, tmp_path, pooling):
    model = make_model(text_pooling=pooling, text_state_norm="l2")
    found = cached_text_features(model, tokens, batch_size=2, **quiet(tmp_path))
    assert found.shape == (5, model.config.text_feature_dim) and found.dtype == torch.float32
    for number, text in enumerate(TEXTS):
        alone = model.text_tower_features(**word_processor.tokenizer([text], return_tensors="pt").convert_to_tensors())
        assert torch.allclose(found[number], alone[1][0], **CLOSE)


def test_cached_picture_states_are_the_tower_s_own_and_the_first_view_is_plain(model, pixels, tmp_path):
    found = cached_image_features(model, *of(pixels), KEYS, LOOK, views=3, seed=4, batch_size=4, **quiet(tmp_path))
    assert found.shape == (6, 3, 16)
    images = torch.from_numpy(pixels)
    expected = [model.vision_tower_features(normalize(images, LOOK.mean, LOOK.std))[1]]
    for view in (1, 2):
        samples = sample_ids(key_ids(KEYS), seed=4, epoch=view)
        expected.append(model.vision_tower_features(LOOK(images, samples, torch.ones(6, dtype=torch.bool)))[1])
    assert torch.allclose(found, torch.stack(expected, 1), **CLOSE)
    assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-2)


def test_second_call_finds_the_states_and_leaves_the_tower_alone(model, tokens, pixels, tmp_path, calls):
    seen = calls(model)
    first = (
        cached_text_features(model, tokens, **quiet(tmp_path)),
        cached_image_features(model, *of(pixels), KEYS, LOOK, **quiet(tmp_path)),
    )
    assert set(seen) == {"text_features", "image_features"}
    seen.clear()
    second = (
        cached_text_features(model, tokens, **quiet(tmp_path)),
        cached_image_features(model, *of(pixels), KEYS, LOOK, **quiet(tmp_path)),
    )
    assert seen == []
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert len(list(tmp_path.iterdir())) == 2


def test_equal_model_made_again_finds_the_states(make_model, tokens, tmp_path, calls):
    cached_text_features(make_model(), tokens, **quiet(tmp_path))
    again = make_model(vision="dinov2", projection_dim=4)  # another picture tower and another head
    again.text_model.load_state_dict(make_model().text_model.state_dict())
    seen = calls(again)
    cached_text_features(again, tokens, **quiet(tmp_path))
    assert seen == []


@pytest.mark.parametrize("change", ["weight", "pooling", "norm", "config", "texts", "length"])
def test_what_the_text_states_depend_on_gives_another_cache(
    make_model, tokens, word_processor, tmp_path, calls, change
):
    cached_text_features(make_model(), tokens, **quiet(tmp_path))
    changed = make_model(
        text_pooling="mean" if change == "pooling" else "cls",
        text_state_norm="l2" if change == "norm" else "none",
        text_changes={"activation": "relu"} if change == "config" else None,
    )
    if change == "weight":
        with torch.no_grad():
            next(changed.text_model.parameters())[3, 5] += 1e-3
    if change == "texts":
        tokens = TokenTable([*TEXTS[:-1], "a red"], word_processor.tokenizer, 12)
    if change == "length":
        tokens = TokenTable(TEXTS, word_processor.tokenizer, 6)
    seen = calls(changed)
    states = cached_text_features(changed, tokens, **quiet(tmp_path))
    assert seen and len(list(tmp_path.iterdir())) == 2
    with torch.inference_mode():
        expected = changed.text_tower_features(**tokens.batch(torch.arange(5)))[1]
    assert torch.allclose(states, expected, **CLOSE)


@pytest.mark.parametrize("change", ["weight", "pooling", "pixels", "mean", "views", "seed", "look", "keys"])
def test_what_the_picture_states_depend_on_gives_another_cache(make_model, pixels, tmp_path, calls, change):
    def states(model, **changes):
        given = {"pixels": pixels, "keys": KEYS, "augment": LOOK, "views": 2, "seed": 0, **changes}
        return cached_image_features(
            model, *of(given.pop("pixels")), given.pop("keys"), given.pop("augment"), **given, **quiet(tmp_path)
        )

    states(make_model(freeze_vision=True))
    changed = make_model(freeze_vision=True, vision_pooling="mean" if change == "pooling" else "cls")
    if change == "weight":
        with torch.no_grad():
            next(changed.vision_model.parameters()).view(-1)[3] += 1e-3
    other = pixels.copy()
    other[3, 2, 1, 0] ^= 1
    darker = Augment(mean=[0.4] * 3, std=[0.5] * 3, random_shift=2, horizontal_flip=0.5)
    closer = Augment(mean=[0.5] * 3, std=[0.5] * 3, random_shift=1, horizontal_flip=0.5)
    changes = {
        "pixels": {"pixels": other}, "mean": {"augment": darker}, "views": {"views": 3}, "seed": {"seed": 1},
        "look": {"augment": closer}, "keys": {"keys": KEYS[::-1]},
    }.get(change, {})  # fmt: skip
    seen = calls(changed)
    states(changed, **changes)
    assert seen and len(list(tmp_path.iterdir())) == 2


def test_single_view_does_not_depend_on_augmentation_or_seed(model, pixels, tmp_path, calls):
    cached_image_features(model, *of(pixels), KEYS, LOOK, seed=0, **quiet(tmp_path))
    seen = calls(model)
    plain = Augment(mean=[0.5] * 3, std=[0.5] * 3)
    cached_image_features(model, *of(pixels), KEYS, plain, seed=1, **quiet(tmp_path))
    assert seen == []


@pytest.mark.parametrize("moment", ["encoding", "writing", "renaming", "joining"])
def test_killed_build_leaves_nothing_half_and_goes_on(model, tokens, tmp_path, monkeypatch, calls, moment):
    monkeypatch.setattr(state_files, "PART_ROWS", 2)  # three parts
    seen, left = calls(model), [2]
    own = {"encoding": model.text_features, "writing": save_file, "renaming": os.replace, "joining": state_files._join}

    def killed_at_the_second(*given, **named):
        left[0] -= 1
        if left[0] or moment == "joining":
            return own[moment](*given, **named)
        if moment == "writing":
            Path(given[1]).write_bytes(b"half of it")
        raise KeyboardInterrupt

    def killed(*given, **named):
        raise KeyboardInterrupt

    place = {"encoding": (model, "text_features"), "writing": (state_files, "save_file")}
    place |= {"renaming": (state_files.os, "replace"), "joining": (state_files, "_join")}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*place[moment], killed if moment == "joining" else killed_at_the_second)
        cached_text_features(model, tokens, **quiet(tmp_path))
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*/*.part"))
    whole = 3 if moment == "joining" else 1
    assert len(list(tmp_path.glob("*.parts*/*.safetensors"))) == whole

    seen.clear()
    again = cached_text_features(model, tokens, **quiet(tmp_path))
    assert len(seen) == 3 - whole  # the parts that were there are not made twice
    [path] = tmp_path.iterdir()
    assert path.suffix == ".safetensors" and torch.equal(load_file(path)["states"], again)
    fresh = cached_text_features(model, tokens, **quiet(tmp_path / "fresh"))
    assert torch.equal(fresh, again)


def _changed(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


def _flipped(place):
    def flip(data):
        data[place] ^= 1
        return data

    return flip


DAMAGES = {  # change of the file's bytes -> parts of three that are encoded again
    "last byte": (_flipped(-1), 1),
    "second half zeroed": (lambda data: data[: -len(data) // 4] + bytes(-(-len(data) // 4)), 2),
    "cut": (lambda data: data[:-7], 3),
    "emptied": (lambda data: b"", 3),
    "header": (_flipped(12), 3),
    "without digests": (lambda data: data.replace(b"sha256", b"sha---"), 3),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_part_of_a_cache_is_encoded_again_with_a_word(
    model, tokens, tmp_path, monkeypatch, calls, caplog, damage
):
    monkeypatch.setattr(state_files, "PART_ROWS", 2)  # three parts
    expected, seen = cached_text_features(model, tokens, **quiet(tmp_path)).clone(), calls(model)
    [path] = tmp_path.iterdir()
    change, again = DAMAGES[damage]
    _changed(path, change)
    assert torch.equal(cached_text_features(model, tokens, **quiet(tmp_path)), expected)
    assert len(seen) == again and "damaged and encoded again" in caplog.text
    assert torch.equal(cached_text_features(model, tokens, **quiet(tmp_path)), expected) and len(seen) == again


@pytest.mark.parametrize("planted", ["zeros", "other rows", "other part", "garbage", "other digest"])
def test_planted_part_is_not_taken(model, tokens, tmp_path, monkeypatch, planted, caplog):
    monkeypatch.setattr(state_files, "PART_ROWS", 2)
    expected = cached_text_features(model, tokens, **quiet(tmp_path / "first")).clone()
    [path] = (tmp_path / "first").iterdir()
    part = tmp_path / "second" / path.with_suffix(".parts2").name / "0000000000.safetensors"
    part.parent.mkdir(parents=True)
    if planted == "garbage":
        part.write_bytes(b"no safetensors")
    elif planted == "other part":
        state_files._save_part(path, 2, expected[2:4], part)
    elif planted == "other rows":
        state_files._save_part(path.with_name("text-of-another.safetensors"), 0, expected[:2], part)
    else:
        save_file(
            {"states": torch.zeros_like(expected[:2])}, part, metadata={"sha256": "0"} if "dig" in planted else None
        )
    assert torch.equal(cached_text_features(model, tokens, **quiet(tmp_path / "second")), expected)
    assert "0000000000.safetensors is damaged and encoded again" in caplog.text


def test_full_disk_while_a_cache_is_written_names_the_folder(model, tokens, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_files, "save_file", full)
    with pytest.raises(OSError, match=f"writing to {tmp_path} failed .*No space left.*set cache_dir to another disk"):
        cached_text_features(model, tokens, **quiet(tmp_path))


def test_parts_in_any_number_give_the_same_states(model, pixels, tmp_path, monkeypatch):
    whole = cached_image_features(model, *of(pixels), KEYS, LOOK, views=3, batch_size=1, **quiet(tmp_path / "whole"))
    monkeypatch.setattr(state_files, "PART_ROWS", 4)
    parts = cached_image_features(model, *of(pixels), KEYS, LOOK, views=3, batch_size=1, **quiet(tmp_path / "parts"))
    assert torch.equal(whole, parts)


def test_another_run_that_finishes_first_does_no_harm(model, tokens, tmp_path, monkeypatch):
    """It takes the parts away while this one writes its own, or joins them."""
    expected = cached_text_features(model, tokens, **quiet(tmp_path / "theirs"))
    [theirs] = (tmp_path / "theirs").iterdir()
    for moment in ("save_file", "_join"):
        ours = tmp_path / moment
        own = getattr(state_files, moment)

        def overtaken(*given, own=own, ours=ours, **named):
            shutil.rmtree(next(ours.glob("*.parts*")))
            shutil.copy(theirs, ours / theirs.name)
            monkeypatch.undo()
            if own is save_file:
                return own(*given)
            raise FileNotFoundError("a part is gone")

        monkeypatch.setattr(state_files, moment, overtaken)
        assert torch.equal(cached_text_features(model, tokens, **quiet(ours)), expected)
        assert [path.name for path in ours.iterdir()] == [theirs.name]


def test_two_processes_build_one_file_together(tmp_path):
    program = tmp_path / "build.py"
    program.write_text(BUILD)
    root = Path(__file__).resolve().parents[2]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(tmp_path)], env={**os.environ, "PYTHONPATH": str(root)},
            stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    errors = [process.communicate()[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], errors
    encoded = [sorted(json.loads((tmp_path / f"encoded-{rank}.json").read_text())) for rank in (0, 1)]
    assert encoded == [[0, 8], [4, 12]]
    states = load_file(tmp_path / "cache" / "x.safetensors")["states"]
    assert torch.equal(states, torch.arange(13.0)[:, None].expand(13, 2))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["x.safetensors"]


BUILD = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from modeling_clipscratch.training import state_files
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
state_files.PART_ROWS, encoded = 4, []
def encode(start, stop):
    encoded.append(start)
    return torch.arange(float(start), float(stop))[:, None].repeat(1, 2)
state_files.find_or_build(folder / "cache" / "x.safetensors", 13, encode, device="cpu", unit="row", progress=False)
(folder / f"encoded-{rank}.json").write_text(json.dumps(encoded))
dist.destroy_process_group()
"""


def test_tower_with_a_scalar_in_its_state_can_be_cached(model, tokens, tmp_path):
    model.text_model.register_buffer("steps_seen", torch.tensor(3))  # as batch norm has one
    assert cached_text_features(model, tokens, **quiet(tmp_path)).shape == (5, 16)
