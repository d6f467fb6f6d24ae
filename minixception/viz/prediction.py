"""Photos beside what a network takes them for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..imagenet import Prediction

if TYPE_CHECKING:
    from .style import VectorFigure

_ROW, _BAR = 2.4, 0.38  # inches: the least height of a row, and what one bar needs of it


def predictions(images: Sequence[np.ndarray], predicted: Sequence[Sequence[Prediction]]) -> VectorFigure:
    """Photos, uint8 (h, w, 3), each in a row with the probabilities of its classes, as ``model.predict`` gives them.

    Raises ArgumentError without a photo or without a class for one of them, ShapeError, DTypeError.

    >>> classes = [Prediction("", "cat", 0.9), Prediction("", "dog", 0.1)]
    >>> figure = predictions([np.zeros((8, 8, 3), np.uint8)], [classes])
    >>> [label.get_text() for label in figure.axes[1].get_yticklabels()]
    ['cat', 'dog']
    """
    if not images or len(images) != len(predicted) or not all(predicted):
        counts = [len(classes) for classes in predicted]
        raise ArgumentError(f"predictions: expected classes for each of {len(images)} photos, at least 1, got {counts}")
    for image in images:
        if image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ShapeError(f"predictions: a photo must be (h, w, 3), got {image.shape}")
        if image.dtype != np.uint8:
            raise DTypeError(f"predictions: a photo must be uint8, from 0 to 255, got {image.dtype}")

    from .style import canvas

    heights = [max(_ROW, _BAR * len(classes)) for classes in predicted]
    with canvas(9, sum(heights), len(images), 2, width_ratios=(1, 1.5), height_ratios=heights) as (figure, axes):
        for (left, right), image, classes in zip(axes, images, predicted, strict=True):
            left.imshow(image)
            left.axis("off")
            _bars(right, classes)
    return figure


def _bars(ax: Any, classes: Sequence[Prediction]) -> None:
    """The classes from top to bottom, each with its probability behind its bar."""
    from .style import BLUE

    places = range(len(classes))
    ax.barh(places, [c.probability for c in classes], color=BLUE, height=0.7)
    for place, c in enumerate(classes):
        number = f"{c.probability:.1%}" if c.probability >= 0.0005 else "< 0.1%"
        ax.annotate(number, (c.probability, place), (6, 0), textcoords="offset points", va="center")
    ax.set_yticks(places, [c.name.replace("_", " ") for c in classes])
    ax.tick_params(axis="y", length=0)
    ax.set_label(f"taken for {classes[0].name.replace('_', ' ')}")
    ax.set_xlim(0, 1)
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    middle, half = (len(classes) - 1) / 2, max(5, len(classes)) / 2  # few bars are no thicker than five
    ax.set_ylim(middle + half, middle - half)  # the first class on top
