"""Feature maps: the channels of an activation as small pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from .style import VectorFigure

MOST = 32  # maps of a sheet


def feature_maps(
    maps: np.ndarray,
    title: str = "",
    channels: Sequence[int] | None = None,
    shared_scale: bool = False,
    columns: int = 8,
) -> VectorFigure:
    """The channels of (h, w, c) as a sheet of pictures, with the number of each.

    channels: which to draw; the first 32 if not given. shared_scale: one scale of values for all, drawn beside them
    (from blue over white to red around 0 where there are negative values); otherwise each map goes from its own
    smallest value (dark) to its own largest (bright). Raises ShapeError, and ArgumentError for channels that the array
    does not have.

    >>> len(feature_maps(np.zeros((4, 4, 3))).axes)
    3
    """
    if maps.ndim != 3 or not maps.size:
        raise ShapeError(f"feature_maps: expected an array (h, w, c) that is not empty, got {maps.shape}")
    chosen = list(range(min(MOST, maps.shape[2]))) if channels is None else list(channels)
    if not chosen or not all(0 <= c < maps.shape[2] for c in chosen) or columns < 1:
        raise ArgumentError(f"feature_maps: channels must be some of 0 to {maps.shape[2] - 1}, got {chosen}")

    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, TwoSlopeNorm

    from .style import canvas

    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    drawn = maps[..., chosen]
    low, high = float(drawn.min()), float(drawn.max())
    norm, colours = Normalize(low, max(high, low + 1e-12)), "cividis"
    if shared_scale and low < 0:
        most = max(-low, high)
        norm, colours = TwoSlopeNorm(0, -most, most), "RdBu_r"
    side = 1.25
    width, height = side * columns + (0.9 if shared_scale else 0), (side * maps.shape[0] / maps.shape[1] + 0.3) * rows
    with canvas(max(width, 3), height + (0.4 if title else 0), rows, columns) as (figure, axes):
        figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02)
        for ax in axes.flat[len(chosen) :]:
            ax.remove()
        for ax, channel, picture in zip(axes.flat, chosen, np.moveaxis(drawn, 2, 0), strict=False):
            ax.imshow(picture, cmap=colours, norm=norm if shared_scale else None, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_title(str(channel), size=11, pad=2)
        if shared_scale:
            kept = list(axes.flat[: len(chosen)])
            figure.colorbar(ScalarMappable(norm, colours), ax=kept, shrink=0.8, aspect=25).set_label("value")
        if title:
            figure.suptitle(title, x=0.01, ha="left", size=12)
    return figure
