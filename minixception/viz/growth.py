"""How time grows with what there is to do: seconds of a multiply-accumulate over the size of the job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ArgumentError

if TYPE_CHECKING:
    from .style import VectorFigure


class GrowthPoint(NamedTuple):
    """One measured job: its network, what was varied ("batch", say) and its value, multiply-accumulates, seconds."""

    network: str
    varied: str
    value: float
    macs: int
    seconds: float


def growth(points: Sequence[GrowthPoint]) -> VectorFigure:
    """Picoseconds of a multiply-accumulate, a panel for whatever was varied and a line for each network; log scales.

    A flat line is time that grows as the arithmetic does. Raises ArgumentError without points, or for one that is not
    positive.

    >>> steps = [GrowthPoint("small", "batch", images, images * 10**9, 0.01 * images) for images in (1, 2, 4)]
    >>> growth(steps).axes[0].get_ylabel()
    'ps per multiply-accumulate'
    """
    if not points:
        raise ArgumentError("growth: expected at least one point, got none")
    if not all(point.value > 0 and point.macs > 0 and point.seconds > 0 for point in points):
        raise ArgumentError("growth: values, multiply-accumulates and seconds must be positive: logarithms are drawn")

    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

    from .style import BLUE, GREEN, ORANGE, VERMILION, canvas

    panels = list(dict.fromkeys(point.varied for point in points))
    looks = [(BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "^", "-."), (ORANGE, "D", ":")]
    networks = dict.fromkeys(point.network for point in points)
    with canvas(3.6 * len(panels) + 0.8, 3.6, columns=len(panels), sharey=True) as (figure, axes):
        for ax, varied in zip(axes[0], panels, strict=True):
            here = [point for point in points if point.varied == varied]
            for number, network in enumerate(networks):
                line = sorted(point[2:] for point in here if point.network == network)
                if line:
                    colour, marker, style = looks[number % len(looks)]
                    times = [1e12 * seconds / macs for _, macs, seconds in line]
                    values = [value for value, _, _ in line]
                    ax.plot(values, times, color=colour, marker=marker, linestyle=style, label=network)
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel(varied)
            ax.grid(axis="y", which="both")
            ax.xaxis.set_major_locator(FixedLocator(sorted({point.value for point in here})))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.legend()
        first = axes[0, 0]
        first.set_title("Time of a training step: flat where it grows as the arithmetic does")
        first.set_ylabel("ps per multiply-accumulate")
        first.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        first.yaxis.set_major_formatter("{x:g}")
        first.yaxis.set_minor_formatter(NullFormatter())
    return figure
