"""How much of their speed many processes keep when they have to talk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ArgumentError

if TYPE_CHECKING:
    from .style import VectorFigure


class ScalingPoint(NamedTuple):
    """A line's name (its network, say), a number of processes, and their speed beside as many that need not talk."""

    line: str
    processes: int
    efficiency: float


def scaling(points: Sequence[ScalingPoint]) -> VectorFigure:
    """Efficiency in percent over the number of processes, a line for each name; the number on a log scale.

    Raises ArgumentError without points, or for one without processes.

    >>> figure = scaling([ScalingPoint("10 GB/s", processes, 1 / processes) for processes in (1, 2, 4)])
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [100.0, 50.0, 25.0]
    """
    if not points or not all(point.processes > 0 for point in points):
        raise ArgumentError("scaling: expected points, each of at least one process")

    from matplotlib.ticker import FixedLocator, NullLocator

    from .style import BLUE, GREEN, ORANGE, VERMILION, canvas

    looks = [(BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "^", "-."), (ORANGE, "D", ":")]
    with canvas(6.4, 3.6) as (figure, axes):
        ax = axes[0, 0]
        for name, (colour, marker, style) in zip(dict.fromkeys(point.line for point in points), looks, strict=False):
            line = sorted((point.processes, 100 * point.efficiency) for point in points if point.line == name)
            ax.plot(*zip(*line, strict=True), color=colour, marker=marker, linestyle=style, label=name)
        ax.set_xscale("log")
        ax.set_xlabel("processes")
        ax.xaxis.set_major_locator(FixedLocator(sorted({point.processes for point in points})))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylabel("efficiency (%)")
        ax.set_ylim(0, 105)
        ax.set_title("What is left when processes have to talk")
        ax.grid(axis="y")
        ax.legend()
    return figure
