"""Compute recalls and median ranks of retrieval in both directions, for `evaluate.load`; see README.md."""

import datasets
import evaluate
import numpy as np
import torch

from modeling_clipscratch.evaluation.metrics.ranking import retrieval_outcomes


class RetrievalRecall(evaluate.Metric):
    def _info(self):
        embeds = datasets.Sequence(datasets.Value("float32"))
        columns = {"text_embeds": embeds, "image_embeds": embeds, "image_ids": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="Retrieval between images and captions; ties count against the model.",
            citation="Radford et al. 2021, arXiv 2103.00020",
            inputs_description="An entry for each caption: its unit embedding, that of its image, and the image's id.",
            features=datasets.Features(columns),
        )

    def _compute(self, text_embeds, image_embeds, image_ids):
        images = torch.tensor(image_embeds)
        _, firsts, owners = np.unique(image_ids, return_index=True, return_inverse=True)
        if not torch.equal(images, images[firsts[owners]]):
            raise ValueError("entries of one image_id have different image_embeds; give each image its own id.")
        return retrieval_outcomes(images[firsts], torch.tensor(text_embeds), torch.tensor(owners)).metrics()
