"""Modules and networks drawn from the objects: boxes for layers, arrows for what goes from one to the next."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ShapeError
from ..graph.cost import table
from ..nn import Module
from .boxes import GAP, HEAD, MARGIN, ROW_GAP, SIZE, TextBox, draw, extent, measure, picture, shift
from .layout import Box, arrange
from .structure import Drawing, Flow, Run, add_nodes, count_uses, flows, nodes_of, value_box

if TYPE_CHECKING:
    from .style import VectorFigure

_FRAME = 5.0  # points between a block's frame and its boxes


def module(module: Module, input_shape: tuple[int, ...], title: str = "") -> VectorFigure:
    """Any module as boxes and arrows, from its input (h, w, c) at the top to its output at the bottom.

    Nothing is stored: the module runs on shapes, and what ran is drawn. Batchnorm and activation stand in the box of
    the convolution they follow. A spatial convolution on separate segments of the channels is drawn as one for each
    segment and their concatenation, as in figures 3 and 4 of Chollet 2017. Raises ShapeError for a shape that does not
    fit.

    >>> from minixception import nn
    >>> figure = module(nn.InceptionModule(16, 24, form=3), (8, 8, 16))
    >>> sum(patch.get_gid() == "box" for patch in figure.axes[0].patches)  # input, 1x1, 3 segments, concat, output
    7
    """
    nodes = nodes_of(module, input_shape)
    drawing = Drawing()
    drawing.makers[0] = drawing.add(value_box((1, *input_shape)))
    add_nodes(drawing, nodes, count_uses(nodes))
    drawing.add(value_box(nodes[-1].output), [drawing.makers[nodes[-1].makes]])
    measure(drawing.boxes)
    chains = arrange(drawing.boxes, drawing.edges, GAP, ROW_GAP)
    return picture(drawing.boxes, chains, title)


def architecture(model: Module, input_shape: tuple[int, ...] | None = None) -> VectorFigure:
    """A network of blocks one after the other, in columns: entry, middle and exit flow, as figure 5 of Chollet 2017.

    The middle flow is the longest run of equal blocks, three or more, drawn once; without one there is one column.
    input_shape (h, w, c): the model's own if not given; ShapeError without one. ArgumentError where a block reads from
    others than the one before.

    >>> from minixception.models import mini_xception
    >>> [text.get_text() for text in architecture(mini_xception()).axes[0].texts if "flow" in text.get_text()]
    ['Entry flow', 'Middle flow', 'Exit flow']
    """
    shape = input_shape or model.input_shape
    if shape is None:
        raise ShapeError(f"architecture: {type(model).__name__} does not know its input: give input_shape=(h, w, c)")
    nodes = nodes_of(model, shape)
    columns = [_Column.of(flow, count_uses(nodes)) for flow in flows(nodes, shape)]
    counts = table(model, shape)
    title = (
        f"{type(model).__name__}: {counts.params:,} parameters, {counts.macs / 1e6:,.0f} million MACs for one image of "
        f"{'×'.join(map(str, shape))}"
    )

    from .style import page, text_width

    x = 0.0
    for column in columns:
        left, right, _ = column.bounds
        shift(column.chains, x + MARGIN - left, 2 * HEAD)
        x += right - left + 2 * MARGIN
    width = max(x, text_width(title, 12) + 2 * MARGIN)
    with page(width, max(column.bounds[2] for column in columns) + MARGIN) as (figure, ax):
        ax.text(MARGIN, HEAD - 4, title, size=12, gid="title")
        for column in columns:
            column.draw(ax)
    return figure


@dataclass
class _Column:
    """A flow and its boxes; frames: the boxes of each block that is more than one."""

    flow: Flow
    boxes: list[TextBox]
    chains: list[list[Box]]
    frames: list[tuple[Run, list[TextBox]]]

    @classmethod
    def of(cls, flow: Flow, uses: Counter[int]) -> _Column:
        """Boxes and arrows of a flow, placed."""
        drawing = Drawing()
        first, last = flow.runs[0], flow.runs[-1]
        latest = drawing.add(value_box(first.shapes[0]))
        frames = []
        for run in flow.runs:
            entering = next(value for node in run.nodes for value in node.reads)
            drawing.makers[entering] = latest
            before = len(drawing.boxes)
            add_nodes(drawing, run.nodes, uses)
            latest = drawing.makers[run.nodes[-1].makes]
            frames.append((run, drawing.boxes[before:]))
        drawing.add(value_box(last.shapes[1]), [latest])
        measure(drawing.boxes, one_line=True)
        chains = arrange(drawing.boxes, drawing.edges, GAP, 0.6 * ROW_GAP)
        return cls(flow, drawing.boxes, chains, [(run, boxes) for run, boxes in frames if len(boxes) > 1])

    @property
    def bounds(self) -> tuple[float, float, float]:
        """Left and right end, with the blocks' names, and the bottom."""
        left, right, bottom = extent(self.chains)
        return left - _FRAME - 1.6 * SIZE, right + _FRAME, bottom

    def draw(self, ax: Any) -> None:
        """Frames with their names, and boxes over them."""
        from matplotlib.patches import Rectangle

        draw(ax, self.boxes, self.chains)
        left, _, _ = self.bounds
        ax.text(left, 2 * HEAD - 2, self.flow.title, size=13)
        for run, boxes in self.frames:
            layers = {box.layer for box in boxes}
            inside = [box for chain in self.chains for box in chain if box.layer in layers]
            x, right, bottom = extent([inside])
            top = min(box.top for box in boxes)
            place, size = (x - _FRAME, top - _FRAME), (right - x + 2 * _FRAME, bottom - top + 2 * _FRAME)
            ax.add_patch(Rectangle(place, *size, facecolor="#F6F6F6", edgecolor="#BBBBBB", lw=1, gid="block", zorder=1))
            name = run.names[0] if len(run.names) == 1 else f"{run.names[0]} to {run.names[-1]}, {len(run.names)} times"
            middle = (top + bottom) / 2
            ax.text(x - _FRAME - 4, middle, name, size=SIZE, rotation=90, ha="right", va="center")
