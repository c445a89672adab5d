"""Find which rows of a batch are positives of each other, alike in all processes."""

import json
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from modeling_clipscratch import ClipScratchTrainer, ClipScratchTrainingArguments
from modeling_clipscratch.data.dataset import ppm
from modeling_clipscratch.training.loss.gather import process_index
from modeling_clipscratch.training.loss.positives import connected_groups
from modeling_clipscratch.training.recipe.arguments import ModelArguments
from modeling_clipscratch.training.towers.build import build_model
from tests.training.conftest import TOWERS
from tests.training.test_processes import free_port, launch


def components(links):
    """(N,) by scipy: rows and numbers are the two kinds of nodes of a graph."""
    count, width = links.shape
    _, numbers = np.unique(links, return_inverse=True)
    edges = (np.arange(count).repeat(width), numbers.ravel() + count)
    size = count + numbers.max() + 1
    return connected_components(coo_array((np.ones(count * width), edges), (size, size)), directed=False)[1][:count]


def same_partition(first, second):
    pairs = {*zip(first.tolist(), second.tolist(), strict=True)}
    return len(pairs) == len({*first.tolist()}) == len({*second.tolist()})


def chain(order):
    """Row `order[i]` shares a number with `order[i + 1]` and with no other."""
    links = np.empty((len(order), 2), dtype=np.int64)
    links[order] = np.arange(len(order))[:, None] + [0, 1]
    return links


def zigzag(count):
    half = np.arange(count // 2)
    return np.stack([half, count - 1 - half], 1).ravel()


DRAW = np.random.default_rng(0)
LINKS = {
    f"random {count} x {width} of {kinds}": DRAW.integers(0, kinds, (count, width)) * 2**40 - 2**45
    for count, kinds in ((1, 3), (50, 3), (50, 150), (400, 400), (400, 1200), (400, 8000))
    for width in (1, 2, 6)
}
ORDERS = {"in order": np.arange(4096), "reversed": np.arange(4096)[::-1], "zigzag": zigzag(4096)}
ORDERS |= {f"shuffled {seed}": np.random.default_rng(seed).permutation(4096) for seed in range(4)}
LINKS |= {f"chain {name}": chain(order) for name, order in ORDERS.items()}
LINKS["tree"] = np.array([[row, (row - 1) // 2] for row in range(1023)])
LINKS["tree of shuffled rows"] = LINKS["tree"][DRAW.permutation(1023)]
LINKS["star"] = np.array([[row, 10_000] for row in range(1000)])


@pytest.mark.parametrize("name", LINKS)
def test_groups_are_the_connected_components(name):
    assert same_partition(connected_groups(torch.from_numpy(LINKS[name])), components(LINKS[name]))


def test_groups_are_found_without_a_look_at_a_value_of_the_device():
    """A meta tensor has none."""
    assert connected_groups(torch.from_numpy(LINKS["tree"]).to("meta")).shape == (1023,)


# Rows 0, 3 and 5 are linked by captions, 1 and 6 by their image; the order gives each of two processes, or of two
# shards, a part of every group, and one of them the row that has more captions than the others.
CAPTIONS = [["a red square", "the square", "square"], ["a blue circle"], ["a red circle"], ["the square"]]
CAPTIONS += [["circle"], ["square"], ["of the blue"], ["the photo"]]
ORDER = [0, 1, 2, 4, 7, 6, 5, 3]
BY_CAPTION = [[0, 3, 5], [1], [2], [4], [6], [7]]
BY_IMAGE_TOO = [[0, 3, 5], [1, 1], [2], [4], [7]]  # an image is named after the first row that shows it


def make_dataset(form):
    """Eight rows as a user may have them, and the numbers of their images' pixels."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    if form == "streamed":
        pixels[6] = pixels[1]
    rows = {"image": [{"bytes": ppm(pixels[row])} for row in ORDER], "captions": [CAPTIONS[row] for row in ORDER]}
    dataset = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    return dataset if form == "map-style" else dataset.to_iterable_dataset(num_shards=2), pixels


def first_batch(form, folder):
    """Return the images and groups of a process's rows in the first batch, and its share of the loss."""
    dataset, pixels = make_dataset(form)
    torch.manual_seed(0)
    model, processor = build_model(ModelArguments(**TOWERS), [text for texts in CAPTIONS for text in texts])
    args = ClipScratchTrainingArguments(
        str(folder / "run"), global_batch_size=8, max_steps=1, disable_tqdm=True, eval_strategy="no", bf16=False,
        cache_dir=str(folder / "cache"),
    )  # fmt: skip
    trainer = ClipScratchTrainer(model, args, train_dataset=dataset, processing_class=processor)
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop("stream", None)
    images = [int((image == torch.from_numpy(pixels)).flatten(1).all(1).int().argmax()) for image in batch["images"]]
    groups = trainer._groups(batch["links"]).tolist()
    return images, groups, trainer.compute_loss(model.eval(), batch).item() / args.world_size


def groups_of(images, groups):
    return sorted(sorted(i for i, group in zip(images, groups, strict=True) if group == one) for one in {*groups})


@pytest.mark.slow
@pytest.mark.parametrize(("form", "expected"), [("map-style", BY_CAPTION), ("streamed", BY_IMAGE_TOO)])
def test_rows_that_share_an_image_or_a_caption_are_positives_also_over_two_processes(form, expected, tmp_path):
    images, groups, loss = first_batch(form, tmp_path)
    assert groups_of(images, groups) == expected

    two = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port()))
    launch(*two, "-m", "tests.training.test_positives", form, str(tmp_path))
    parts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert all(len(images) == 4 for images, _, _ in parts)
    assert groups_of(*(sum(part, []) for part in list(zip(*parts, strict=True))[:2])) == expected
    assert sum(part[2] for part in parts) == pytest.approx(loss, rel=1e-5)


SHARES = {  # of pairs that are positives, in the first three batches of 128; recorded with version 0.1.0
    "digits": [0.1083984375, 0.102294921875, 0.1070556640625],
    "scenes": [0.00830078125, 0.0086669921875, 0.0087890625],
}


@pytest.mark.parametrize("name", ["digits", pytest.param("scenes", marks=pytest.mark.slow)])
def test_built_in_datasets_have_the_order_and_positives_that_were_recorded(run_recipe, tmp_path, name):
    short = {"max_steps": 3, "eval_strategy": "no", "save_strategy": "no", "test_split": "none", "random_shift": 0}
    short |= {"metric_for_best_model": None, "image_size": 16, "per_device_train_batch_size": 128}
    run, _ = run_recipe(tmp_path, dataset=name, **short)
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert [line["positive_share"] for line in history if "loss" in line] == pytest.approx(SHARES[name], abs=1e-9)


if __name__ == "__main__":
    result = first_batch(sys.argv[1], Path(sys.argv[2]))
    (Path(sys.argv[2]) / f"{process_index()}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()
