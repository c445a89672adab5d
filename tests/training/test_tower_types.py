"""Train a tower of every model type of transformers, or refuse it in one sentence."""

import pytest
import torch
from transformers import CONFIG_MAPPING

from modeling_clipscratch import ClipScratchModel
from modeling_clipscratch.hub.towers_clipscratch import check_tower_type
from modeling_clipscratch.training.optimization.device import set_attention
from modeling_clipscratch.training.optimization.optimizer import parameter_groups
from modeling_clipscratch.training.recipe.arguments import ClipScratchTrainingArguments
from modeling_clipscratch.training.trainer import ClipScratchTrainer
from tests.tiny_towers import tiny_config

KNOWN = {
    "text": [
        *("distilbert", "bert", "roberta", "xlm-roberta", "mpnet", "electra", "albert", "deberta-v2", "modernbert"),
        *("clip_text_model", "gpt2", "qwen2", "llama", "mixtral", "splinter", "longformer", "xlm", "xlnet"),
    ],
    "vision": [
        *("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model", "siglip_vision_model"),
        *("beit", "data2vec-vision", "ijepa", "aimv2_vision_model", "swin", "swinv2", "hiera", "yolos", "dpt"),
    ],
}
QUICK = {"distilbert", "roberta", "clip_text_model", "vit", "dinov2", "swin"}
ALL = [
    pytest.param(side, kind, marks=[] if kind in QUICK else pytest.mark.slow)
    for side in KNOWN
    for kind in CONFIG_MAPPING
]
# The only refusals of a type that `check_tower_type` admits, when one block of it is to be trained.
OF_STAGES = "is of stages, whose layers are in no one row"
CHANGING = {"rwkv"}  # changes its weights when it reads, which no check looks for
# After saving, a buffer of each block that its parent would fill is not filled: transformers asks no parent for it
# where the model around the tower is not its own.
NOT_RELOADED = {"falcon_h1"}


@pytest.fixture(scope="module")
def trainer():
    """A trainer without data, which chooses what decays by the model alone."""
    trainer = object.__new__(ClipScratchTrainer)
    trainer.args = ClipScratchTrainingArguments(use_cpu=True)
    return trainer


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("side", "kind"), ALL)
def test_a_type_trains_whole_frozen_and_in_part_or_is_refused(side, kind, trainer, make_model, parts, tmp_path):
    if kind in CHANGING:
        pytest.skip(f"{kind} changes its weights when it reads")
    try:
        known = CONFIG_MAPPING[kind]()
    except Exception as error:
        pytest.skip(f"{kind}: its config has no defaults ({type(error).__name__})")
    try:
        check_tower_type(known, side)
    except ValueError as error:
        return assert_sentence(error, kind in KNOWN[side])
    try:
        config = tiny_config(kind)
    except Exception as error:
        pytest.skip(f"{kind}: its config checks sizes that the test does not know ({type(error).__name__})")
    for part in ("whole", "frozen", "last block"):
        try:
            model = train_a_step(trainer, make_model(), side, config, part, parts)
        except ValueError as error:
            known = kind in KNOWN[side] and not (part == "last block" and OF_STAGES in str(error))
            return assert_sentence(error, known)
        if part == "whole" and kind not in NOT_RELOADED:
            assert_reloaded(model, tmp_path)


def assert_sentence(error, is_known):
    assert not is_known, f"refused: {error}"
    assert "\n" not in str(error) and str(error).rstrip().endswith((".", ")"))


def train_a_step(trainer, other, side, config, part, parts):
    torch.manual_seed(0)
    towers = {"text": other.text_model, "vision": other.vision_model, side: config}
    settings = {"freeze_text": True, "freeze_vision": True, f"freeze_{side}": part != "whole"}
    settings[f"unfreeze_{side}_layers"] = int(part == "last block")
    height, width = image_size(config if side == "vision" else other.config.vision_config)
    parts["image_processor"].size = {"height": height, "width": width}
    model, _ = ClipScratchModel.from_towers(
        **towers, **parts, **settings, text_pooling="mean", vision_pooling="mean", projection_dim=8
    )
    tower = getattr(model, f"{side}_model")
    set_attention(tower, "sdpa")
    groups = parameter_groups(model, trainer.get_decay_parameter_names(model), trainer.args, set())
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in tower.named_parameters()}
    loss = model.train()(**batch_of(model), return_loss=True).loss
    loss.backward()
    optimizer.step()
    changed = {name for name, parameter in tower.named_parameters() if not torch.equal(parameter, before[name])}
    assert loss.isfinite()
    assert {"whole": changed, "frozen": not changed, "last block": changed and len(changed) < len(before)}[part]
    return model


def image_size(config):
    size = getattr(config, "image_size", None) or 224
    return [size, size] if isinstance(size, int) else size


def batch_of(model):
    size = image_size(model.config.vision_config)
    ids = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
    pixels = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values": pixels}


def assert_reloaded(model, folder):
    model.eval().save_pretrained(folder)
    again = ClipScratchModel.from_pretrained(folder).eval()
    with torch.no_grad():
        reloaded, expected = again(**batch_of(model)), model(**batch_of(model))
    torch.testing.assert_close(reloaded.text_embeds, expected.text_embeds)
    torch.testing.assert_close(reloaded.image_embeds, expected.image_embeds)
