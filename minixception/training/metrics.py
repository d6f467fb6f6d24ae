"""Measures of a run: top-k accuracy, MAP@100, and running averages whose state fits into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import ArgumentError, CheckpointError, DTypeError, LabelError, NumericError, ShapeError


def topk_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """The share of samples whose class is among the k highest logits; table 1 of the paper has k = 1 and 5.

    Arguments and errors are those of :func:`topk_hits`.

    >>> logits = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    >>> topk_accuracy(logits, np.array([1, 2])), topk_accuracy(logits, np.array([1, 1]), k=2)
    (0.5, 1.0)
    """
    return float(np.mean(topk_hits(logits, labels, k)))


def topk_hits(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> np.ndarray:
    """For each sample, whether its class is among the k highest logits: bool (N,).

    Of equal logits the class with the lower index ranks higher, as in argmax.

    Args:
        logits: shape (N, classes), or anything that grows with them (probabilities).
        labels: integers of shape (N,).
        k: from 1 to the number of classes.

    Raises:
        ShapeError, LabelError, ArgumentError: shapes, labels or k are not as above.
        NumericError: a logit is not a number, so that no order exists.

    >>> topk_hits(np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]]), np.array([1, 2]))
    array([ True, False])
    """
    if logits.ndim != 2 or logits.size == 0 or labels.shape != logits.shape[:1]:
        raise ShapeError(f"expected logits (N, classes) and labels (N,), got {logits.shape} and {labels.shape}")
    classes = logits.shape[1]
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= classes:
        raise LabelError(f"expected integer labels in 0 .. {classes - 1}, got {labels.dtype} {labels.tolist()[:8]}")
    if not 1 <= k <= classes:
        raise ArgumentError(f"expected k from 1 to {classes} (the number of classes), got {k}")
    if np.isnan(logits).any():
        raise NumericError("expected logits without NaN")
    own = np.take_along_axis(logits, labels[:, None], axis=1)  # (N, 1)
    earlier = np.arange(classes) < labels[:, None]  # (N, classes)
    rank = np.sum((logits > own) | ((logits == own) & earlier), axis=1)  # (N,)
    hits: np.ndarray = rank < k  # (N,)
    return hits


def mean_average_precision(
    scores: np.ndarray, targets: np.ndarray, k: int = 100, weights: np.ndarray | None = None
) -> float:
    """MAP@k of images with several labels each, every class weighted by its importance; from 0 to 1.

    For one image, let c_1, c_2, ... be the classes from the highest score down, t_c = 1 for the classes it shows and 0
    for the others, w_c the weight of a class, and P(r) = 1/r sum_{q<=r} t_{c_q} the precision of the first r:

        AP@k = sum_{r<=k} w_{c_r} t_{c_r} P(r)  /  (sum of the k largest of the weights w_c of the image's classes)

    MAP@k is the mean of AP@k over the images. With all weights one this is the usual AP@k, whose denominator is
    min(k, number of the image's classes). A ranking that puts the image's classes first (its k heaviest, if there are
    more) has AP@k = 1. Of equal scores the class with the lower index ranks higher.

    The paper evaluates on FastEval14k (14,000 images, about 6,000 classes, 36.5 labels an image) by "Mean Average
    Precision for top 100 predictions (MAP@100)" and weighs "the contribution of each class to MAP@100 with a score
    estimating how common (and therefore important) the class is among social media images" (Chollet 2017, section 4.1).
    It gives no formula. Our reading: predictions are ranked per image; a weight multiplies what a class contributes to
    the sum, not the precision; the sum is divided by its largest possible value; an image without a label of positive
    weight has no AP and is left out. The paper's 6.36 to 6.78 (table 2) may be on another scale: neither the weights
    nor their normalisation are published, so only values computed by one formula can be compared.

    Args:
        scores: shape (N, classes): logits, probabilities, or anything that grows with them.
        targets: bool, shape (N, classes).
        k: how many predictions of an image count, at least 1; more than the number of classes count all.
        weights: shape (classes,), finite and at least 0; None weighs all classes alike.

    Raises:
        ShapeError, DTypeError, ArgumentError: shapes, targets, k or weights are not as above.
        LabelError: no image has a label of positive weight.
        NumericError: a score is not a number, so that no order exists.

    Time: sorts every row, classes * log(classes) each. Memory: a flag for each score.

    >>> scores = np.array([[0.9, 0.8, 0.1]])
    >>> targets = np.array([[True, False, True]])
    >>> round(mean_average_precision(scores, targets), 4)  # (1/1 + 2/3) / 2
    0.8333
    >>> round(mean_average_precision(scores, targets, weights=np.array([3.0, 1.0, 1.0])), 4)  # (3 * 1/1 + 2/3) / 4
    0.9167
    """
    if scores.ndim != 2 or scores.size == 0 or targets.shape != scores.shape:
        raise ShapeError(f"expected scores and targets (N, classes), got {scores.shape} and {targets.shape}")
    if targets.dtype != np.bool_:
        raise DTypeError(f"expected targets of dtype bool, one flag for each image and class, got {targets.dtype}")
    if k < 1:
        raise ArgumentError(f"expected k of at least 1, got {k}")
    classes = scores.shape[1]
    weights = np.ones(classes) if weights is None else np.asarray(weights, np.float64)
    if weights.shape != (classes,):
        raise ShapeError(f"expected one weight for each of the {classes} classes, got shape {weights.shape}")
    if not (np.isfinite(weights).all() and weights.min() >= 0):
        raise ArgumentError(f"expected finite weights of at least 0, got {weights.min()} to {weights.max()}")
    if np.isnan(scores).any():
        raise NumericError("expected scores without NaN")
    labelled = np.flatnonzero((targets & (weights > 0)).any(axis=1))
    if labelled.size == 0:
        raise LabelError("expected at least one image with a label of positive weight, got none")
    return float(np.mean([_average_precision(scores[i], targets[i], k, weights) for i in labelled]))


def _average_precision(scores: np.ndarray, targets: np.ndarray, k: int, weights: np.ndarray) -> float:
    """AP@k of one image: scores, targets, weights (classes,)."""
    ranked = np.argsort(-scores.astype(np.float64), kind="stable")[:k]  # (k,)
    relevant = targets[ranked]  # (k,)
    precision = np.cumsum(relevant) / np.arange(1, len(ranked) + 1)  # (k,)
    largest = np.sort(weights[targets])[-k:]  # (at most k,)
    return float(np.sum(weights[ranked] * relevant * precision) / np.sum(largest))


class Mean:
    """A running weighted mean; its state is two plain floats.

    >>> loss = Mean()
    >>> loss.update(2.0, weight=3)
    >>> loss.update(6.0)
    >>> loss.value
    3.0
    """

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def update(self, value: float, weight: float = 1.0) -> None:
        """Take in the mean ``value`` of ``weight`` samples."""
        self.total += value * weight
        self.weight += weight

    @property
    def value(self) -> float:
        """The mean so far; NaN before the first update."""
        return self.total / self.weight if self.weight else float("nan")

    def state_dict(self) -> dict[str, float]:
        """The state as plain floats."""
        return {"total": self.total, "weight": self.weight}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take over a state of :meth:`state_dict`.

        Raises:
            CheckpointError: other names than "total" and "weight".
        """
        if state.keys() != {"total", "weight"}:
            raise CheckpointError(f"expected the numbers total and weight, got {', '.join(state) or 'nothing'}")
        self.total, self.weight = float(state["total"]), float(state["weight"])


class Accuracy(Mean):
    """A running top-k accuracy over batches of any size.

    >>> top1 = Accuracy()
    >>> top1.add(np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([1, 0]))
    >>> top1.value
    0.5
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Take in a batch; see :func:`topk_accuracy` for shapes and errors."""
        self.update(topk_accuracy(logits, labels, self.k), len(labels))
