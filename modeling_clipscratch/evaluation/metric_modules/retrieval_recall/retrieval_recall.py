"""Compute recalls and median ranks of retrieval in both directions, for `evaluate.load`."""

import datasets
import evaluate
import numpy as np
import torch

from modeling_clipscratch.evaluation.metrics.retrieval import retrieval_metrics

INPUTS = """
Args: (one entry for each caption, since all columns of a metric have the same length)
    text_embeds: M lists of P numbers, unit length, the captions.
    image_embeds: M lists of P numbers, unit length, the image of each caption (repeated for each of its captions).
    image_ids: M integers; captions with the same id belong to one image.

Returns:
    image_to_text_recall@1|5|10, text_to_image_recall@1|5|10 (fractions) and both median ranks.
"""


class RetrievalRecall(evaluate.Metric):
    """Recall of retrieval in both directions; `inputs_description` describes the arguments of `compute`."""

    def _info(self):
        embeds = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description="Retrieval between images and captions; ties count against the model.",
            citation="Radford et al. 2021, arXiv 2103.00020",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"text_embeds": embeds, "image_embeds": embeds, "image_ids": datasets.Value("int64")}
            ),
        )

    def _compute(self, text_embeds, image_embeds, image_ids):
        images = torch.tensor(image_embeds)
        _, firsts, owners = np.unique(image_ids, return_index=True, return_inverse=True)
        if not torch.equal(images, images[firsts[owners]]):
            raise ValueError("entries of one image_id have different image_embeds; give each image its own id.")
        return retrieval_metrics(images[firsts], torch.tensor(text_embeds), torch.tensor(owners))
