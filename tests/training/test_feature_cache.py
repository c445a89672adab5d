"""Check the cached features of tiny towers, when they are computed again, and what kills leave."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_clipscratch.data.batches.captions import TokenTable
from modeling_clipscratch.data.images.preprocess import normalize
from modeling_clipscratch.training.features import feature_cache
from modeling_clipscratch.training.features.feature_cache import cached_image_features, cached_text_features

TEXTS = ["a red square", "blue", "the photo of a blue circle", "a photo", "red"]
LOOK = {"mean": [0.5] * 3, "std": [0.5] * 3}
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
def three_parts(monkeypatch):
    monkeypatch.setattr(feature_cache, "PART_ROWS", 2)


def count_calls(model, monkeypatch):
    """A list that gets an entry at each pass through one of the model's towers."""
    calls = []
    for name in ("text_tower_features", "vision_tower_features"):
        own = getattr(model, name)
        monkeypatch.setattr(model, name, lambda *a, own=own, name=name, **k: (calls.append(name), own(*a, **k))[1])
    return calls


def text(model, tokens, folder, **options):
    return cached_text_features(model, tokens, folder=folder, **{"progress": False, **options})


def image(model, pixels, folder, content="", **options):
    def read(rows, batch_size):
        return (torch.from_numpy(pixels)[chosen] for chosen in rows.split(batch_size))

    content = [hashlib.sha256(pixels).hexdigest(), content]
    options = {**LOOK, "progress": False, **options}
    return cached_image_features(model, read, content, len(pixels), folder=folder, **options)


@pytest.mark.parametrize("pooling", ["cls", "mean", "cls+mean"])
def test_cached_text_features_are_the_tower_s_own(make_model, tokens, word_processor, tmp_path, pooling):
    model = make_model(text_pooling=pooling, text_state_norm="l2")
    features = text(model, tokens, tmp_path, batch_size=2)
    assert features.shape == (5, model.config.text_feature_dim) and features.dtype == torch.float32
    for number, caption in enumerate(TEXTS):
        inputs = word_processor.tokenizer([caption], return_tensors="pt")
        assert torch.allclose(features[number], model.text_tower_features(**inputs)[1][0], **CLOSE)


def test_cached_image_features_are_the_tower_s_own(model, pixels, tmp_path):
    features = image(model, pixels, tmp_path, batch_size=4)
    expected = model.vision_tower_features(normalize(torch.from_numpy(pixels), **LOOK))[1]
    assert torch.allclose(features, expected, **CLOSE)


def test_second_call_reads_the_file_and_leaves_the_tower_alone(model, tokens, pixels, tmp_path, monkeypatch):
    calls = count_calls(model, monkeypatch)
    first = text(model, tokens, tmp_path), image(model, pixels, tmp_path)
    assert set(calls) == {"text_tower_features", "vision_tower_features"}
    calls.clear()
    second = text(model, tokens, tmp_path), image(model, pixels, tmp_path)
    assert calls == [] and len(list(tmp_path.iterdir())) == 2
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_other_parts_of_a_model_do_not_change_the_key(make_model, tokens, tmp_path, monkeypatch):
    text(make_model(), tokens, tmp_path)
    again = make_model(vision="dinov2", projection_dim=4)
    again.text_model.load_state_dict(make_model().text_model.state_dict())
    calls = count_calls(again, monkeypatch)
    text(again, tokens, tmp_path)
    assert calls == []


@pytest.mark.parametrize("change", ["weight", "pooling", "norm", "config", "texts", "length"])
def test_another_text_tower_or_text_has_another_file(make_model, tokens, word_processor, tmp_path, change):
    text(make_model(), tokens, tmp_path)
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
    features = text(changed, tokens, tmp_path)
    with torch.inference_mode():
        expected = changed.text_tower_features(**tokens.batch(torch.arange(5)))[1]
    assert torch.allclose(features, expected, **CLOSE) and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("change", ["weight", "pooling", "pixels", "content", "mean"])
