"""The roofline: what an operator reaches beside what memory and arithmetic allow it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ArgumentError

if TYPE_CHECKING:
    from ..bench.limits import Limits
    from .style import VectorFigure


class RooflinePoint(NamedTuple):
    """One measured operator: its direction ("forward" or "backward"), FLOP per byte, and FLOP per second."""

    name: str
    direction: str
    intensity: float
    flops: float


def roofline(limits: Limits, points: Sequence[RooflinePoint]) -> VectorFigure:
    """GFLOP/s over FLOP per byte, both on log scales, under the roof of ``limits``; one label per name.

    A second, dashed roof is that of arrays that stay in the caches. Labels stand in a column, in the order of their
    points, so that none covers another. Raises ArgumentError without points, or where a number is not positive.
    Williams, Waterman and Patterson 2009.

    >>> from minixception.bench.limits import Limits
    >>> limits = Limits(1, "float32", 2e11, 4e10, 4e10, 4e10, {2**24: 8e10, 2**29: 4e10})
    >>> roofline(limits, [RooflinePoint("pointwise", "forward", 50.0, 1e11)]).axes[0].get_xscale()
    'log'
    """
    if not points:
        raise ArgumentError("roofline: expected at least one point, got none")
    if not all(point.intensity > 0 and point.flops > 0 for point in points):
        raise ArgumentError("roofline: FLOP per byte and FLOP per second must be positive: logarithms are drawn")

    from .style import BLUE, GREY, canvas

    ridge = limits.fma_flops / limits.copy
    left, right = (f(ridge, *(p.intensity for p in points)) for f in (min, max))
    lowest = min(p.flops for p in points)
    with canvas(9, 5.5) as (figure, axes):
        ax = axes[0, 0]
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(left / 2, 2 * right)
        ax.set_ylim(lowest / 2e9, 1.6 * limits.fma_flops / 1e9)
        x = np.geomspace(left / 2, 2 * right, 500)
        for rate, line in ((limits.copy, "-"), (max(limits.copies.values()), "--")):
            ax.plot(x, np.minimum(x * rate, limits.fma_flops) / 1e9, color=GREY, linestyle=line, zorder=1)
        _name_roofs(ax, limits)
        for direction, face in (("forward", BLUE), ("backward", "white")):
            chosen = [p for p in points if p.direction == direction]
            places = [p.intensity for p in chosen], [p.flops / 1e9 for p in chosen]
            ax.plot(*places, "o", color=BLUE, markerfacecolor=face, markersize=7, label=direction)
        _name_points(ax, points)
        ax.set_xlabel("FLOP per byte moved (log scale)")
        ax.set_ylabel("GFLOP/s (log scale)")
        ax.set_title(f"{limits.threads} thread{'s' * (limits.threads > 1)}, {limits.dtype}")
        ax.grid()
        ax.legend(loc="lower right")
    return figure


def _name_roofs(ax: Any, limits: Limits) -> None:
    """What each line stands for, written along it."""
    from .style import GREY

    low, _ = ax.get_ylim()
    peak = limits.fma_flops / 1e9
    ax.annotate(
        f"{peak:,.0f} GFLOP/s: fused multiply-adds in registers", (ax.get_xlim()[1], peak), (-4, 5),
        textcoords="offset points", ha="right", color=GREY,
    )  # fmt: skip
    in_cache = max(limits.copies, key=lambda footprint: limits.copies[footprint])
    lines = [(limits.copy / 1e9, "copy in memory", -6, "top")]
    if limits.copies[in_cache] > limits.copy:
        lines.append((limits.copies[in_cache] / 1e9, f"copy of {in_cache / 2**20:.0f} MiB", 4, "bottom"))
    for rate, what, above, align in lines:
        y = np.sqrt(max(low, rate * ax.get_xlim()[0]) * peak)  # half of the way up
        ax.annotate(
            f"{rate:,.0f} GB/s: {what}", (y / rate, y), (0, above),
            textcoords="offset points", ha="center", va=align, color=GREY, rotation_mode="anchor",
            rotation=np.degrees(np.arctan(rate)), transform_rotates_text=True,
        )  # fmt: skip


def _name_points(ax: Any, points: Sequence[RooflinePoint]) -> None:
    """One name for the points of each operator, to the right of the axes, with a line to the first of them."""
    from .style import BLUE, GREY

    named: dict[str, list[RooflinePoint]] = {}
    for point in points:
        named.setdefault(point.name, []).append(point)
    for group in named.values():
        ax.plot([p.intensity for p in group], [p.flops / 1e9 for p in group], color=BLUE, linewidth=0.8, zorder=1.5)
    firsts = sorted((group[0] for group in named.values()), key=lambda p: p.flops)
    bottom, top = np.log(ax.get_ylim())
    heights = _apart([(np.log(p.flops / 1e9) - bottom) / (top - bottom) for p in firsts])
    for point, height in zip(firsts, heights, strict=True):
        ax.annotate(
            point.name, (point.intensity, point.flops / 1e9), (1.03, height), textcoords="axes fraction", size=10,
            va="center", annotation_clip=False, arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6},
        )  # fmt: skip


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights between 0 and 1, moved as little as keeps them one line of text apart.

    >>> [round(height, 3) for height in _apart([0.5, 0.5, 0.99])]
    [0.5, 0.55, 0.99]
    """
    gap = min(0.05, 1 / len(heights))
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    ceiling = 1.0
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], ceiling)
        ceiling = placed[i] - gap
    return placed
