"""Compare recalls by the definition with two shortcuts, on images with five captions each.

python -m benchmarks.one_caption --data DATA --model runs/flickr8k --split test

definition: CLIP_benchmark's; an image is found by any of its captions, the image of a caption among all images.
one caption: only the first caption of each image, an N x N matrix with the right answers on its diagonal.
pairs: each image once for each of its captions, an M x M matrix with one right answer in each row, on its diagonal, as
a loop over (image, caption) pairs has it; a tie counts for the model there, since an image ties with its copies.
"""

import torch

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.evaluation.metrics.outcomes import RECALLS
from modeling_clipscratch.evaluation.metrics.ranking import cosines, retrieval_outcomes

from .embeddings import Embedded, embedded, parser_with_model
from .reporting import machine, print_table, save_figures


def definition(found: Embedded) -> dict[str, float]:
    captions, owners = captions_of(found)
    return retrieval_outcomes(found.image_embeds, found.of(captions), owners).metrics()


def one_caption(found: Embedded) -> dict[str, float]:
    firsts = [texts[0] for texts in found.captions]
    return retrieval_outcomes(found.image_embeds, found.of(firsts), torch.arange(len(firsts))).metrics()


def pairs(found: Embedded) -> dict[str, float]:
    captions, owners = captions_of(found)
    scores = cosines(found.image_embeds[owners], found.of(captions))
    metrics = {}
    for direction, matrix in (("image_to_text", scores), ("text_to_image", scores.T)):
        rank = 1 + (matrix > matrix.diagonal()[:, None]).sum(1)
        metrics |= {f"{direction}_recall@{k}": int((rank <= k).sum()) / len(rank) for k in RECALLS}
    return metrics


def captions_of(found: Embedded) -> tuple[list[str], torch.Tensor]:
    """Return all captions, and the number of the image of each."""
    captions = found.captions
    owners = torch.tensor([row for row, texts in enumerate(captions) for _ in texts])
    return [text for texts in captions for text in texts], owners


def main(arguments: list[str]) -> None:
    parser = parser_with_model("one_caption")
    parser.add_argument("--split", default="test")
    options = parser.parse_args(arguments)
    print(machine())
    found = embedded(options, "wds_flickr8k", options.split)
    recalls = {ways.__name__.replace("_", " "): ways(found) for ways in (definition, one_caption, pairs)}
    names = [f"{direction}_recall@{k}" for direction in ("image_to_text", "text_to_image") for k in RECALLS]
    lines = [[way, *(f"{100 * metrics[name]:.1f} %" for name in names)] for way, metrics in recalls.items()]
    print(f"Flickr8k, {options.split}: {len(found.dataset):,} images")
    print_table(["counted by", *names], lines)
    save_figures(options.output / "one_caption.json", {"split": options.split, **recalls})


if __name__ == "__main__":
    run_command(main)
