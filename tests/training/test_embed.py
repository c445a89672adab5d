"""Compare embeddings from pixels and tokens with those from cached features, and split the work of a measurement."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from modeling_clipscratch.data.batches.captions import CaptionTable, TokenTable
from modeling_clipscratch.data.batches.map_batches import PairDataset, TextSide
from modeling_clipscratch.data.dataset import build_dataset, image_bytes, ppm
from modeling_clipscratch.data.images.augment import Augment
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.evaluation.encode import encode_texts
from modeling_clipscratch.training import trainer as trainer_module
from modeling_clipscratch.training.features import embed
from modeling_clipscratch.training.features.embed import embed_split, text_encoder
from modeling_clipscratch.training.features.feature_cache import cached_image_features, cached_text_features
from modeling_clipscratch.training.loss.gather import process_index
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments, ModelArguments
from modeling_clipscratch.training.towers.build import build_model
from tests.training.conftest import TOWERS
from tests.training.test_processes import free_port, launch

CAPTIONS = [["a red square"], ["blue", "the blue circle"], ["a photo of the circle"], ["red"], ["a"]]
LOOK = Augment(mean=[0.5] * 3, std=[0.5] * 3, horizontal_flip=0.5)
# Batches of other sizes are added up in another order: unit embeddings, a few float32 roundings.
CLOSE = {"atol": 2e-6, "rtol": 0}


def test_embeddings_from_cached_features_are_those_from_pixels_and_tokens(make_model, word_processor, tmp_path):
    model = make_model(freeze_vision=True, text_pooling="cls+mean", projection="mlp").train()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    dataset = build_dataset(image_bytes(list(map(ppm, pixels))), list("abcde"), captions=CAPTIONS)
    captions = CaptionTable.of(dataset)
    tokens = TokenTable(captions.texts, word_processor.tokenizer, 12)
    live = PairDataset(dataset, captions, TextSide(seed=0, tokens=tokens), pixels=pixels)
    cache = {"folder": tmp_path, "progress": False}
    features = cached_image_features(model, live.plain_images, "", 5, mean=LOOK.mean, std=LOOK.std, **cache)
    texts = TextSide(seed=0, features=cached_text_features(model, tokens, **cache))
    cached = PairDataset(dataset, captions, texts, image_features=features)
    chosen, words = torch.tensor([4, 0, 2, 2]), ["red", "a red square", "the blue circle", "red"]
    images = [embed_split(model, pairs, LOOK, 3)[chosen] for pairs in (live, cached)]
    assert torch.allclose(*images, **CLOSE) and torch.allclose(images[1][2], images[1][3], **CLOSE)
    texts = [text_encoder(model, word_processor.tokenizer, pairs, 3)(words) for pairs in (live, cached)]
    assert torch.allclose(*texts, **CLOSE) and torch.allclose(texts[1][0], texts[1][3], **CLOSE)
    assert torch.allclose(texts[0], encode_texts(model, word_processor.tokenizer, words), **CLOSE)
    for embeds in images + texts:
        assert embeds.dtype == torch.float32 and not embeds.requires_grad
        assert torch.allclose(embeds.norm(dim=-1), torch.ones(4), atol=1e-6)
    assert model.training and not model.text_model.training


def measure(folder):
    """Return what one process reads and encodes to measure 40 test images, and the metrics."""
    counts = {"read": 0, "images": 0, "texts": 0, "intervals": 0}

    def counted(place, name, what, size):
        own = getattr(place, name)

        def count(*args, **options):
            counts[what] += size(args)
            return own(*args, **options)

        setattr(place, name, count)

    counted(Preprocess, "read", "read", lambda args: 1)
    counted(Preprocess, "read_all", "read", lambda args: len(args[1]))
    counted(embed, "encode_pixels", "images", lambda args: len(args[1]))
    counted(embed, "encode_texts", "texts", lambda args: len(args[2]))
    counted(trainer_module, "confidence_intervals", "intervals", lambda args: 1)
    data = load_data("digits")
    torch.manual_seed(0)
    texts = CaptionTable.of(data["test"], data.templates).texts
    model, processor = build_model(ModelArguments(**TOWERS, freeze_text=False), texts)
    args = ClipScratchTrainingArguments(str(folder / "run"), global_batch_size=8, disable_tqdm=True, bf16=False)
    parts = {"processing_class": processor, "templates": data.templates}
    trainer = trainer_module.ClipScratchTrainer(model, args, **parts)
    return counts, trainer.evaluate(data["test"].select(range(40)))


@pytest.mark.slow
def test_two_processes_split_the_work_of_a_measurement(tmp_path):
    two = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()))
    launch(*two, "-m", "tests.training.test_embed", str(tmp_path))
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    half = {"read": 20, "images": 20, "texts": 30}  # 40 images; ten classes in six prompts
    assert [counts for counts, _ in parts] == [{**half, "intervals": 1}, {**half, "intervals": 0}]
    assert parts[0][1] == parts[1][1] and len(parts[0][1]["eval_top1_ci95"]) == 2


if __name__ == "__main__":
    result = measure(Path(sys.argv[1]))
    (Path(sys.argv[1]) / f"{process_index()}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()
