"""Solutions of notebook 08, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np


def class_map(features, weights, label):
    return np.tensordot(features, weights[:, label], axes=1)  # (h, w)


SOLUTIONS: dict[str, Any] = {
    "xception-trainable": 22_855_952,
    "few-parameters-many-macs": "B",
    "receptive-field": 19,
    "class-map": class_map,
}


def map_of_logits(features, weights, label):
    return features.mean(axis=(0, 1)) @ weights


def map_of_all_classes(features, weights, label):
    return features @ weights


def map_without_doubt(features, weights, label):
    evidence = features @ weights[:, label]
    return np.where(evidence > 0, evidence, 0)


def map_divided(features, weights, label):
    h, w, _ = features.shape
    return features @ weights[:, label] / (h * w)


def map_not_summed(features, weights, label):
    return features * weights[:, label]


def map_of_ones_before(features, weights, label):
    return features @ weights[:, label - 1]


def map_in_float64(features, weights, label):
    return features.astype(float) @ weights[:, label]


MISTAKES: list[tuple[str, Any, str]] = [
    ("xception-trainable", 22_910_480, "These are all of them"),
    ("xception-trainable", 22_910_480 - 54_528 // 2, "a running mean and a running variance"),
    ("xception-trainable", 22_910_480 - 109_056, "gamma and beta, are trained"),
    ("few-parameters-many-macs", "A", "How many pixels are there?"),
    ("few-parameters-many-macs", "D", "Compare the output shapes"),
    ("receptive-field", 11, "at a jump of 1"),
    ("receptive-field", 15, "has a window too"),
    ("receptive-field", 25, "not for its own window"),
    ("class-map", map_of_logits, "Leave out the mean"),
    ("class-map", map_of_all_classes, "Which column of the weights"),
    ("class-map", map_without_doubt, "What speaks against a class"),
    ("class-map", map_divided, "divided by the number of pixels once"),
    ("class-map", map_not_summed, "What remains is their sum"),
    ("class-map", map_of_ones_before, "classes count from 0"),
    ("class-map", map_in_float64, "float64 creep in"),
]
