"""The tape behind a tensor as a picture: operators from top to bottom, each below what it was computed from.

Where they stand is layout.py's work; this file says what is drawn, and draws it as SVG.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

from ..errors import ArgumentError, GraphError
from ..files import atomic_path
from ..nn import Module, Parameter
from ..tensor import Node, Tensor
from .layout import Box, arrange, routes

_FONT, _CHAR, _LINE = 16, 9.8, 21  # pixels: size of the monospaced letters, their advance, the line height
_PAD, _GAP = 10, 30  # pixels: inside of a box, and between boxes
_PARAM_GAP = 26  # pixels: the arrow from parameters to their operator
_ROW_GAP = 34  # pixels: between layers
_FONTS = "DejaVu Sans Mono, Menlo, Consolas, monospace"


@dataclass(frozen=True)
class GraphPicture:
    """A drawn tape: shows itself in a notebook, or goes into a file; ``svg`` is the picture's text."""

    svg: str
    operators: int

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return f"GraphPicture of {self.operators} operators"

    def save(self, path: str | PathLike[str]) -> None:
        """Write the SVG file, whole or not at all."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.svg, encoding="utf-8")


def graph(tensor: Tensor, names: Module | Mapping[str, Module | Tensor] | None = None) -> GraphPicture:
    """Draw how a tensor was computed: every operator on its tape with its output's shape, and every leaf.

    names: the model, or a dict of models and tensors, to call the leaves by name. Parameters stand beside the
    operator that uses them. Only what a gradient flows through is on the tape: an input without requires_grad
    does not appear. Works before and after backward(). Raises GraphError for a tensor without a tape,
    ArgumentError for names that are no tensors or modules.

    >>> import minixception as mx
    >>> x = mx.tensor([1.0, 2.0], requires_grad=True)
    >>> graph((x * x).sum(), {"x": x})
    GraphPicture of 2 operators
    """
    if tensor.node is None:
        raise GraphError(
            "graph() found no tape to draw: the tensor is a leaf, was computed under no_grad(), was detached, or "
            "comes only from tensors without requires_grad"
        )
    nodes = _nodes_behind(tensor.node)
    boxes, edges = _boxes(nodes, _leaf_names(names))
    chains = arrange(boxes, edges, _GAP, _ROW_GAP)
    return GraphPicture(_svg(boxes, chains), len(nodes))


@dataclass(eq=False)
class _Box(Box):
    """An operator or a leaf, in pixels; its parameters stand to the left of it."""

    kind: str = "operator"
    lines: tuple[str, ...] = ()
    params: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.half = _text_width(self.lines) / 2
        self.left = self.half + (_text_width(self.params) + _PARAM_GAP if self.params else 0)
        self.height = _text_height(max(len(self.lines), len(self.params)))


def _text_width(lines: tuple[str, ...]) -> float:
    return max(map(len, lines)) * _CHAR + 2 * _PAD


def _text_height(lines: int) -> float:
    return lines * _LINE + 2 * _PAD


# What to draw -----------------------------------------------------------------------------------------------


def _nodes_behind(last: Node) -> list[Node]:
    """All nodes that lead to the last one, in order of creation: parents first."""
    found, pending = {last}, [last]
    while pending:
        new = [parent for parent in pending.pop().parents if isinstance(parent, Node) and parent not in found]
        found.update(new)
        pending += new
    return sorted(found, key=lambda node: node.order)


def _leaf_names(names: Module | Mapping[str, Module | Tensor] | None) -> dict[Tensor, str]:
    """What each tensor is called."""
    result: dict[Tensor, str] = {}
    for name, value in {"": names}.items() if isinstance(names, Module) else (names or {}).items():
        if isinstance(value, Module):
            result.update((t, f"{name}.{path}".lstrip(".")) for path, t in value.named_tensors())
        elif isinstance(value, Tensor):
            result[value] = name
        else:
            raise ArgumentError(f"graph: names must be tensors or modules, {name!r} is a {type(value).__name__}")
    return result


def _boxes(nodes: list[Node], names: dict[Tensor, str]) -> tuple[list[_Box], list[tuple[_Box, _Box]]]:
    """A box per operator and per leaf that is no parameter, and the edges between them."""
    boxes: dict[Node | Tensor, _Box] = {}
    edges = []
    for node in nodes:
        params = [p for p in node.parents if isinstance(p, Parameter)]
        labels = tuple(f"{names.get(p, 'parameter')} {p.shape}" for p in params)
        box = _Box(kind="operator", lines=(node.op.name, str(node.shape)), params=labels)
        for parent in node.parents:
            if parent is None or isinstance(parent, Parameter):
                continue
            if parent not in boxes:  # a leaf: nodes come after their parents
                assert isinstance(parent, Tensor)
                boxes[parent] = _Box(kind="leaf", lines=(names.get(parent, "leaf"), str(parent.shape)))
            edges.append((boxes[parent], box))
        boxes[node] = box
    return list(boxes.values()), edges


# Drawing it -------------------------------------------------------------------------------------------------

_FILL = {"operator": "#E3F0F9", "leaf": "#FFF3D6", "param": "#FFFFFF"}
_EDGE = {"operator": "#0072B2", "leaf": "#B87A00", "param": "#666666"}


def _svg(boxes: list[_Box], chains: list[list[Box]]) -> str:
    """The whole picture as SVG, on white, so that a dark notebook shows the same."""
    everything = [box for chain in chains for box in chain] + boxes
    x0 = min(box.x - box.left for box in everything) - _GAP
    x1 = max(box.x + box.half for box in everything) + _GAP
    height = max(box.bottom for box in everything) + _GAP
    parts = [*_arrows(chains), *(part for box in boxes for part in _drawn(box))]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{x1 - x0:.0f}" height="{height:.0f}" '
        f'viewBox="{x0:.0f} 0 {x1 - x0:.0f} {height:.0f}" font-family="{_FONTS}" font-size="{_FONT}" '
        f'role="img" aria-label="The tape: operators from top to bottom">'
        f'<rect x="{x0:.0f}" width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _drawn(box: _Box) -> list[str]:
    """An operator, square, with its parameters, dashed, to the left of it; or a leaf, round."""
    parts = [_text_box(box.kind, box.lines, box.x - box.half, box.top, box.bottom)]
    if box.params:
        x, middle = box.x - box.left, (box.top + box.bottom) / 2
        parts.append(_text_box("param", box.params, x, box.top, box.bottom))
        end = box.x - box.half
        parts.append(_line(f"M{end - _PARAM_GAP:.1f} {middle:.1f}H{end - 6:.1f}"))
        parts.append(_head(f"M{end:.1f} {middle:.1f}l-9 -5v10z"))
    return parts


def _text_box(kind: str, lines: tuple[str, ...], x: float, top: float, bottom: float) -> str:
    width, height = _text_width(lines), bottom - top
    look = {"operator": 'rx="4"', "leaf": f'rx="{height / 2}"', "param": 'stroke-dasharray="5 4"'}[kind]
    first = (top + bottom) / 2 - _LINE * (len(lines) - 1) / 2 + 0.35 * _FONT  # baseline of the first line
    bold = "" if kind == "param" else 'font-weight="bold"'
    text = "".join(
        f'<text x="{x + width / 2:.1f}" y="{first + i * _LINE:.1f}" text-anchor="middle" '
        f"{bold if i == 0 else ''}>{html.escape(line)}</text>"
        for i, line in enumerate(lines)
    )
    return (
        f'<rect x="{x:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" {look} '
        f'fill="{_FILL[kind]}" stroke="{_EDGE[kind]}" stroke-width="1.5"/>{text}'
    )


def _arrows(chains: list[list[Box]]) -> list[str]:
    """Each edge as a curve from the middle of a box through its bends to a place of its own on the next box."""
    parts = []
    for points in routes(chains, _PAD):
        (x, y), *rest, (end, top) = points
        path = f"M{x:.1f} {y:.1f}"
        for (x1, y1), (_, y2) in zip(rest[::2], rest[1::2], strict=True):  # into a bend, and out of it
            path += f"{_curve(x, y, x1, y1)}V{y2:.1f}"
            x, y = x1, y2
        parts.append(_line(path + _curve(x, y, end, top - 6)))
        parts.append(_head(f"M{end:.1f} {top:.1f}l-5 -9h10z"))
    return parts


def _curve(x0: float, y0: float, x1: float, y1: float) -> str:
    middle = (y0 + y1) / 2
    return f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"


def _line(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#333333" stroke-width="1.8"/>'


def _head(path: str) -> str:
    return f'<path d="{path}" fill="#333333"/>'
