"""Solutions of notebook 00, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))  # (n, classes)
    return e / e.sum(axis=1, keepdims=True)


SOLUTIONS: dict[str, Any] = {
    "softmax": softmax,
    "untrained-loss": math.log(8),
    "step-too-far": "C",
}


def softmax_over_batch(logits):
    e = np.exp(logits)
    return e / e.sum(axis=0)


def softmax_over_everything(logits):
    e = np.exp(logits)
    return e / e.sum()


def softmax_without_exp(logits):
    return logits / logits.sum(axis=1, keepdims=True)


def softmax_not_normalised(logits):
    return np.exp(logits)


def softmax_in_float64(logits):
    e = np.exp(logits.astype(float))
    return e / e.sum(axis=1, keepdims=True)


MISTAKES: list[tuple[str, Any, str]] = [
    ("softmax", softmax_over_batch, "Along which axis do the classes lie?"),
    ("softmax", softmax_over_everything, "must not depend on the other pictures"),
    ("softmax", softmax_without_exp, "What makes any number positive?"),
    ("softmax", softmax_not_normalised, "do not add up to 1 yet"),
    ("softmax", softmax_in_float64, "make float64 creep in"),
    ("untrained-loss", 7 / 8, "share of wrong guesses"),
    ("untrained-loss", 0.125, "minus its logarithm"),
    ("untrained-loss", 3, "base 2"),
    ("untrained-loss", -2.08, "minus before it"),
    ("step-too-far", "A", "same 64 pictures"),
    ("step-too-far", "D", "make the loss rise"),
]
