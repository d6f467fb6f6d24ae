"""Boxes with text, and arrows between them, on a page of points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .layout import Box, Point, routes

SIZE, SMALL = 11.0, 10.0  # points: a box's first line, and the line below it
GAP, ROW_GAP = 14.0, 24.0  # points: between boxes, and between layers
_PAD = 7.0  # points between a box and its text
_LINE = 15.0  # points from line to line
_HEAD = 6.0  # points of an arrow before its tip, in which it is straight

# Edge and fill by what a box is; wherever the colour carries meaning, the box's text says the same.
_LOOKS = {
    "regular": ("#009E73", "#D5EFE6"),
    "pointwise": ("#0072B2", "#D6E8F5"),
    "depthwise": ("#D55E00", "#FBE3D2"),
    "separable": ("#D55E00", "#FBE3D2"),
    "linear": ("#B37A00", "#FBEFD0"),
    "value": ("#333333", "#FFFFFF"),
    "join": ("#333333", "#FFFFFF"),
    "other": ("#666666", "#EEEEEE"),
}


@dataclass(eq=False)
class TextBox(Box):
    """What a layer does, on the first line, and what follows it at once, on a second.

    kind: one of the looks; "value" is a tensor, a round box, and "more" stands for boxes left out, without a frame.
    """

    kind: str = "other"
    title: str = ""
    details: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [self.title, *([", ".join(self.details)] if self.details else [])]


def measure(boxes: Sequence[TextBox], one_line: bool = False) -> None:
    """Give boxes the size of their text, those that begin alike the same; one_line: with all text on the first."""
    from .style import text_width

    widest: dict[str, float] = {}
    for box in boxes:
        if one_line:
            box.title, box.details = " · ".join([box.title, *box.details]), []
        width = max(text_width(line, size) for line, size in zip(box.lines, (SIZE, SMALL), strict=False))
        box.height = _LINE * len(box.lines) + (0.3 * _PAD if one_line else _PAD)
        widest[box.title] = max(widest.get(box.title, 0.0), width / 2 + _PAD, box.height / 2)
    for box in boxes:
        box.half = box.left = widest[box.title]


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
        rounding = 10 if box.kind in ("value", "join") else 3
        style = f"round,pad=0,rounding_size={rounding}"
        frame = FancyBboxPatch((box.x - box.half, box.top), 2 * box.half, box.height, boxstyle=style, gid="box")
        frame.set(edgecolor=edge, facecolor=fill, linewidth=1.2, zorder=3)
        ax.add_patch(frame)
    middle = (box.top + box.bottom) / 2
    first = middle - _LINE * (len(box.lines) - 1) / 2
    for i, (line, size) in enumerate(zip(box.lines, (SIZE, SMALL), strict=False)):
        place = (box.x, first + i * _LINE)
        ax.text(*place, line, size=size, ha="center", va="center_baseline", zorder=4, color="#333333" if i else "black")


def _draw_arrow(ax: Any, points: Sequence[Point]) -> None:
    """A curve into each bend, a straight line through it, and a head at the end."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    (x, y), *between, (end, tip) = points
    vertices, codes = [(x, y)], [Path.MOVETO]
    for i, (x1, y1) in enumerate([*between, (end, tip - _HEAD), (end, tip)]):
        if i % 2 == 0:
            middle = (y + y1) / 2
            vertices += [(x, middle), (x1, middle), (x1, y1)]
            codes += [Path.CURVE4] * 3
        else:
            vertices.append((x1, y1))
            codes.append(Path.LINETO)
        x, y = x1, y1
    arrow = FancyArrowPatch(path=Path(vertices, codes), arrowstyle="-|>", mutation_scale=9, lw=1.1, color="#333333")
    arrow.set(gid="arrow", zorder=2)
    ax.add_patch(arrow)
