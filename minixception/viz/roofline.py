"""The roofline: what an operator reaches beside what memory and arithmetic allow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from ..errors import ArgumentError

if TYPE_CHECKING:
    from .style import VectorFigure


class Limits(Protocol):
    """What a machine can do at most, as ``bench.limits.measure`` finds it: FLOP/s, and bytes/s of a copy in memory.

    copies: bytes/s of copies, by the bytes of source and target together; the fastest one stays in a cache.
    """

    @property
    def threads(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def fma_flops(self) -> float: ...
    @property
    def copy(self) -> float: ...
    @property
    def copies(self) -> Mapping[int, float]: ...


class RooflinePoint(NamedTuple):
    """One measured operator: its direction ("forward" or "backward"), FLOP per byte, FLOP per second, and its rung."""

    name: str
    direction: str
    intensity: float
    flops: float
    rung: str = ""


_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")  # of the rungs, in the order they come


def ladder_points(result: Mapping[str, Any]) -> tuple[Limits, list[RooflinePoint]]:
    """The limits and the rungs in the record of the ladder (docs/results/ladder.json), for ``roofline``.

    Operators without multiply-accumulates have no place on a roofline. Raises ArgumentError for a file of another kind.
    """
    if not {"limits", "rows"} <= set(result):
        raise ArgumentError("ladder_points: expected a result of python -m minixception.bench.records ladder")
    points = [
        RooflinePoint(
            name=row["operator"].replace("_", " "),
            direction=row["direction"],
            intensity=row["flop"] / row["nbytes"],
            flops=row["flop"] / row["seconds"]["median"],
            rung=row["rung"],
        )
        for row in result["rows"]
        if row["flop"]
    ]
    copies = {int(footprint): rate for footprint, rate in result["limits"]["copies"].items()}  # JSON made them text
    limits: Any = SimpleNamespace(**result["limits"] | {"copies": copies})
    return limits, points


def roofline(limits: Limits, points: Sequence[RooflinePoint]) -> VectorFigure:
    """GFLOP/s over FLOP per byte, both on log scales, under the roof of ``limits``; one label per name.

    A second, dashed roof is that of arrays that stay in the caches. Rungs have a marker each. Labels stand in a column,
    in the order of their points, so that none covers another. Raises ArgumentError without points, or for one that
    is not positive.
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

    from matplotlib.ticker import LogLocator, NullFormatter

    from .style import GREY, canvas

    peak, in_cache = limits.fma_flops / 1e9, max(limits.copies, key=lambda footprint: limits.copies[footprint])
    roofs = {
        f"copy in memory, {limits.copy / 1e9:,.0f} GB/s": (limits.copy, "-"),
        f"copy of {in_cache / 2**20:,.0f} MiB, {limits.copies[in_cache] / 1e9:,.0f} GB/s": (
            limits.copies[in_cache],
            "--",
        ),
    }
    intensities = [limits.fma_flops / limits.copy, *(p.intensity for p in points)]
    x = np.geomspace(min(intensities) / 2, 2 * max(intensities), 500)
    with canvas(10, 5.5) as (figure, axes):
        ax = axes[0, 0]
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xlim(x[0], x[-1])
        ax.set_ylim(min(p.flops for p in points) / 2e9, 1.6 * peak)
        _draw_points(ax, points)
        for name, (rate, line) in roofs.items():
            ax.plot(x, np.minimum(x * rate / 1e9, peak), color=GREY, linestyle=line, zorder=1, label=name)
        what = f"{peak:,.0f} GFLOP/s: fused multiply-adds in registers"
        ax.annotate(what, (x[0], peak), (4, 5), textcoords="offset points", color=GREY)
        _name_points(ax, points)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("FLOP per byte moved (log scale)")
        ax.set_ylabel("GFLOP/s (log scale)")
        ax.set_title(f"{limits.threads} thread{'s' * (limits.threads > 1)}, {limits.dtype}")
        ax.grid()
        figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _draw_points(ax: Any, points: Sequence[RooflinePoint]) -> None:
    """Filled markers for forward, white ones for backward; with rungs a shape for each."""
    from .style import BLUE, GREEN, GREY, ORANGE, VERMILION

    colours = (BLUE, VERMILION, GREEN, ORANGE, GREY)
    for number, rung in enumerate(dict.fromkeys(p.rung for p in points)):
        for direction in ("forward", "backward"):
            chosen = [p for p in points if p.direction == direction and p.rung == rung]
            if not chosen:
                continue
            colour = colours[number % 5]
            look = {"color": colour, "markerfacecolor": colour if direction == "forward" else "white", "markersize": 7}
            label = ", ".join(filter(None, (rung, direction)))
            places = [p.intensity for p in chosen], [p.flops / 1e9 for p in chosen]
            ax.plot(*places, _MARKERS[number % 8], label=label, **look)


def _name_points(ax: Any, points: Sequence[RooflinePoint]) -> None:
    """One name for the points of each operator, to the right of the axes, with a line to the fastest of them.

    Points of one operator are joined, or with rungs those of one direction.
    """
    from .style import BLUE, GREY

    named: dict[str, list[RooflinePoint]] = {}
    joined: dict[tuple[str, str], list[RooflinePoint]] = {}
    for point in points:
        named.setdefault(point.name, []).append(point)
        joined.setdefault((point.name, point.direction if point.rung else ""), []).append(point)
    for group in joined.values():
        ax.plot([p.intensity for p in group], [p.flops / 1e9 for p in group], color=BLUE, linewidth=0.8, zorder=1.5)
    fastest = sorted((max(group, key=lambda p: p.flops) for group in named.values()), key=lambda p: p.flops)
    bottom, top = np.log(ax.get_ylim())
    heights = _apart([(np.log(p.flops / 1e9) - bottom) / (top - bottom) for p in fastest])
    for point, height in zip(fastest, heights, strict=True):
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6, "relpos": (0, 0.5)}
        ax.annotate(
            point.name, (point.intensity, point.flops / 1e9), (1.03, height), textcoords="axes fraction", size=10,
            va="center", annotation_clip=False, arrowprops=line,
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
