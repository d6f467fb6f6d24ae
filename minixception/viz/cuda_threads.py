"""The threads of a CUDA block: which outputs they write, and how often each input is read for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from .style import VectorFigure

MOST_NAMED = 18  # cells across, above which the indices of threads would be too small to read
MOST_COLOURS = 9  # shades of blue: with more reads than this, several counts share one


@dataclass(frozen=True)
class ThreadPanel:
    """A plane of the input, and the outputs over it.

    reads: how often each input is read, (rows, columns). writers: the thread that writes the output over each of them,
    or -1, (rows, columns). first: row and column of the first cell in its array.
    """

    title: str
    reads: np.ndarray
    writers: np.ndarray
    axes: tuple[str, str]
    first: tuple[int, int] = (0, 0)


def threads(panels: Sequence[ThreadPanel], title: str) -> VectorFigure:
    """Draw panels side by side: inputs are cells coloured by how often they are read, outputs are frames.

    The index in a frame is that of the thread that writes the output. Raises ArgumentError without panels, ShapeError
    where reads and writers are not of one shape (rows, columns).

    >>> panel = ThreadPanel("channel 0", np.ones((3, 3), int), np.full((3, 3), -1), ("row", "column"))
    >>> len(threads([panel], "a block").axes)
    2
    """
    if not panels:
        raise ArgumentError("threads: expected at least one panel, got none")
    for panel in panels:
        if panel.reads.ndim != 2 or panel.reads.shape != panel.writers.shape:
            raise ShapeError(
                "threads: reads and writers must have one shape (rows, columns), got "
                f"{panel.reads.shape} and {panel.writers.shape}"
            )

    from matplotlib.cm import ScalarMappable

    from .style import canvas

    colours, norm, ticks = _colours(max(int(panel.reads.max()) for panel in panels))
    widths = [min(max(panel.reads.shape[1] / panel.reads.shape[0], 0.4), 1.2) for panel in panels]
    with canvas(4.4 * sum(widths) + 1.4, 4.6, columns=len(panels), width_ratios=widths) as (figure, axes):
        for ax, panel in zip(axes[0], panels, strict=True):
            _draw(ax, panel, colours, norm)
        bar = figure.colorbar(ScalarMappable(norm, colours), ax=list(axes[0]), ticks=ticks, shrink=0.8, aspect=25)
        bar.set_label("reads of the input by this block")
        bar.minorticks_off()
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _colours(most: int) -> tuple[Any, Any, list[int]]:
    """Colours from white (not read) by light to dark blue, the norm that gives them to 0 .. most reads, and ticks."""
    from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap

    from .style import BLUE

    step = -(-max(most, 1) // MOST_COLOURS)
    levels = -(-max(most, 1) // step)
    blues = LinearSegmentedColormap.from_list("blues", ["#D6E8F5", BLUE, "#00263D"], MOST_COLOURS)
    colours = ListedColormap(["white", *blues(range(levels))])
    ticks = [0, *(step * (level + 1) for level in range(levels))]
    return colours, BoundaryNorm([-0.5, *(tick + 0.5 for tick in ticks)], levels + 1), ticks


def _draw(ax: Any, panel: ThreadPanel, colours: Any, norm: Any) -> None:
    from matplotlib.patches import Rectangle

    from .style import VERMILION

    rows, columns = panel.reads.shape
    top, left = panel.first
    extent = (left - 0.5, left + columns - 0.5, top + rows - 0.5, top - 0.5)
    ax.imshow(panel.reads, cmap=colours, norm=norm, extent=extent, aspect="equal", interpolation="nearest")
    named = max(rows, columns) <= MOST_NAMED
    for (i, j), thread in np.ndenumerate(panel.writers):
        if thread < 0:
            continue
        place = (left + j, top + i)
        ax.add_patch(Rectangle((place[0] - 0.42, place[1] - 0.42), 0.84, 0.84, fill=False, color=VERMILION, lw=1.2))
        if named:
            dark = norm(panel.reads[i, j]) > MOST_COLOURS / 2
            ax.text(*place, str(thread), ha="center", va="center", size=7.5, color="white" if dark else "black")
    ax.set(ylabel=panel.axes[0], xlabel=panel.axes[1], title=panel.title)
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
