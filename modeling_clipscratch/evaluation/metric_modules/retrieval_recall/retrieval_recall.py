"""Pairs of caption and picture embeddings go in; recalls and median ranks, both ways, come out. For `evaluate.load`."""

import datasets
import evaluate
import torch

from modeling_clipscratch.evaluation.metrics.retrieval import retrieval_metrics

DESCRIPTION = "Retrieval between pictures and captions; ties count against the model."
INPUTS = """
Args: one entry a caption, since all columns of a metric are of one length
    text_embeds: M lists of P numbers, unit length, the captions.
    image_embeds: M lists of P numbers, unit length, the picture of each caption (again for each of its captions).
    image_ids: M integers; captions of equal id belong to one picture.
Returns: image_to_text_recall@1|5|10, text_to_image_recall@1|5|10 (fractions) and both median ranks.
"""


class RetrievalRecall(evaluate.Metric):
    """Recall of retrieval in both directions; `inputs_description` says what `compute` takes."""

    def _info(self):
        embeds = datasets.Sequence(datasets.Value("float32"))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="Radford et al. 2021, arXiv 2103.00020",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"text_embeds": embeds, "image_embeds": embeds, "image_ids": datasets.Value("int64")}
            ),
        )

    def _compute(self, text_embeds, image_embeds, image_ids):
        pictures = {}  # id -> (place among the pictures, first caption)
        for caption, image_id in enumerate(image_ids):
            pictures.setdefault(image_id, (len(pictures), caption))
        images = torch.tensor(image_embeds)
        firsts = torch.tensor([pictures[image_id][1] for image_id in image_ids])
        if not torch.equal(images, images[firsts]):
            raise ValueError("entries of one image_id have different image_embeds; give each picture its own id.")
        return retrieval_metrics(
            images[[caption for _, caption in pictures.values()]],
            torch.tensor(text_embeds),
            torch.tensor([pictures[image_id][0] for image_id in image_ids]),
        )
