"""Figures of training, samples and convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ArgumentError, DTypeError, ShapeError
from ..timing import Timing

if TYPE_CHECKING:
    from .style import VectorFigure


class ConvolutionCost(NamedTuple):
    """One form of convolution: its parameters, its MACs for one image, and its measured time."""

    form: str
    params: int
    macs: int
    time: Timing


def training_curves(log_records: Sequence[Mapping[str, Any]]) -> VectorFigure:
    """Loss and top-1 accuracy over the epochs, on training and test data.

    log_records: one mapping per epoch with epoch, train_loss, train_top1, test_loss and test_top1; top-1 is a
    share from 0 to 1. Raises ArgumentError if there are none or one lacks a key.

    >>> record = {"epoch": 1, "train_loss": 1.2, "train_top1": 0.5, "test_loss": 1.3, "test_top1": 0.4}
    >>> len(training_curves([record]).axes)
    2
    """
    keys = ("epoch", "train_loss", "train_top1", "test_loss", "test_top1")
    if not log_records:
        raise ArgumentError("training_curves: expected the record of at least one epoch, got none")
    missing = [key for key in keys if any(key not in record for record in log_records)]
    if missing:
        raise ArgumentError(f"training_curves: every record needs {', '.join(keys)}; missing: {', '.join(missing)}")

    from .style import BLUE, VERMILION, canvas

    looks = {
        "train": {"color": BLUE, "linestyle": "--", "marker": "o"},
        "test": {"color": VERMILION, "marker": "s"},
    }
    epochs = [record["epoch"] for record in log_records]
    with canvas(9, 3.6, columns=2) as (figure, axes):
        for ax, measure, scale in zip(axes[0], ("loss", "top1"), (1, 100), strict=True):
            for split, look in looks.items():
                values = [scale * record[f"{split}_{measure}"] for record in log_records]
                ax.plot(epochs, values, label=split, markevery=-(-len(epochs) // 30), **look)
            ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
            ax.set_xlabel("epoch")
            ax.grid()
            ax.legend()
        last = log_records[-1]
        axes[0, 0].set_title(f"Test loss at the end: {last['test_loss']:.3f}")
        axes[0, 0].set_ylabel("cross-entropy (nats)")
        axes[0, 1].set_title(f"Test accuracy at the end: {last['test_top1']:.1%}")
        axes[0, 1].set_ylabel("top-1 accuracy (%)")
    return figure


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


def convolution_costs(rows: Sequence[ConvolutionCost]) -> VectorFigure:
    """Parameters, MACs and measured time of several forms of convolution side by side.

    Each bar has its factor over the last form's; the whiskers of the times are quartiles. Raises ArgumentError
    without rows.

    >>> row = ConvolutionCost("regular", 9, 900, Timing(0.002, 0.001, 0.003))
    >>> [ax.get_title("left") for ax in convolution_costs([row]).axes]
    ['Parameters (thousands)', 'MACs per image (millions)', 'Forward time (ms)']
    """
    if not rows:
        raise ArgumentError("convolution_costs: expected at least one form of convolution, got none")

    from .style import BLUE, GREEN, ORANGE, canvas

    times = [row.time for row in rows]
    whiskers = 1e3 * np.array([[t.median - t.low for t in times], [t.high - t.median for t in times]])  # (2, rows)
    panels: list[tuple[str, list[float], np.ndarray | None]] = [
        ("Parameters (thousands)", [row.params / 1e3 for row in rows], None),
        ("MACs per image (millions)", [row.macs / 1e6 for row in rows], None),
        ("Forward time (ms)", [1e3 * t.median for t in times], whiskers),
    ]
    with canvas(9, 1.2 + 0.5 * len(rows), columns=3, sharey=True) as (figure, axes):
        for ax, (title, values, spread), color in zip(axes[0], panels, (BLUE, ORANGE, GREEN), strict=True):
            ax.barh([row.form for row in rows], values, xerr=spread, color=color, capsize=4)
            ends = np.array(values) + (0 if spread is None else spread[1])
            for place, (value, end) in enumerate(zip(values, ends, strict=True)):
                number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                label = f"{number}  ({value / values[-1]:.1f}×)"
                ax.annotate(label, (end, place), (8, 0), textcoords="offset points", va="center")
            ax.set_title(title)
            ax.set_xlim(0, 1.9 * ends.max())  # room for the labels
            ax.xaxis.get_major_locator().set_params(nbins=4)
        axes[0, 0].invert_yaxis()
    return figure
