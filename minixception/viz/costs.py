"""What convolutions and networks cost: along the spectrum, layer by layer, and beside their accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import nn
from ..errors import ArgumentError, ShapeError
from ..graph import cost
from ..timing import Timing
from .structure import flows, kind, nodes_of

if TYPE_CHECKING:
    from .style import VectorFigure


# The spectrum ---------------------------------------------------------------------------------------------------------


class SpectrumCost(NamedTuple):
    """A 1x1 convolution and a spatial one on ``segments`` segments: parameters of each; times pixels, their MACs."""

    segments: int
    pointwise: int
    spatial: int


def spectrum_rows(in_channels: int, out_channels: int, kernel_size: int = 3) -> list[SpectrumCost]:
    """The spectrum from g = 1 to g = out_channels: each g that divides out_channels, and 3, the Inception modules'.

    Raises ArgumentError for channels below 1. Chollet 2017, section 1.2.

    >>> spectrum_rows(12, 12)[1:3]
    [SpectrumCost(segments=2, pointwise=144, spatial=648), SpectrumCost(segments=3, pointwise=144, spatial=432)]
    """
    if in_channels < 1 or out_channels < 1:
        raise ArgumentError(f"spectrum_rows: channels must be 1 or more, got {in_channels} and {out_channels}")
    pointwise, kernel = in_channels * out_channels, (kernel_size, kernel_size)
    segments = [g for g in range(1, out_channels + 1) if out_channels % g == 0 or g == 3]
    rows = [(g, cost.inception_params(kernel, in_channels, out_channels, g)) for g in segments]
    return [SpectrumCost(g, pointwise, params - pointwise) for g, params in rows]


def spectrum_costs(
    in_channels: int,
    out_channels: int,
    image: tuple[int, int],
    kernel_size: int = 3,
    times: Mapping[int, Timing] | None = None,
) -> VectorFigure:
    """Parameters and MACs along the spectrum, split into the 1x1 convolution and the spatial one.

    image: height and width of the output. times: measured seconds by number of segments; with them there is a second
    panel. Raises ArgumentError for channels below 1, or for a time at no place of the spectrum. Chollet 2017, section
    1.2.

    >>> [ax.get_title("left") for ax in spectrum_costs(12, 12, (8, 8)).axes]
    ['12 to 12 channels, 3×3, on 8×8 pixels']
    """
    rows = spectrum_rows(in_channels, out_channels, kernel_size)
    unknown = set(times or ()) - {row.segments for row in rows}
    if unknown:
        raise ArgumentError(f"spectrum_costs: times are for segments of the spectrum, which has none of {unknown}")

    from .style import BLUE, GREEN, canvas

    segments = [row.segments for row in rows]
    pixels = image[0] * image[1]
    with canvas(10, 7.6 if times else 5, rows=2 if times else 1, sharex=True) as (figure, axes):
        ax = axes[0, 0]
        parts = [[row.pointwise / 1e3 for row in rows], [row.spatial / 1e3 for row in rows]]
        names = ["1×1 convolution", "spatial convolution"]
        ax.stackplot(segments, parts, labels=names, colors=[BLUE, GREEN], alpha=0.35, lw=0)
        ax.plot(segments, np.sum(parts, axis=0), color=GREEN, marker="o")
        ax.plot(segments, parts[0], color=BLUE)
        _mark_forms(ax, rows)
        ax.set_xlim(segments[0] / 1.15, segments[-1] * 1.15)
        ax.set_ylabel("parameters (thousands)")
        k = kernel_size
        ax.set_title(f"{in_channels} to {out_channels} channels, {k}×{k}, on {image[0]}×{image[1]} pixels")
        ax.legend(loc="upper right")
        scale = pixels / 1e3  # thousand parameters -> million MACs
        macs = ax.secondary_yaxis("right", functions=(lambda y: y * scale, lambda y: y / scale))
        macs.set_ylabel("MACs per image (millions)")
        if times:
            _time_panel(axes[1, 0], times)
        axes[-1, 0].set_xlabel("number of segments g of the spatial convolution (log scale)")
        for each in axes[:, 0]:
            each.set_xscale("log", base=2)
            each.set_xticks(*_ticks(segments))
            each.set_xticks([], minor=True)
            each.set_ylim(bottom=0)
            each.grid(axis="y")
    return figure


def _ticks(segments: Sequence[int]) -> tuple[list[int], list[str]]:
    """Ticks for numbers on a log scale, but for those too close to the one before."""
    shown = [segments[0]]
    for g in segments[1:]:
        if g >= 1.3 * shown[-1]:
            shown.append(g)
    return shown, [str(g) for g in shown]


def _mark_forms(ax: Any, rows: Sequence[SpectrumCost]) -> None:
    """Arrows to the forms that have a name, above the curve."""
    last = rows[-1].segments
    highest = max(row.pointwise + row.spatial for row in rows) / 1e3
    forms = {  # what it is called, how far above the curve, and on which side
        1: ("  a regular convolution behind a 1×1", 0.0, "left"),
        3: ("Inception-style", 0.2, "left"),
        last: ("a segment for each channel", 0.2, "right"),
    }
    for row in rows:
        if row.segments in forms:
            name, up, side = forms[row.segments]
            value = (row.pointwise + row.spatial) / 1e3
            arrow = {"arrowstyle": "-|>", "color": "#333333", "shrinkB": 5} if up else None
            text = (row.segments, value + up * highest)
            ax.annotate(name, (row.segments, value), text, va="center", ha=side, arrowprops=arrow)
    ax.set_ylim(0, 1.1 * highest)


def _time_panel(ax: Any, times: Mapping[int, Timing]) -> None:
    from .style import VERMILION

    segments = sorted(times)
    middle = np.array([1e3 * times[g].median for g in segments])
    low, high = ([1e3 * getattr(times[g], end) for g in segments] for end in ("low", "high"))
    spread = [middle - low, high - middle]
    ax.errorbar(segments, middle, spread, color=VERMILION, marker="s", capsize=4)
    ax.set_ylabel("measured time (ms)")


# Layer by layer -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerCost:
    """A layer with multiply-accumulates: MACs and parameters (batchnorm's not counted) of each part it is made of."""

    block: str
    name: str
    macs: dict[str, int]
    params: dict[str, int]


_NAMES = {"depthwise": "depthwise", "pointwise": "1×1", "regular": "regular", "linear": "fully connected"}
_PARTS = (*_NAMES.values(), "other")  # other: operators outside of a layer, and layers from elsewhere


def layer_rows(model: nn.Module, input_shape: tuple[int, ...]) -> list[LayerCost]:
    """The layers that multiply, in order; a separable convolution has two parts, all others one.

    >>> from minixception.models import Xception
    >>> rows = layer_rows(Xception(), (299, 299, 3))
    >>> len(rows), sum(sum(row.macs.values()) for row in rows)
    (41, 8357403496)
    """
    rows = []
    for layer in cost.layers(model, input_shape):
        if not layer.macs:
            continue
        block, _, name = layer.path.partition(".")
        if isinstance(layer.module, nn.SeparableConv2d):
            pixels = layer.output[1] * layer.output[2]
            params = {"depthwise": layer.module.depthwise.data.size, "1×1": layer.module.pointwise.data.size}
            macs = {part: count * pixels for part, count in params.items()}
        else:
            part = _NAMES.get(kind(layer.module), "other")
            params, macs = {part: sum(t.data.size for t in layer.tensors)}, {part: layer.macs}
        rows.append(LayerCost(block, name or block, macs, params))
    return rows


def layer_costs(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> VectorFigure:
    """MACs and parameters of every layer that multiplies, a bar each, from the first at the top to the last.

    Blocks are bands; entry, middle and exit flow stand beside them where the network has a run of equal blocks.
    input_shape (h, w, c): the model's own if not given; ShapeError without one.

    >>> from minixception.models import mini_xception
    >>> len(layer_costs(mini_xception()).axes)
    2
    """
    shape = input_shape or model.input_shape
    if shape is None:
        raise ShapeError(f"layer_costs: {type(model).__name__} does not know its input: give input_shape=(h, w, c)")
    rows = layer_rows(model, shape)
    counts = cost.table(model, shape)
    drawn = sum(sum(row.params.values()) for row in rows)

    from .style import canvas

    others = f"; batchnorm's {(counts.params - drawn) / 1e6:.2f} not drawn" if counts.params > drawn else ""
    words = {
        "macs": ("MACs", "MACs for one image (millions)"),
        "params": ("parameters", f"parameters (millions{others})"),
    }
    height = 1.3 + 0.17 * len(rows)
    with canvas(11, height, columns=2, sharey=True) as (figure, axes):
        for ax, measure, total in zip(axes[0], ("macs", "params"), (counts.macs, drawn), strict=True):
            _stack(ax, rows, measure)
            ax.set_title(f"{total / 1e6:,.1f} million {words[measure][0]}")
            ax.set_xlabel(words[measure][1])
            ax.margins(y=0)
            ax.grid(axis="x")
        left, right = axes[0]
        left.set_yticks(range(len(rows)), [row.name for row in rows], size=10)
        for ax in (left, right):
            ax.tick_params(axis="y", length=0)
        left.invert_yaxis()
        _bands(left, right, model, shape, rows)
        right.legend(loc="upper right")
    return figure


def _stack(ax: Any, rows: Sequence[LayerCost], measure: str) -> None:
    """Horizontal bars, the parts of a layer end to end."""
    from .style import BLUE, GREEN, GREY, ORANGE, VERMILION

    colours = dict(zip(_PARTS, (VERMILION, BLUE, GREEN, ORANGE, GREY), strict=True))
    hatches = dict(zip(_PARTS, ("", "", "///", "...", "xxx"), strict=True))
    start = np.zeros(len(rows))
    for part in _PARTS:
        values = np.array([getattr(row, measure).get(part, 0) / 1e6 for row in rows])
        there = np.flatnonzero(values)
        if there.size:
            look = {"color": colours[part], "hatch": hatches[part], "edgecolor": "white", "lw": 0}
            ax.barh(there, values[there], left=start[there], height=0.78, label=part, **look)
        start += values


def _bands(left: Any, right: Any, model: nn.Module, shape: tuple[int, ...], rows: Sequence[LayerCost]) -> None:
    """A band and a name for each block of several layers, and brackets for the flows outside of them."""
    from matplotlib.transforms import ScaledTranslation

    from .style import text_width

    def beside(points: float) -> Any:
        """Places so far to the left of the axes, at the height of a row."""
        return left.get_yaxis_transform() + ScaledTranslation(-points / 72, 0, left.figure.dpi_scale_trans)

    place, names = -0.5, 14 + max(text_width(row.name, 10) for row in rows)
    for number, (block, group) in enumerate(groupby(rows, key=lambda row: row.block)):
        size = len(list(group))
        for ax in (left, right):
            ax.axhspan(place, place + size, color="#F0F0F0" if number % 2 else "white", zorder=0, lw=0)
        if size > 1:
            left.text(0, place + size / 2, block, transform=beside(names), ha="right", va="center", size=10)
        place += size
    flow_of = {
        name: flow.title for flow in flows(nodes_of(model, shape), shape) for run in flow.runs for name in run.names
    }
    place, blocks = -0.5, names + 10 + max(text_width(row.block, 10) for row in rows)
    for title, members in groupby(rows, key=lambda row: flow_of[row.block]):
        size = len(list(members))
        if title:
            ends = [place + 0.2, place + size - 0.2]
            left.plot([0, 0], ends, transform=beside(blocks), color="#333333", lw=1.5, clip_on=False)
            words = {"ha": "right", "va": "center", "size": 12, "rotation": 90 if size > 5 else 0}
            left.text(0, place + size / 2, title, transform=beside(blocks + 5), **words)
        place += size


# Beside measured time -------------------------------------------------------------------------------------------------


class ConvolutionCost(NamedTuple):
    """One form of convolution: its parameters, its MACs for one image, and its measured time."""

    form: str
    params: int
    macs: int
    time: Timing


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
                figure_text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                label = f"{figure_text}  ({value / values[-1]:.1f}×)"
                ax.annotate(label, (end, place), (8, 0), textcoords="offset points", va="center")
            ax.set_title(title)
            ax.set_xlim(0, 1.9 * ends.max())  # room for the labels
            ax.xaxis.get_major_locator().set_params(nbins=4)
        axes[0, 0].invert_yaxis()
    return figure