def test_another_vision_tower_or_image_has_another_file(make_model, pixels, tmp_path, change):
    image(make_model(freeze_vision=True), pixels, tmp_path)
    changed = make_model(freeze_vision=True, vision_pooling="mean" if change == "pooling" else "cls")
    if change == "weight":
        with torch.no_grad():
            next(changed.vision_model.parameters()).view(-1)[3] += 1e-3
    if change == "pixels":
        pixels[3, 2, 1, 0] ^= 1
    options = {"mean": {"mean": [0.4] * 3}, "content": {"content": "other preprocessing"}}.get(change, {})
    image(changed, pixels, tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 2


def test_tower_with_a_scalar_in_its_state_can_be_cached(model, tokens, tmp_path):
    model.text_model.register_buffer("steps_seen", torch.tensor(3))  # as batch norm has one
    assert text(model, tokens, tmp_path).shape == (5, 16)


@pytest.mark.parametrize("rows", [1, 4, 1024])
def test_progress_bar_has_the_true_total_and_moves_with_each_batch(model, pixels, tmp_path, monkeypatch, rows):
    bars = []

    class Bar(feature_cache.tqdm):
        def __init__(self, **options):
            self.moves, self.options = [], options
            bars.append(self)
            super().__init__(**{**options, "disable": True})

        def update(self, n=1):
            self.moves.append(n)

    monkeypatch.setattr(feature_cache, "tqdm", Bar)
    monkeypatch.setattr(feature_cache, "PART_ROWS", rows)
    image(model, pixels, tmp_path, batch_size=4, split="train")
    [bar] = bars
    assert bar.options["desc"] == "computing image features (train)"
    assert bar.total == 6 == sum(bar.moves) and len(bar.moves) == {1: 6, 4: 2, 1024: 2}[rows]


# Kills and other runs


def test_killed_build_is_resumed_to_the_same_bits(model, tokens, tmp_path, monkeypatch, three_parts):
    calls, own = count_calls(model, monkeypatch), model.text_tower_features

    def killed(*args, **options):
        if len(calls) == 1:
            raise KeyboardInterrupt
        return own(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model, "text_tower_features", killed)
        text(model, tokens, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    again = text(model, tokens, tmp_path)
    assert len(calls) == 3  # rows that were there are not computed twice
    assert [path.suffix for path in tmp_path.iterdir()] == [".float32"]
    assert torch.equal(text(model, tokens, tmp_path / "fresh"), again)


@pytest.mark.parametrize("size", [0, 300])
def test_cut_file_is_computed_again(model, tokens, tmp_path, size):
    expected = text(model, tokens, tmp_path).clone()
    [path] = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:size])
    assert torch.equal(text(model, tokens, tmp_path), expected)


def test_another_run_may_finish_the_file_first(model, tokens, tmp_path, monkeypatch):
    expected, own = text(model, tokens, tmp_path / "theirs"), model.text_tower_features
    [theirs] = (tmp_path / "theirs").iterdir()

    def overtaken(*args, **options):
        [part] = (tmp_path / "ours").iterdir()
        part.unlink()
        (tmp_path / "ours" / theirs.name).write_bytes(theirs.read_bytes())
        return own(*args, **options)

    monkeypatch.setattr(model, "text_tower_features", overtaken)
    assert torch.equal(text(model, tokens, tmp_path / "ours"), expected)


def test_full_disk_or_wrong_folder_names_the_place(model, tokens, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=f"{tmp_path}/file.* cannot be written"):
        text(model, tokens, tmp_path / "file")
    monkeypatch.setattr(feature_cache, "_fill", full)
    with pytest.raises(OSError, match=f"{tmp_path}.*cannot be written.*No space left"):
        text(model, tokens, tmp_path)


@pytest.mark.slow
def test_two_processes_compute_one_file_together(tmp_path):
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
    features = np.fromfile(tmp_path / "cache" / "x.float32", dtype=np.float32).reshape(13, 2)
    assert np.array_equal(features, np.arange(13)[:, None].repeat(2, 1))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["x.float32"]


BUILD = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from modeling_clipscratch.training.features import feature_cache
rank, folder = int(sys.argv[1]), Path(sys.argv[2])
os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
feature_cache.PART_ROWS, encoded = 4, []
def encode(start, stop, advance):
    encoded.append(start)
    return torch.arange(float(start), float(stop))[:, None].repeat(1, 2)
path = folder / "cache" / "x.float32"
feature_cache.find_or_build(path, (13, 2), encode, disable=True)
(folder / f"encoded-{rank}.json").write_text(json.dumps(encoded))
dist.destroy_process_group()
"""
