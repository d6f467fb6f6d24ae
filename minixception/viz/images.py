"""Images beside what a network takes them for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..imagenet import Prediction

if TYPE_CHECKING:
    from .style import VectorFigure

_ROW, _BAR = 2.4, 0.38  # inches: the least height of a row, and what one bar needs of it


def sample_sheet(images: np.ndarray, titles: Sequence[tuple[str, str]]) -> VectorFigure:
    """A sheet of images and what they were taken for; a mistake has a cross, a frame, and the true class below.

    images: uint8 (n, h, w, 3); titles: (predicted, true) for each. Raises ShapeError, DTypeError.

    >>> len(sample_sheet(np.zeros((2, 8, 8, 3), np.uint8), [("cat", "cat"), ("cat", "dog")]).axes)
    2
    """
    if images.ndim != 4 or images.shape[3] != 3 or not len(images):
        raise ShapeError(f"sample_sheet: images must be (n, h, w, 3) with n of at least 1, got {images.shape}")
    if images.dtype != np.uint8:
        raise DTypeError(f"sample_sheet: images must be uint8, from 0 to 255, got {images.dtype}")
    if len(titles) != len(images):
        raise ShapeError(f"sample_sheet: expected {len(images)} titles, one per image, got {len(titles)}")

    from .style import VERMILION, canvas

    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    with canvas(1.5 * columns, 1.9 * rows, rows, columns) as (figure, axes):
        for ax in axes.flat[len(images) :]:
            ax.remove()
        for ax, image, (predicted, true) in zip(axes.flat, images, titles, strict=False):
            ax.imshow(image, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(predicted != true)
            ax.spines[:].set(linewidth=4, color=VERMILION)
            ax.set_title(predicted if predicted == true else f"✗ {predicted}", size=10)
            ax.set_xlabel("" if predicted == true else f"true: {true}", size=10, loc="left")
    return figure


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
