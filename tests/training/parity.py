"""Compute loss and gradients of the tiled, chunked, distributed step of a case, and those of the plain batch.

Also a program: `python parity.py RANK WORLD FOLDER` is one of several gloo processes that split each case's batch.
"""

import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import Dinov2Config, DistilBertConfig, ViTConfig

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from modeling_clipscratch.hub.losses_clipscratch import contrastive_logits, contrastive_loss
from modeling_clipscratch.training.loss.tiled_loss import global_loss
from modeling_clipscratch.training.towers.drop import add_patch_dropout

ROWS = 12
TOWER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def build(case) -> ClipScratchModel:
    """A tiny float64 model, with the dropout of the case."""
    drop = 0.3 if case.get("dropout") else 0.0
    text = DistilBertConfig(
        dim=16, n_layers=2, n_heads=2, hidden_dim=32, vocab_size=20, max_position_embeddings=8,
        dropout=drop, attention_dropout=drop,
    )  # fmt: skip
    if case.get("vision") == "dinov2":  # with stochastic depth
        vision = Dinov2Config(**TOWER, mlp_ratio=2, image_size=8, patch_size=4, drop_path_rate=drop)
    else:
        vision = ViTConfig(**TOWER, intermediate_size=32, image_size=8, patch_size=4, hidden_dropout_prob=drop)
    torch.manual_seed(0)
    config = ClipScratchConfig(
        text_config=text, vision_config=vision, projection_dim=6, loss=case["loss"], logit_bias_init_value=-2.0,
        freeze_text=case.get("cached", False), text_pooling="mean",
    )  # fmt: skip
    model = ClipScratchModel(config).train()
    add_patch_dropout(model, case.get("patch_dropout", 0.0), (8, 8))
    return model.double()


def batch_of(case) -> dict:
    """Twelve pairs; groups 0 and 3 have members at both ends, so on different processes."""
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 7, (ROWS,), generator=draw)
    mask = (torch.arange(6)[None] < lengths[:, None]).long()
    batch = {
        "pixel_values": torch.randn(ROWS, 3, 8, 8, generator=draw, dtype=torch.float64),
        "input_ids": torch.randint(1, 20, (ROWS, 6), generator=draw) * mask,
        "attention_mask": mask,
        "group": torch.tensor([0, 1, 2, 3, 3, 4, 5, 6, 6, 3, 7, 0]),
    }
    return batch


def split(batch, rank, world):
    own = slice(ROWS // world * rank, ROWS // world * (rank + 1))
    return {name: tensor[own] for name, tensor in batch.items()}


def step(case, rank=0, world=1) -> dict[str, torch.Tensor]:
    """Return gradients (mean over the processes) and loss of the global batch, computed as the trainer does."""
    model = build(case)
    mine = split(batch_of(case), rank, world)
    group = mine.pop("group")
    if case.get("cached"):
        with torch.no_grad():
            mine["text_features"] = model.text_tower_features(mine.pop("input_ids"), mine.pop("attention_mask"))[1]
    torch.manual_seed(100 + rank)
    wrapped = DistributedDataParallel(model, find_unused_parameters=True) if world > 1 else model
    output = wrapped(**mine, return_logits=False, encode_chunk_size=case["chunk"])
    embeddings = (output.image_embeds, output.text_embeds, output.logit_scale, output.logit_bias)
    options = {"loss": case["loss"], "tile": case["tile"], "group": group}
    share, statistics = global_loss(*embeddings, **options)
    (share * world).backward()
    total = share.detach().clone()
    if world > 1:
        dist.all_reduce(total)
    answer = gradients_of(model, total) | {f"statistic {name}": value for name, value in statistics.items()}
    return answer | {"features": features_between_steps(model, case)}


def plain(case, world=1) -> dict[str, torch.Tensor]:
    """Return the same from one process, the whole batch and the whole matrix, with the random draws of `step`."""
    model = build(case)
    images, texts = [], []
    for rank in range(world):
        mine = split(batch_of(case), rank, world)
        torch.manual_seed(100 + rank)
        size = case["chunk"] or ROWS
        images += [model.get_image_features(chunk) for chunk in mine["pixel_values"].split(size)]
        words = zip(mine["input_ids"].split(size), mine["attention_mask"].split(size), strict=True)
        texts += [model.get_text_features(*chunk) for chunk in words]
    images, texts = (
        torch.nn.functional.normalize(torch.cat([part.pooler_output for part in parts]), dim=-1)
        for parts in (images, texts)
    )
    batch = batch_of(case)
    logits = contrastive_logits(images, texts, model.clamped_logit_scale(), model.logit_bias)
    loss = contrastive_loss(logits, loss=case["loss"], group=batch["group"])
    loss.backward()
    return gradients_of(model, loss.detach()) | {"features": features_between_steps(model, case)}


def features_between_steps(model, case):
    """Call what evaluation calls in the middle of training."""
    with torch.no_grad():
        return model.eval().get_image_features(batch_of(case)["pixel_values"]).pooler_output


def gradients_of(model, loss):
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"loss": loss, **gradients}


if __name__ == "__main__":
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
    answers = {name: step(case, rank, world) for name, case in torch.load(f"{folder}/cases.pt").items()}
    torch.save(answers, f"{folder}/answers-{rank}-of-{world}.pt")
    dist.barrier()
    dist.destroy_process_group()
