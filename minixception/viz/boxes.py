"""Boxes with text, and arrows between them, on a page of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .layout import Box, Point, routes

if TYPE_CHECKING:
    from .style import VectorFigure

SIZE, SMALL = 11.0, 10.0  # points: a box's first line, and the line below it
GAP, ROW_GAP = 14.0, 24.0  # points: between boxes, and between layers
_PAD = 7.0  # points between a box and its text
_LINE = 15.0  # points from line to line
_TIP = 6.0  # points of an arrow before its tip, in which it is straight
MARGIN, HEAD = 14.0, 26.0  # points: around the picture, and a line of headings

ARROW: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "lw": 1.1, "color": "#333333"}

# Edge and fill by what a box is; wherever the colour carries meaning, the box's text says the same.
_LOOKS = {
    "regular": ("#009E73", "#D5EFE6"),
    "pointwise": ("#0072B2", "#D6E8F5"),
    "depthwise": ("#D55E00", "#FBE3D2"),
    "separable": ("#D55E00", "#FBE3D2"),
    "linear": ("#B37A00", "#FBEFD0"),
    "operator": ("#0072B2", "#D6E8F5"),
    "leaf": ("#B37A00", "#FBEFD0"),
    "params": ("#666666", "#FFFFFF"),
    "value": ("#333333", "#FFFFFF"),
    "join": ("#333333", "#FFFFFF"),
    "other": ("#666666", "#EEEEEE"),
}


@dataclass(eq=False)
class TextBox(Box):
    """What a layer does, on the first line, and what follows it at once, on a second.

    kind: one of the looks. A "value" and a "leaf" are tensors, round boxes; "params" have a dashed frame; "more" stands
    for boxes left out, without a frame.
    """

    kind: str = "other"
    title: str = ""
    details: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [self.title, *([", ".join(self.details)] if self.details else [])]

    @property
    def sizes(self) -> tuple[float, float]:
        """Of the letters of the two lines."""
        return SMALL if self.kind == "params" else SIZE, SMALL


def measure(boxes: Sequence[TextBox], one_line: bool = False) -> None:
    """Give boxes the size of their text, those that begin alike the same; one_line: with all text on the first."""
    from .style import text_width

    widest: dict[str, float] = {}
    for box in boxes:
        if one_line:
            box.title, box.details = " · ".join([box.title, *box.details]), []
        width = max(text_width(line, size) for line, size in zip(box.lines, box.sizes, strict=False))
        box.height = _LINE * len(box.lines) + (0.3 * _PAD if one_line else _PAD)
        widest[box.title] = max(widest.get(box.title, 0.0), width / 2 + _PAD, box.height / 2)
    for box in boxes:
        box.half = box.left = widest[box.title]


def picture(boxes: Sequence[TextBox], chains: Sequence[Sequence[Box]], title: str = "") -> VectorFigure:
    """A page as large as what ``arrange`` has placed, with all of it drawn."""
    from .style import page, text_width

    left, right, bottom = extent(chains)
    head = HEAD if title else 0.0
    width = max(right - left, text_width(title, 12)) + 2 * MARGIN
    shift(chains, (width - right - left) / 2, head)
    with page(width, bottom + head + MARGIN) as (figure, ax):
        draw(ax, boxes, chains)
        if title:
            ax.text(MARGIN, HEAD - 6, title, size=12)
    return figure


def extent(chains: Sequence[Sequence[Box]]) -> tuple[float, float, float]:
    """Left end, right end and bottom of all boxes."""
    boxes = [box for chain in chains for box in chain]
    bottom = max(box.bottom for box in boxes)
    return min(box.x - box.left for box in boxes), max(box.x + box.half for box in boxes), bottom


def shift(chains: Sequence[Sequence[Box]], right: float, down: float) -> None:
    """Move all boxes."""
    for box in {box for chain in chains for box in chain}:
        box.x += right
        box.top += down
        box.bottom += down


def draw(ax: Any, boxes: Sequence[TextBox], chains: Sequence[Sequence[Box]]) -> None:
    """Arrows first, then boxes over them, where ``arrange`` has put them."""
    for points in routes(chains, _PAD):
        _draw_arrow(ax, points)
    for box in boxes:
        _draw_box(ax, box)


def _draw_box(ax: Any, box: TextBox) -> None:
    from matplotlib.patches import FancyBboxPatch

    if box.kind != "more":
        edge, fill = _LOOKS[box.kind]
        rounding = 10 if box.kind in ("value", "join", "leaf") else 3
        style = f"round,pad=0,rounding_size={rounding}"
        frame = FancyBboxPatch((box.x - box.half, box.top), 2 * box.half, box.height, boxstyle=style, gid="box")
        line = "--" if box.kind == "params" else "-"
        frame.set(edgecolor=edge, facecolor=fill, linewidth=1.2, linestyle=line, zorder=3)
        ax.add_patch(frame)
    middle = (box.top + box.bottom) / 2
    first = middle - _LINE * (len(box.lines) - 1) / 2
    for i, (line, size) in enumerate(zip(box.lines, box.sizes, strict=False)):
        look = {"size": size, "color": "#333333" if i else "black", "zorder": 4, "parse_math": False}
        ax.text(box.x, first + i * _LINE, line, ha="center", va="center_baseline", **look)


def _draw_arrow(ax: Any, points: Sequence[Point]) -> None:
    """A curve into each bend, a straight line through it, and a head at the end."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    (x, y), *between, (end, tip) = points
    vertices, codes = [(x, y)], [Path.MOVETO]
    for i, (x1, y1) in enumerate([*between, (end, tip - _TIP), (end, tip)]):
        if i % 2 == 0:
            middle = (y + y1) / 2
            vertices += [(x, middle), (x1, middle), (x1, y1)]
            codes += [Path.CURVE4] * 3
        else:
            vertices.append((x1, y1))
            codes.append(Path.LINETO)
        x, y = x1, y1
    ax.add_patch(FancyArrowPatch(path=Path(vertices, codes), gid="arrow", zorder=2, **ARROW))
