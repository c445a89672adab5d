"""Store unit embeddings of the images and texts of a dataset, for benchmarks that use them more than once."""

import argparse
import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import datasets
import torch
from safetensors.torch import load_file, save_file

from modeling_clipscratch.data.dataset import class_names, content_fingerprint
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.data.templates import class_prompts
from modeling_clipscratch.evaluation.encode import encode_images, encode_texts
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.utils.atomic_files import write_whole

from .reporting import parser_of


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Stored embeddings.

    Args:
        dataset: N rows, prepared.
        templates: of class data.
        image_embeds: (N, P), unit length.
        texts: the M different texts: prompts of the classes, or captions.
        text_embeds: (M, P), unit length.
    """

    dataset: datasets.Dataset
    templates: list[str] | None
    image_embeds: torch.Tensor
    texts: list[str]
    text_embeds: torch.Tensor

    @cached_property
    def captions(self) -> list[list[str]]:
        return self.dataset["captions"][:]

    def of(self, texts: list[str]) -> torch.Tensor:
        """Return stored embeddings in the order of `texts`, in place of `encode_texts`."""
        number = {text: place for place, text in enumerate(self.texts)}
        return self.text_embeds[[number[text] for text in texts]]


def parser_with_model(name: str) -> argparse.ArgumentParser:
    parser = parser_of(name)
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--data", type=Path, required=True, help="folder with wds_vtab-cifar10 and wds_flickr8k")
    parser.add_argument("--limit", type=int, help="only the first so many images of a dataset")
    return parser


def embedded(options: argparse.Namespace, dataset: str, split: str) -> Embedded:
    """Return the embeddings; read them from `--output` if an earlier run stored those of the same model and rows."""
    data = load_data(options.data / dataset, splits=[split])
    rows, templates = data[split], data.templates
    if options.limit:
        rows = rows.select(range(min(options.limit, len(rows))))
    if templates:  # of a class without rows, too
        texts = [prompt for name in class_names(rows) for prompt in class_prompts(name, templates)]
    else:
        texts = list(dict.fromkeys(text for captions in rows["captions"] for text in captions))
    weights = hashlib.blake2b((Path(options.model) / "model.safetensors").read_bytes(), digest_size=8)
    for word in (content_fingerprint(rows), *texts):
        weights.update(word.encode())
    path = options.output / "embeddings" / f"{dataset}-{split}-{weights.hexdigest()}.safetensors"
    if not path.is_file():
        model, processor = load_model(options.model)
        tensors = {
            "images": encode_images(model, Preprocess(processor.image_processor), rows, progress=True)[0],
            "texts": encode_texts(model, processor.tokenizer, texts),
        }
        write_whole(path, partial(save_file, tensors))
    stored = load_file(path)
    embeds = {"image_embeds": stored["images"], "text_embeds": stored["texts"]}
    return Embedded(dataset=rows, templates=templates, texts=texts, **embeds)
