"""The tape behind a tensor as a picture: operators from top to bottom, each below what it was computed from.

The layout is that of Sugiyama et al. 1981 in its simplest form: (1) an operator's layer is the longest path that
leads to it; (2) an edge over several layers bends once in each; (3) a few sweeps order each layer by the mean
place of its neighbours, so that few edges cross; (4) a few more move each box under or above its neighbour on
the longest path. Time and memory grow with the number of boxes and bends.
"""

from __future__ import annotations

import html
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from os import PathLike

from ..errors import ArgumentError, GraphError
from ..files import atomic_path
from ..nn import Module, Parameter
from ..tensor import Node, Tensor

_SWEEPS = 8
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
    layers, chains = _layers(boxes, edges)
    _order(layers)
    _place(layers)
    return GraphPicture(_svg(boxes, chains), len(nodes))


@dataclass(eq=False)
class _Box:
    """An operator, a leaf, or (without text) a bend of a long edge; parameters are part of their operator's box.

    Pixels: x is the middle of the box without its parameters, which stand to the left of it.
    """

    kind: str
    lines: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    layer: int = 0
    x: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    above: list[_Box] = field(default_factory=list)  # neighbours one layer up and down, bends included
    below: list[_Box] = field(default_factory=list)

    @property
    def half(self) -> float:
        return _text_width(self.lines) / 2

    @property
    def left(self) -> float:
        """Pixels from the centre to the left end, parameters included."""
        return self.half + (_text_width(self.params) + _PARAM_GAP if self.params else 0)

    @property
    def height(self) -> float:
        return _text_height(max(len(self.lines), len(self.params)))


def _text_width(lines: tuple[str, ...]) -> float:
    return max(map(len, lines)) * _CHAR + 2 * _PAD if lines else 0


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
        box = _Box("operator", (node.op.name, str(node.shape)), labels)
        for parent in node.parents:
            if parent is None or isinstance(parent, Parameter):
                continue
            if parent not in boxes:  # a leaf: nodes come after their parents
                assert isinstance(parent, Tensor)
                boxes[parent] = _Box("leaf", (names.get(parent, "leaf"), str(parent.shape)))
            edges.append((boxes[parent], box))
        boxes[node] = box
    return list(boxes.values()), edges


# Where to draw it -------------------------------------------------------------------------------------------


def _layers(boxes: list[_Box], edges: list[tuple[_Box, _Box]]) -> tuple[list[list[_Box]], list[list[_Box]]]:
    """Boxes and bends by layer, and each edge as a chain of boxes; links neighbours to each other."""
    first_use: dict[_Box, int] = {}
    for parent, child in edges:  # children in order of creation: the parent's layer is final
        child.layer = max(child.layer, parent.layer + 1)
    for parent, child in edges:
        if parent.kind == "leaf":
            first_use[parent] = min(child.layer, first_use.get(parent, child.layer))
    for leaf, layer in first_use.items():
        leaf.layer = layer - 1

    layers: list[list[_Box]] = [[] for _ in range(1 + max(box.layer for box in boxes))]
    for box in boxes:
        layers[box.layer].append(box)
    chains = []
    for parent, child in edges:
        bends = [_Box("bend", layer=i) for i in range(parent.layer + 1, child.layer)]
        for bend in bends:
            layers[bend.layer].append(bend)
        chains.append([parent, *bends, child])
        for upper, lower in pairwise(chains[-1]):
            upper.below.append(lower)
            lower.above.append(upper)
    return layers, chains


def _order(layers: list[list[_Box]]) -> None:
    """Sort each layer by the mean position of its neighbours, down and up in turn."""
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        position: dict[_Box, float] = {}
        for layer in layers if down else reversed(layers):
            position |= {box: i for i, box in enumerate(layer)}
            layer.sort(key=lambda box: _mean([position[b] for b in (box.above if down else box.below)], position[box]))
            position |= {box: i for i, box in enumerate(layer)}


def _place(layers: list[list[_Box]]) -> None:
    """Set x, top and bottom of every box, and keep the longest path through the picture as straight as it can be."""
    above = _longest_paths(layers, lambda box: box.above)
    below = _longest_paths(layers[::-1], lambda box: box.below)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 1
        length = above if down else below
        for layer in layers if down else reversed(layers):
            wanted = []
            for box in layer:
                near = box.above if down else box.below
                main = [b.x for b in near if length[b] == max(map(length.__getitem__, near))]
                wanted.append(_mean(main, box.x))
            gaps = [a.half + _GAP + b.left for a, b in pairwise(layer)]
            for box, x in zip(layer, _spread(wanted, gaps, [above[b] + below[b] for b in layer]), strict=True):
                box.x = x
    top = float(_GAP)
    for layer in layers:
        row = max(box.height for box in layer)
        for box in layer:
            height = row if box.kind == "bend" else box.height
            box.top = top + (row - height) / 2
            box.bottom = box.top + height
        top += row + _ROW_GAP


