"""Score classes with a probe that is fitted to embeddings of labelled images.

Shapes: `train` (M, P), `labels` (M,) in [0, C), `test` (N, P). A class without training rows keeps its column.
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
HELD_OUT = 5  # one row in so many


def knn_scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> torch.Tensor:
    """Let the 20 nearest training rows (all, of fewer) vote for their classes, each with weight exp(cosine / 0.07).

    Returns:
        (N, C) float32, the share of each class in the votes; rows sum to 1.

    Source: Wu et al. 2018, arXiv 1805.01978, section 3.4; 20 neighbours as in DINO, arXiv 2104.14294.
    """

    def weights(distances):  # cosine distances; the nearest row weighs 1, so that nothing overflows
        return np.exp((distances.min(1, keepdims=True) - distances) / TEMPERATURE)

    neighbours = min(NEIGHBOURS, len(train))
    voters = KNeighborsClassifier(neighbours, weights=weights, algorithm="brute", metric="cosine").fit(train, labels)
    return _in_columns(voters.predict_proba(test), voters.classes_, classes, missing=0.0)


def linear_probe_scores(train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int) -> torch.Tensor:
    """Fit a logistic regression to standardised embeddings; choose its regularisation on held-out training rows.

    1. A fifth of the rows of each class is held out; at least one where the class has two.
    2. L-BFGS fits the others for each C = 10 ** p, p in `POWERS`; the best C is right most often on the held-out rows,
       with the likelihood as tie-break. The steps around the best p are halved down to `FINEST`.
    3. All rows are fitted with the best C.

    This is CLIP's probe plus the standardisation, with which L-BFGS needs a quarter of the time.

    Returns:
        (N, C) float32 log-probabilities; minus infinity for a class without training rows.

    Source: Radford et al. 2021, arXiv 2103.00020, appendix A.3.
    """
    held = _held_out(labels)
    if len(np.unique(labels)) < 2 or not held.any():
        raise ClipScratchError("a linear probe needs training rows of at least two classes, and a class of two rows.")

    def fit(power, rows):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=10.0**power, max_iter=1000))
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
    probe = fit(best, slice(None))
    return _in_columns(probe.predict_log_proba(test), probe.classes_, classes, missing=-np.inf)


def _held_out(labels):
    """(M,) bool: the second, seventh, ... row of each class in a random order."""
    held = np.zeros(len(labels), dtype=bool)
    order = np.random.default_rng(0).permutation(len(labels))
    for label in np.unique(labels):
        held[order[labels[order] == label][1::HELD_OUT]] = True
    return held


def _in_columns(scores, known, classes, *, missing):
    full = np.full((len(scores), classes), missing, dtype=np.float32)
    full[:, known] = scores
    return torch.from_numpy(full)
