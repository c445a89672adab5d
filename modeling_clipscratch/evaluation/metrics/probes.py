"""Labelled training embeddings and test embeddings go in; a score for each test picture and class comes out.

The scores are measured as zero-shot scores are, by `zero_shot.accuracy_metrics`. Shapes: M training rows, N test rows,
P projection, C classes. A class that the training rows lack keeps its column; no row can be given to it.
"""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ...hub.errors_clipscratch import ClipScratchError

NEIGHBOURS, TEMPERATURE = 20, 0.07
POWERS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # of ten: sklearn's C, with which CLIP's search begins
FINEST = 1 / 8  # of a decade, where it ends
ITERATIONS = 1000
HELD_OUT = 5  # one row in so many


def knn_scores(
    train_embeds: torch.Tensor,
    train_labels: torch.Tensor,
    test_embeds: torch.Tensor,
    classes: int,
    *,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> torch.Tensor:
    """The nearest training rows vote for their classes, each with exp(cosine / temperature).

    Args:
        train_embeds: (M, P), none of length zero.
        train_labels: (M,) integers in [0, C), two different ones or more.
        test_embeds: (N, P).
        classes: C.
        neighbours: rows that vote, in [1, M].
        temperature: above 0; the lower, the more the nearest rows count.
    Returns: (N, C) float32, each class's share of the votes; rows sum to 1.
    Raises: ClipScratchError if the shapes do not fit, a label is out of range or there are fewer than two classes or
        rows.
    Source: Wu et al. 2018, arXiv 1805.01978, section 3.4; the neighbours are those of DINO, arXiv 2104.14294.

    >>> knn_scores(torch.eye(2), torch.tensor([2, 0]), torch.eye(2), 3, neighbours=1)
    tensor([[0., 0., 1.],
            [1., 0., 0.]])
    """
    train, labels, test = _checked(train_embeds, train_labels, test_embeds, classes)
    if not 1 <= neighbours <= len(train):
        raise ClipScratchError(
            f"neighbours={neighbours} does not fit {len(train)} training rows; choose 1 to {len(train)}."
        )
    if not temperature > 0:
        raise ClipScratchError(f"temperature={temperature} is not above 0; choose 0.07, say.")

    def weights(distances):  # cosine distances, nearest first; the nearest weighs 1, so that nothing overflows
        return np.exp((distances.min(1, keepdims=True) - distances) / temperature)

    voters = KNeighborsClassifier(neighbours, weights=weights, algorithm="brute", metric="cosine").fit(train, labels)
    return _in_columns(voters.predict_proba(test), voters.classes_, classes, missing=0.0)


def linear_probe_scores(
    train_embeds: torch.Tensor,
    train_labels: torch.Tensor,
    test_embeds: torch.Tensor,
    classes: int,
    *,
    seed: int = 0,
) -> torch.Tensor:
    """Logistic regression on standardised embeddings, its regularisation chosen on training rows held out.

    1. A fifth of the rows of each class is held out, drawn from the seed: one at least where there are two.
    2. L-BFGS fits the others for each C = 10 ** p, p in `POWERS`; the best C is right most often on the rows held
       out, of equals the likeliest. The steps around the best p are halved until they are `FINEST`.
    3. All rows are fitted with the best C.

    CLIP's probe, but for the standardisation: four times as fast, since L-BFGS then takes fewer steps.

    Args:
        train_embeds: (M, P).
        train_labels: (M,) integers in [0, C), two different ones or more, one of them twice or more.
        test_embeds: (N, P).
        classes: C.
        seed: of the rows held out.
    Returns: (N, C) float32 log-probabilities; minus infinity for a class without training rows.
    Raises: ClipScratchError if the shapes do not fit, a label is out of range or there are fewer than two classes or
        rows.
    Source: Radford et al. 2021, arXiv 2103.00020, section 3.2 and appendix A.3.
    """
    train, labels, test = _checked(train_embeds, train_labels, test_embeds, classes)
    held = _held_out(labels, seed)
    if not held.any():
        raise ClipScratchError(
            f"each of the {len(train)} training rows is the only one of its class, so none can be held out to choose "
            "the regularisation; give two rows of a class or more."
        )

    def fit(power, rows):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=10.0**power, max_iter=ITERATIONS))
        with warnings.catch_warnings():  # the limit of iterations is a part of the method
            warnings.simplefilter("ignore", ConvergenceWarning)
            return probe.fit(train[rows], labels[rows])

    def quality(power):
        probe = fit(power, ~held)
        likelihood = -log_loss(labels[held], probe.predict_proba(train[held]), labels=probe.classes_)
        return probe.score(train[held], labels[held]), likelihood

    found, tried, step = {}, POWERS, POWERS[1] - POWERS[0]
    while step >= FINEST:
        found |= {power: quality(power) for power in tried}
        best = max(sorted(found), key=found.get)
        step /= 2
        tried = [power for power in (best - step, best + step) if POWERS[0] <= power <= POWERS[-1]]
    probe = fit(best, np.full(len(train), True))
    return _in_columns(probe.predict_log_proba(test), probe.classes_, classes, missing=-np.inf)


def _held_out(labels, seed):
    """(M,) bool: the second, seventh, ... row of each class, in an order drawn from the seed."""
    held = np.zeros(len(labels), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(labels))
    for label in np.unique(labels):
        held[order[labels[order] == label][1::HELD_OUT]] = True
    return held


def _in_columns(scores, shown, classes, *, missing):
    """Scores of the classes that training showed -> one column for each class there is."""
    full = np.full((len(scores), classes), missing, dtype=np.float32)
    full[:, shown] = scores
    return torch.from_numpy(full)


def _checked(train_embeds, train_labels, test_embeds, classes):
    train, test = (torch.as_tensor(embeds).float().cpu().numpy() for embeds in (train_embeds, test_embeds))
    labels = torch.as_tensor(train_labels).long().cpu().numpy()
    if train.ndim != 2 or labels.shape != train.shape[:1]:
        raise ClipScratchError(
            f"train_embeds {train.shape} and train_labels {labels.shape} do not fit; give (M, P) and (M,)."
        )
    if test.ndim != 2 or test.shape[1] != train.shape[1] or len(test) == 0:
        raise ClipScratchError(
            f"test_embeds {test.shape} do not fit train_embeds {train.shape}; give (N, P), N >= 1, from the same model."
        )
    for name, embeds in (("train_embeds", train), ("test_embeds", test)):
        broken = int((~np.isfinite(embeds).all(1)).sum())
        if broken:
            raise ClipScratchError(f"{broken} of {len(embeds)} {name} are not finite; check the model's weights.")
    shown = np.unique(labels)
    if len(shown) < 2:
        raise ClipScratchError(f"train_labels show {len(shown)} class; a probe needs rows of two classes or more.")
    if shown[0] < 0 or shown[-1] >= classes:
        raise ClipScratchError(
            f"train_labels run from {shown[0]} to {shown[-1]}, outside of classes 0 to {classes - 1}."
        )
    return train, labels, test
