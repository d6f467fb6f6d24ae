"""Time along the spectrum between regular and depthwise convolution, beside what its arithmetic alone would take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ArgumentError

if TYPE_CHECKING:
    from .style import VectorFigure


class SpectrumTime(NamedTuple):
    """One measured convolution: its panel ("forward, 1 thread", say), its segments, who computed it, seconds."""

    panel: str
    segments: int
    who: str
    seconds: float


def spectrum_times(points: Sequence[SpectrumTime]) -> VectorFigure:
    """Milliseconds over the number of segments: a panel for each kind of run, a line for each who; log scales.

    Thin and grey: where time would be if it followed the multiply-accumulates, which fall as 1 / segments, from the
    first one's fewest segments on. Raises ArgumentError without points, or for one that is not positive.

    >>> halved = [SpectrumTime("forward", segments, "ours", 0.01 / segments) for segments in (1, 2, 4)]
    >>> spectrum_times(halved).axes[0].get_ylabel()
    'ms'
    """
    if not points:
        raise ArgumentError("spectrum_times: expected at least one point, got none")
    if not all(point.segments > 0 and point.seconds > 0 for point in points):
        raise ArgumentError("spectrum_times: segments and seconds must be positive: logarithms are drawn")

    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

    from .style import BLUE, GREEN, GREY, ORANGE, VERMILION, canvas

    panels = list(dict.fromkeys(point.panel for point in points))
    everybody = list(dict.fromkeys(point.who for point in points))
    looks = [(BLUE, "o", "-"), (VERMILION, "s", "--"), (GREEN, "^", ":"), (ORANGE, "D", "-.")]
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    size = 4.6 * columns, 3.1 * rows + 0.4
    with canvas(*size, rows, columns, sharex=True, sharey=True) as (figure, axes):
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        for ax, panel in zip(axes.flat, panels, strict=False):
            here = [point for point in points if point.panel == panel]
            lines = {who: sorted((p.segments, 1e3 * p.seconds) for p in here if p.who == who) for who in everybody}
            first, start = lines[everybody[0]][0]
            ideal = sorted({point.segments for point in here})
            ax.plot(ideal, [start * first / g for g in ideal], color=GREY, linewidth=0.8, label="as the arithmetic")
            for (who, line), (colour, marker, style) in zip(lines.items(), looks, strict=False):
                ax.plot(*zip(*line, strict=True), color=colour, marker=marker, linestyle=style, label=who)
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_title(panel)
            ax.grid(axis="y", which="both")
            ax.xaxis.set_major_locator(FixedLocator(ideal))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        for ax in axes[:, 0]:
            ax.set_ylabel("ms")
        for ax in axes[-1]:
            ax.set_xlabel("segments")
        axes[0, 0].legend()
    return figure
