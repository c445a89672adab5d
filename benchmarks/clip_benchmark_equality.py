"""Compare our metrics with those of clip-benchmark's own functions, on the same embeddings of a model.

pip install --no-deps clip-benchmark
python -m benchmarks.clip_benchmark_equality --data DATA --model runs/flickr8k

CIFAR-10's test images through the 18 prompts, Flickr8k's validation images with five captions each. Its `evaluate`
of `metrics/zeroshot_classification.py` and `metrics/zeroshot_retrieval.py` runs as it is, on a stand-in for a model
that gives the stored embeddings. Its means are float32, so ours are rounded to that before they are compared.
(Without --no-deps pip brings a torchvision that does not fit this torch.)
"""

import contextlib
import importlib.metadata
import importlib.resources
import io
import json

import numpy as np
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.dataset import class_names, labels_of
from modeling_clipscratch.data.templates import templates_from
from modeling_clipscratch.evaluation.evaluate_dataset import encode_classes, evaluate_embeddings
from modeling_clipscratch.evaluation.metrics.ranking import cosines

from .embeddings import Embedded, embedded, parser_with_model
from .reporting import machine, print_table, save_figures

# Its `accuracy` takes `float` of an array with one entry, which NumPy refuses since 2.4.
zeroshot_classification.float = lambda array: array.item()
BATCH = 64
DIRECTIONS = {"image_to_text": "text_retrieval", "text_to_image": "image_retrieval"}  # ours -> what theirs retrieves


class Stored:
    """Model, tokenizer, data loader and data set for clip-benchmark; numbers stand for images and texts."""

    def __init__(self, found: Embedded):
        self.found, self.dataset, self.classes = found, self, class_names(found.dataset)
        self.number = {text: place for place, text in enumerate(found.texts)}

    def encode_image(self, numbers):
        return self.found.image_embeds[numbers]

    def encode_text(self, numbers):
        return self.found.text_embeds[numbers]

    def tokenizer(self, texts):
        return torch.tensor([self.number[text] for text in texts])

    def __iter__(self):
        labels = labels_of(self.found.dataset)
        for numbers in torch.arange(len(self.found.dataset)).split(BATCH):
            captions = labels is None
            yield numbers, [self.found.captions[n] for n in numbers] if captions else torch.tensor(labels[numbers])


def theirs(found: Embedded) -> dict[str, float]:
    """clip-benchmark's figures under our names."""
    stand_in = Stored(found)
    with contextlib.redirect_stderr(io.StringIO()):  # bars
        if found.templates:
            templates = [template.replace("{}", "{c}") for template in found.templates]
            words = (stand_in, stand_in, stand_in.tokenizer, stand_in.classes, templates)
            said = zeroshot_classification.evaluate(*words, "cpu", amp=False)
            names = {"top1": "acc1", "top5": "acc5", "mean_per_class_recall": "mean_per_class_recall"}
            return {ours: said[name] for ours, name in names.items()}
        said = zeroshot_retrieval.evaluate(
            stand_in, stand_in, stand_in.tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]
        )
    return {f"{ours}_recall@{k}": said[f"{name}_recall@{k}"] for ours, name in DIRECTIONS.items() for k in (1, 5, 10)}


def ties(found: Embedded) -> dict[str, int]:
    """Rows, or captions, whose best right candidate scores exactly as high as a wrong one."""
    if found.templates:
        classes = encode_classes(found.of, class_names(found.dataset), found.templates)
        scores, own = cosines(found.image_embeds, classes), labels_of(found.dataset)
        return {"images": tied(scores, torch.tensor(own)[:, None] == torch.arange(scores.shape[1]))}
    owner = torch.tensor([row for row, texts in enumerate(found.captions) for _ in texts])
    scores = cosines(found.of([text for texts in found.captions for text in texts]), found.image_embeds)
    own = owner[:, None] == torch.arange(len(found.dataset))
    return {"image_to_text": tied(scores.T, own.T), "text_to_image": tied(scores, own)}


def tied(scores: torch.Tensor, own: torch.Tensor) -> int:
    best = scores.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
    return int(((scores == best) & ~own).any(1).sum())


def lists_agree() -> dict[str, bool]:
    """Whether our published lists of prompts are those that its package ships."""
    file = importlib.resources.files("clip_benchmark.datasets") / "en_zeroshot_classification_templates.json"
    shipped = json.loads(file.read_text(encoding="utf-8"))
    names = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet": "imagenet1k"}
    return {
        ours: [prompt.replace("{}", "{c}") for prompt in templates_from(ours)] == shipped[name]
        for ours, name in names.items()
    }


def main(arguments: list[str]) -> None:
    options = parser_with_model("clip_benchmark_equality").parse_args(arguments)
    print(machine())
    version = importlib.metadata.version("clip-benchmark")
    figures = {"clip_benchmark": version, "templates": lists_agree()}
    print(f"lists of prompts equal: {figures['templates']}")
    for dataset, split in (("wds_vtab-cifar10", "test"), ("wds_flickr8k", "validation")):
        found = embedded(options, dataset, split)
        measured = (found.of, found.image_embeds, found.dataset, found.templates)
        ours = evaluate_embeddings(*measured, logit_scale=0.0).metrics
        said, equals = theirs(found), ties(found)
        lines = [
            [
                name,
                f"{np.float32(ours[name]):.8f}",
                f"{np.float32(value):.8f}",
                "equal" if same(ours[name], value) else "NOT EQUAL",
            ]
            for name, value in said.items()
        ]
        print(f"\n{dataset}, {split}: {len(found.dataset):,} images, {len(found.texts):,} different texts")
        print_table(["metric", "ours", f"clip-benchmark {version}", ""], lines)
        print(f"ties between a right and a wrong candidate: {equals}")
        figures[dataset] = {"ours": ours, "clip_benchmark": said, "ties": equals, "images": len(found.dataset)}
    save_figures(options.output / "clip_benchmark_equality.json", figures)


def same(ours: float, value: float) -> bool:
    return np.float32(ours) == np.float32(value)


if __name__ == "__main__":
    run_command(main)
