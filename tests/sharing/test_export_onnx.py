"""Export models of all towers and poolings, and compare onnxruntime with PyTorch."""

import hashlib
import json
import shutil
import sys
from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.sharing.export.export_onnx import export_onnx, open_session
from tests.sharing.test_convert import clip

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'clipscratch[export]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'clipscratch[export]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install 'clipscratch[export]'")

ROUNDING = 1e-5  # float32 sums in another order
MODELS = {
    "bert mean, dinov2 mean, mlp, sigmoid": {
        "text": "bert", "vision": "dinov2", "text_pooling": "mean", "vision_pooling": "mean", "projection": "mlp",
        "loss": "sigmoid",
    },
    "distilbert cls+mean, clip cls+mean, l2": {
        "vision": "clip_vision_model", "text_pooling": "cls+mean", "vision_pooling": "cls+mean",
        "text_state_norm": "l2", "vision_state_norm": "l2",
    },
    "bert tower, vit tower": {"text": "bert", "text_pooling": "tower", "vision_pooling": "tower"},
}  # fmt: skip


@pytest.fixture(scope="module")
def all_precisions(save_model, tmp_path_factory):
    """(folder of the export, model, content of `onnx.json`, the model's folder); DistilBERT and ViT, first tokens."""
    folder, model = save_model()
    where = tmp_path_factory.mktemp("exports") / "onnx"
    return where, model, export_onnx(folder, where, precisions=["fp32", "int8"]), folder


@pytest.fixture(scope="module", params=["default", *MODELS])
def exported(request, save_model, tmp_path_factory):
    """(folder of the export, model, content of `onnx.json`)."""
    if request.param == "default":
        return request.getfixturevalue("all_precisions")[:3]
    folder, model = save_model(**MODELS[request.param])
    where = tmp_path_factory.mktemp("exports") / "onnx"
    return where, model, export_onnx(folder, where)


def run(path, **inputs):
    (embeds,) = open_session(path).run(None, {name: np.asarray(array) for name, array in inputs.items()})
    return torch.from_numpy(embeds)


@pytest.mark.slow
@torch.inference_mode()
def test_images_texts_and_logits_are_those_of_pytorch_in_any_batch(exported, batch):
    where, model, table = exported
    expected = model(**batch)
    ids, mask, pixels = (batch[name] for name in ("input_ids", "attention_mask", "pixel_values"))
    images = run(where / table["files"]["fp32"]["vision"], pixel_values=pixels)
    texts = run(where / table["files"]["fp32"]["text"], input_ids=ids, attention_mask=mask)
    alone = [run(where / "text_model.onnx", input_ids=i[m > 0][None], attention_mask=m[m > 0][None])
             for i, m in zip(ids, mask, strict=True)]  # fmt: skip
    close = partial(torch.testing.assert_close, rtol=0, atol=ROUNDING)
    close(images, expected.image_embeds)
    close(run(where / "vision_model.onnx", pixel_values=pixels[:1]), expected.image_embeds[:1])
    close(texts, expected.text_embeds)
    close(torch.cat(alone), texts)
    logits = np.exp(table["logit_scale"]) * images @ texts.T + (table["logit_bias"] or 0)
    close(logits, expected.logits_per_image, atol=1e-3)
    assert json.loads((where / "onnx.json").read_text()) == json.loads(json.dumps(table))


@pytest.mark.slow
def test_the_folder_suffices_to_embed_texts(all_precisions):
    where, model, table, folder = all_precisions
    tokenizer = AutoTokenizer.from_pretrained(where)
    texts = ["a red square", "the blue circle of a photo"]
    tokens = tokenizer(texts, padding=True, return_tensors="np")
    found = run(where / "text_model.onnx", **{n: tokens[n].astype(np.int64) for n in ("input_ids", "attention_mask")})
    torch.testing.assert_close(found, encode_texts(model, tokenizer, texts), rtol=0, atol=ROUNDING)
    assert table["source_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (where / "processor_config.json").is_file()


@pytest.mark.slow
def test_int8_is_smaller_and_close(all_precisions, batch):
    where, model, table, _ = all_precisions
    expected = model(**batch)
    images = run(where / "vision_model_int8.onnx", pixel_values=batch["pixel_values"])
    assert 0 < (images - expected.image_embeds).norm(dim=-1).max() < 0.1
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(len(images)), rtol=0, atol=ROUNDING)
    assert table["largest_distance"]["int8"]["vision"] < 0.1
    kinds = {weight.data_type for weight in onnx.load(where / "text_model_int8.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in kinds


@pytest.mark.slow
def test_a_file_that_differs_from_the_model_is_never_published(all_precisions, save_model, tmp_path, monkeypatch):
    another, _ = save_model(seed=3)

    def write_tower(model, side, image_size, path):
        shutil.copy(all_precisions[0] / path.name, path)

    monkeypatch.setattr(sys.modules[export_onnx.__module__], "write_tower", write_tower)
    with pytest.raises(ValueError, match="text tower in fp32 differs from PyTorch's embeddings by"):
        export_onnx(another, tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused(save_model, tower_config, word_processor, tmp_path):
    folder, _ = save_model()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    clip(tower_config).save_pretrained(tmp_path / "clip")
    word_processor.save_pretrained(tmp_path / "clip")
    for arguments, message in (
        ((folder, tmp_path / "there"), "there exists already; delete it, or choose another name"),
        ((tmp_path / "nowhere", tmp_path / "new"), "nowhere is neither a folder"),
        ((tmp_path / "clip", tmp_path / "new"), "a model of type 'clip', and only 'clipscratch' is exported"),
    ):
        with pytest.raises(ValueError, match=message):
            export_onnx(*arguments)
    assert (tmp_path / "there" / "notes.txt").read_text() == "mine" and not (tmp_path / "new").exists()
