"""The names of ImageNet's 1000 classes, and from probabilities to names.

A class has a synset of WordNet (its wnid, "n01440764") and a readable name, the first word of the synset. Two
names occur twice, crane (the bird and the machine) and maillot (two swimsuits): only the wnid tells which is meant.
Source: the list of the 2012 challenge in Keras' order and spelling (imagenet_class_index.json, here classes.json).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import ArgumentError, NumericError, ShapeError

_FILE = Path(__file__).with_name("classes.json")

CLASSES: tuple[tuple[str, str], ...] = tuple(json.loads(_FILE.read_text(encoding="utf-8")).items())
"""(wnid, name) of each class, in the order of the networks' outputs."""


class Prediction(NamedTuple):
    """One class that an image may show; the wnid is empty where the classes are not ImageNet's."""

    wnid: str
    name: str
    probability: float


def decode(
    probabilities: np.ndarray, top: int = 5, classes: Sequence[tuple[str, str]] | Sequence[str] = CLASSES
) -> list[list[Prediction]]:
    """The ``top`` most likely classes of each image, the likeliest first; of equals, the first class first.

    probabilities: (n, number of classes); classes: (wnid, name) of each, or names alone. Asked for more than there
    are, it gives all. Raises ShapeError, ArgumentError for top below 1, NumericError for NaN.

    >>> decode(np.array([[0.2, 0.7, 0.1]]), top=2, classes=("cat", "dog", "cow"))[0][0]
    Prediction(wnid='', name='dog', probability=0.7)
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise ShapeError(f"expected probabilities of shape (n, {len(classes)}), got {probabilities.shape}")
    if top < 1:
        raise ArgumentError(f"expected top, the number of classes to name, to be at least 1, got {top}")
    if np.isnan(probabilities).any():
        raise NumericError("expected probabilities, got NaN")
    pairs = [("", entry) if isinstance(entry, str) else entry for entry in classes]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]  # (n, top)
    return [
        [Prediction(pairs[i][0], pairs[i][1], float(row[i])) for i in indices]
        for row, indices in zip(probabilities, order, strict=True)
    ]
