"""Accuracy beside cost: published figures over counts from the model objects; what was trained with several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import ArgumentError
from ..graph.cost import table
from ..models import MODELS
from ..models.published import PUBLISHED

if TYPE_CHECKING:
    from .style import VectorFigure

_AXES = (4.6 * 72, 4.3 * 72)  # points: about the size of one of the two axes
_SIDES = (  # where a name may stand: which of its ends is near the point, and how far from it, in points
    *(("left", 8, 0), ("right", -8, 0), ("left", -6, 14), ("left", -6, -14), ("left", -6, 19), ("left", -6, -19)),
    *(("right", 6, 14), ("right", 6, -14), ("right", 6, 19), ("right", 6, -19)),
)
_MARKERS = ("o", "s", "^", "D", "v")  # of the sources, in the order they come


class ZooPoint(NamedTuple):
    """A network: its top-1 accuracy as published (a share), by whom, its parameters, its MACs for one image."""

    name: str
    top1: float
    source: str
    params: int
    macs: int


def zoo_points() -> list[ZooPoint]:
    """The package's networks for ImageNet with their published accuracy, counted at their own input size.

    Parameters include batchnorm's running statistics. Each source has trained in its own way: accuracies are to be
    compared within one. Takes seconds: the networks are built.
    """
    points = []
    for name, (title, source, top1, _) in PUBLISHED.items():
        model = MODELS[name]()
        assert model.input_shape is not None  # all of MODELS have one
        points.append(ZooPoint(title, top1, source, model.num_parameters(), table(model, model.input_shape).macs))
    return points


def accuracy_costs(points: Sequence[ZooPoint]) -> VectorFigure:
    """Top-1 accuracy over parameters (left) and over MACs (right), both on log scales; a marker for each source.

    Raises ArgumentError without points.

    >>> figure = accuracy_costs([ZooPoint("Xception", 0.79, "Chollet 2017", 22_910_480, 8_357_403_496)])
    >>> [ax.get_xlabel() for ax in figure.axes]
    ['parameters (millions, log scale)', 'MACs for one image (billions, log scale)']
    """
    if not points:
        raise ArgumentError("accuracy_costs: expected at least one network, got none")

    from .style import canvas

    with canvas(11, 5.6, columns=2, sharey=True) as (figure, axes):
        left, right = axes[0]
        _scatter(left, points, [p.params / 1e6 for p in points])
        _scatter(right, points, [p.macs / 1e9 for p in points])
        left.set(xlabel="parameters (millions, log scale)", ylabel="top-1 accuracy on ImageNet (%), as published")
        right.set(xlabel="MACs for one image (billions, log scale)")
        handles, names = left.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=len(names))
    return figure


class TrainedPoint(NamedTuple):
    """Networks that differ in their seed alone.

    panel: what is along the x axis; line: what the network is called; x: its place there, a number or, where there is
    no scale, a word; accuracies: of each seed, shares.
    """

    panel: str
    line: str
    x: float | str
    accuracies: Sequence[float]


def accuracy_bands(points: Sequence[TrainedPoint], measure: str = "test top-1") -> VectorFigure:
    """Accuracy along a cost: a panel for each, median and range over the seeds, and every seed as a dot.

    Words stand side by side as they come, joined by a line and its band; numbers stand on a scale, each for itself.
    Raises ArgumentError without points or accuracies, or where a panel mixes numbers and words.

    >>> seeds = [0.80, 0.82, 0.81]
    >>> figure = accuracy_bands([TrainedPoint("segments", "at equal width", g, seeds) for g in "1248"])
    >>> [float(median) for median in figure.axes[0].lines[0].get_ydata()]
    [81.0, 81.0, 81.0, 81.0]
    """
    if not points or not all(len(point.accuracies) for point in points):
        raise ArgumentError("accuracy_bands: expected points, each with the accuracy of at least one seed")
    panels = list(dict.fromkeys(point.panel for point in points))
    for panel in panels:
        if len({isinstance(point.x, str) for point in points if point.panel == panel}) > 1:
            raise ArgumentError(f"accuracy_bands: {panel!r} mixes numbers and words")

    from .style import canvas

    names = list(dict.fromkeys(point.line for point in points))
    with canvas(max(6, 3.9 * len(panels)), 4.6, columns=len(panels), sharey=True) as (figure, axes):
        for ax, panel in zip(axes[0], panels, strict=True):
            here = [point for point in points if point.panel == panel]
            words = list(dict.fromkeys(point.x for point in here)) if isinstance(here[0].x, str) else None
            for number, name in enumerate(names):
                line = [(words.index(p.x) if words else p.x, p.accuracies) for p in here if p.line == name]
                _band(ax, name, number, sorted(line), joined=words is not None)
            if words:
                ax.set_xticks(range(len(words)), words)
            ax.margins(x=0.15)
            ax.set_xlabel(panel)
            ax.grid()
        axes[0, 0].set_ylabel(f"{measure} (%)")
        axes[0, 0].set_title("Median and range over the seeds")
        handles = {name: handle for ax in axes[0] for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(3, len(handles)))
    return figure


def _band(ax: Any, name: str, number: int, line: Sequence[tuple[Any, Sequence[float]]], joined: bool) -> None:
    """The points of one name in a panel: (x, accuracies), from left to right."""
    from .style import BLUE, GREEN, GREY, ORANGE, VERMILION

    if not line:
        return
    colour = (BLUE, VERMILION, GREEN, ORANGE, GREY)[number % 5]
    x = [place for place, _ in line]
    low, median, high = np.transpose([np.quantile(100 * np.asarray(seeds), (0, 0.5, 1)) for _, seeds in line])
    style = ("-", "--", ":", "-.")[number % 4] if joined else "None"
    ax.plot(x, median, color=colour, marker=_MARKERS[number % 5], markersize=8, linestyle=style, label=name)
    if joined:
        ax.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    ax.vlines(x, low, high, color=colour, lw=1.2)
    for place, seeds in line:
        ax.scatter([place] * len(seeds), 100 * np.asarray(seeds), color=colour, s=12)


def _scatter(ax: Any, points: Sequence[ZooPoint], x: Sequence[float]) -> None:
    """The points, a marker for each source, and their names."""
    from matplotlib.ticker import NullFormatter, NullLocator

    from .style import BLUE, GREEN, GREY, ORANGE, VERMILION

    colours = (BLUE, VERMILION, GREEN, ORANGE, GREY)
    ax.set_xscale("log")
    for number, source in enumerate(dict.fromkeys(p.source for p in points)):
        chosen = [i for i, p in enumerate(points) if p.source == source]
        look = {"marker": _MARKERS[number % 5], "color": colours[number % 5], "label": source, "s": 60}
        ax.scatter([x[i] for i in chosen], [100 * points[i].top1 for i in chosen], **look)
    ax.margins(0.16, 0.12)
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200) if min(x) / 1.6 <= tick <= 1.6 * max(x)]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid()
    _name_points(ax, points, x)


def _name_points(ax: Any, points: Sequence[ZooPoint], x: Sequence[float]) -> None:
    """A name beside each point: right, left, above or below, where no other point or name is."""
    from .style import text_width

    ax.set_xlim(ax.get_xlim())  # so that names do not move it
    (left, right), (bottom, top) = np.log(ax.get_xlim()), ax.get_ylim()
    places = [
        (_AXES[0] * (math.log(value) - left) / (right - left), _AXES[1] * (100 * p.top1 - bottom) / (top - bottom))
        for value, p in zip(x, points, strict=True)
    ]
    taken = [(px - 5, py - 5, px + 5, py + 5) for px, py in places]
    for value, (px, py), point in zip(x, places, points, strict=True):
        width = text_width(point.name, 11)
        boxes = {side: _name_box((px, py), width, side) for side in _SIDES}
        free = [
            side
            for side, box in boxes.items()
            if box[0] > 0 and box[2] < _AXES[0] and not any(_overlap(box, other) for other in taken)
        ]
        ha, dx, dy = side = free[0] if free else _SIDES[0]
        taken.append(boxes[side])
        look = {"textcoords": "offset points", "ha": ha, "va": "center"}
        ax.annotate(point.name, (value, 100 * point.top1), (dx, dy), **look)


def _name_box(
    place: tuple[float, float], width: float, side: tuple[str, int, int]
) -> tuple[float, float, float, float]:
    """The rectangle (left, bottom, right, top) of a name on this side of a point."""
    ha, dx, dy = side
    left, middle = place[0] + dx - width * (ha == "right"), place[1] + dy
    return left, middle - 7, left + width, middle + 7


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    """Of two rectangles (left, bottom, right, top)."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