def _longest_paths(layers: list[list[_Box]], before: Callable[[_Box], list[_Box]]) -> dict[_Box, int]:
    """Boxes, not counting bends, on the longest path that leads to each box from the first of these layers on."""
    length: dict[_Box, int] = {}
    for layer in layers:
        for box in layer:
            length[box] = max((length[b] for b in before(box)), default=0) + (box.kind != "bend")
    return length


def _spread(wanted: list[float], gaps: list[float], priority: list[float]) -> list[float]:
    """Places near the wanted ones but at least the gaps apart; of two in conflict the one of lower priority gives way.

    Less the sum of the gaps to its left, a place only has to be no smaller than the one before: isotonic regression,
    solved by pooling neighbours that are in the wrong order until none is left.

    >>> [round(x) for x in _spread([5, 5, 9], gaps=[2, 2], priority=[1, 3, 2])]
    [3, 5, 9]
    >>> _spread([5, 5], gaps=[2], priority=[1, 1])
    [4.0, 6.0]
    """
    offsets = list(accumulate(gaps, initial=0.0))
    pools: list[tuple[float, float, int]] = []  # (place, weight, members)
    for x, offset, p in zip(wanted, offsets, priority, strict=True):
        place, weight, members = x - offset, 10.0 ** max(6 * (p - max(priority)), -12), 1
        while pools and pools[-1][0] > place:
            before, more_weight, more = pools.pop()
            place = (before * more_weight + place * weight) / (more_weight + weight)
            weight, members = weight + more_weight, members + more
        pools.append((place, weight, members))
    places = [place for place, _, members in pools for _ in range(members)]
    return [place + offset for place, offset in zip(places, offsets, strict=True)]


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


# Drawing it -------------------------------------------------------------------------------------------------

_FILL = {"operator": "#E3F0F9", "leaf": "#FFF3D6", "param": "#FFFFFF"}
_EDGE = {"operator": "#0072B2", "leaf": "#B87A00", "param": "#666666"}


def _svg(boxes: list[_Box], chains: list[list[_Box]]) -> str:
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


def _arrows(chains: list[list[_Box]]) -> list[str]:
    """Each edge as a curve from the middle of a box through its bends to a place of its own on the next box."""
    arriving: dict[_Box, list[list[_Box]]] = defaultdict(list)
    for chain in chains:
        arriving[chain[-1]].append(chain)
    parts = []
    for box, arrivals in arriving.items():
        arrivals.sort(key=lambda chain: chain[-2].x)  # so that they do not cross at the end
        for (parent, *bends, _), end in zip(arrivals, _ends(box, arrivals), strict=True):
            x, y, path = parent.x, parent.bottom, f"M{parent.x:.1f} {parent.bottom:.1f}"
            for bend in bends:
                path += f"{_curve(x, y, bend.x, bend.top)}V{bend.bottom:.1f}"
                x, y = bend.x, bend.bottom
            parts.append(_line(path + _curve(x, y, end, box.top - 6)))
            parts.append(_head(f"M{end:.1f} {box.top:.1f}l-5 -9h10z"))
    return parts


def _ends(box: _Box, arrivals: list[list[_Box]]) -> list[float]:
    """Where edges end on a box, from left to right: straight below where they come from, if that is on the box."""
    last = len(arrivals) - 1
    room = box.half - _PAD if last else 0.0  # an edge of its own ends in the middle
    gap = min(24.0, 2 * room / max(last, 1))
    wanted = [
        min(max(chain[-2].x, box.x - room + i * gap), box.x + room - (last - i) * gap)
        for i, chain in enumerate(arrivals)
    ]
    return _spread(wanted, [gap] * last, [-abs(x - box.x) for x in wanted])


def _curve(x0: float, y0: float, x1: float, y1: float) -> str:
    middle = (y0 + y1) / 2
    return f"C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}"


def _line(path: str) -> str:
    return f'<path d="{path}" fill="none" stroke="#333333" stroke-width="1.8"/>'


def _head(path: str) -> str:
    return f'<path d="{path}" fill="#333333"/>'
