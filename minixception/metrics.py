"""Measures of a run: top-k accuracy, and running averages whose state fits into a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .errors import ArgumentError, CheckpointError, LabelError, NumericError, ShapeError


def topk_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """The share of samples whose class is among the k highest logits; table 1 of the paper has k = 1 and 5.

    Of equal logits the class with the lower index ranks higher, as in argmax.

    Args:
        logits: shape (N, classes), or anything that grows with them (probabilities).
        labels: integers of shape (N,).
        k: from 1 to the number of classes.

    Raises:
        ShapeError, LabelError, ArgumentError: shapes, labels or k are not as above.
        NumericError: a logit is not a number, so that no order exists.

    >>> logits = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
    >>> topk_accuracy(logits, np.array([1, 2])), topk_accuracy(logits, np.array([1, 1]), k=2)
    (0.5, 1.0)
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
    return float(np.mean(rank < k))


class Mean:
    """A running weighted mean; its state is two plain numbers.

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
        """The state as plain numbers."""
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
