"""Score classes with a probe that is fitted to embeddings of labelled images.

Shapes: M training rows, N test rows, P projection, C classes. A class without training rows keeps its column.
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

from ...utils.errors import ClipScratchError

NEIGHBOURS, TEMPERATURE = 20, 0.07
POWERS = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # of ten: scikit-learn's C, where CLIP's search starts
FINEST = 1 / 8  # of a decade, where it ends
ITERATIONS = 1000
HELD_OUT = 5  # one row in so many


def knn_scores(train_embeds, train_labels, test_embeds, classes: int, *, neighbours: int = NEIGHBOURS) -> torch.Tensor:
    """Let the nearest training rows vote for their classes, each with weight exp(cosine / 0.07).

    Args:
        train_embeds: (M, P), not zero.
        train_labels: (M,) integers in [0, C), of at least two classes.
        test_embeds: (N, P).
        classes: C.
        neighbours: rows that vote, in [1, M].

    Returns:
        (N, C) float32, the share of each class in the votes; rows sum to 1.

    Raises:
        ClipScratchError: If the shapes do not fit, a label is out of range, or there are fewer than two classes.

    Source: Wu et al. 2018, arXiv 1805.01978, section 3.4; 20 neighbours as in DINO, arXiv 2104.14294.
    """
    train, labels, test = _checked(train_embeds, train_labels, test_embeds, classes)
    if not 1 <= neighbours <= len(train):
        raise ClipScratchError(
            f"neighbours={neighbours} does not fit {len(train)} training rows; choose 1 to {len(train)}."
        )

    def weights(distances):  # cosine distances; the nearest row weighs 1, so that nothing overflows
        return np.exp((distances.min(1, keepdims=True) - distances) / TEMPERATURE)

    voters = KNeighborsClassifier(neighbours, weights=weights, algorithm="brute", metric="cosine").fit(train, labels)
    return _in_columns(voters.predict_proba(test), voters.classes_, classes, missing=0.0)


def linear_probe_scores(train_embeds, train_labels, test_embeds, classes: int, *, seed: int = 0) -> torch.Tensor:
    """Fit a logistic regression to standardised embeddings; choose its regularisation on held-out training rows.

    1. A fifth of the rows of each class is held out; at least one where the class has two.
    2. L-BFGS fits the others for each C = 10 ** p, p in `POWERS`; the best C is right most often on the held-out rows,
       with the likelihood as tie-break. The steps around the best p are halved down to `FINEST`.
    3. All rows are fitted with the best C.

    This is CLIP's probe plus the standardisation, with which L-BFGS needs a quarter of the time.

    Args:
        train_embeds, train_labels, test_embeds, classes: As for `knn_scores`; at least one class has two rows.
        seed: of the choice of held-out rows.

    Returns:
        (N, C) float32 log-probabilities; minus infinity for a class without training rows.

    Raises:
        ClipScratchError: As for `knn_scores`.

    Source: Radford et al. 2021, arXiv 2103.00020, section 3.2 and appendix A.3.
    """
    train, labels, test = _checked(train_embeds, train_labels, test_embeds, classes)
    held = _held_out(labels, seed)
    if not held.any():
        raise ClipScratchError(
            f"each of the {len(train)} training rows is the only one of its class, so none can be held out to choose "
            "the regularisation; give at least two rows of a class."
        )

    def fit(power, rows):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=10.0**power, max_iter=ITERATIONS))
        with warnings.catch_warnings():  # the limit of iterations is part of the method
            warnings.simplefilter("ignore", ConvergenceWarning)
            return probe.fit(train[rows], labels[rows])

    def quality(power):
        probe = fit(power, ~held)
        likelihood = -log_loss(labels[held], probe.predict_proba(train[held]), labels=probe.classes_)
        return probe.score(train[held], labels[held]), likelihood

    qualities, tried, step = {}, POWERS, POWERS[1] - POWERS[0]
    while step >= FINEST:
        qualities |= {power: quality(power) for power in tried}
        best = max(sorted(qualities), key=qualities.get)
        step /= 2
        tried = [power for power in (best - step, best + step) if POWERS[0] <= power <= POWERS[-1]]
    probe = fit(best, np.full(len(train), True))
    return _in_columns(probe.predict_log_proba(test), probe.classes_, classes, missing=-np.inf)


def _held_out(labels, seed):
    """(M,) bool: the second, seventh, ... row of each class in a random order."""
    held = np.zeros(len(labels), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(labels))
    for label in np.unique(labels):
        held[order[labels[order] == label][1::HELD_OUT]] = True
    return held


def _in_columns(scores, known, classes, *, missing):
    full = np.full((len(scores), classes), missing, dtype=np.float32)
    full[:, known] = scores
    return torch.from_numpy(full)


def _checked(train_embeds, train_labels, test_embeds, classes):
    train, test = (torch.as_tensor(embeds).float().cpu().numpy() for embeds in (train_embeds, test_embeds))
    labels = torch.as_tensor(train_labels).long().cpu().numpy()
    known = np.unique(labels)
    problem = None
    if train.ndim != 2 or labels.shape != train.shape[:1]:
        problem = f"train_embeds {train.shape} and train_labels {labels.shape} do not fit; give (M, P) and (M,)."
    elif test.ndim != 2 or test.shape[1] != train.shape[1] or len(test) == 0:
        problem = f"test_embeds {test.shape} do not fit train_embeds {train.shape}; give (N, P) of the same model."
    elif not (np.isfinite(train).all() and np.isfinite(test).all()):
        problem = "some embeddings are not finite; check the weights of the model."
    elif len(known) < 2:
        problem = f"train_labels have {len(known)} class; a probe needs rows of at least two classes."
    elif known[0] < 0 or known[-1] >= classes:
        problem = f"train_labels run from {known[0]} to {known[-1]}, outside of classes 0 to {classes - 1}."
    if problem:
        raise ClipScratchError(problem)
    return train, labels, test
