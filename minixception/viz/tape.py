"""The tape behind a tensor as a picture: operators from top to bottom, each below what it was computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..engine.tape import Node
from ..engine.tensor import Tensor
from ..errors import ArgumentError, GraphError
from ..nn import Module, Parameter
from .boxes import ARROW, GAP, ROW_GAP, TextBox, draw, measure, picture
from .layout import arrange

if TYPE_CHECKING:
    from .style import VectorFigure

_PARAMS_GAP = 22.0  # points: the arrow from parameters to their operator


def graph(tensor: Tensor, names: Module | Mapping[str, Module | Tensor] | None = None) -> VectorFigure:
    """Draw how a tensor was computed: every operator on its tape with its output's shape, and every leaf.

    names: the model, or a dict of models and tensors, to call the leaves by name. Parameters stand beside the
    operator that uses them. Only what a gradient flows through is on the tape: an input without requires_grad
    does not appear. Works before and after backward(). Raises GraphError for a tensor without a tape,
    ArgumentError for names that are no tensors or modules.

    >>> import minixception as mx
    >>> x = mx.tensor([1.0, 2.0], requires_grad=True)
    >>> [text.get_text() for text in graph((x * x).sum(), {"x": x}).axes[0].texts]
    ['x', '(2,)', 'multiply', '(2,)', 'sum', '()']
    """
    if tensor.node is None:
        raise GraphError(
            "graph() found no tape to draw: the tensor is a leaf, was computed under no_grad(), was detached, or "
            "comes only from tensors without requires_grad"
        )
    boxes, edges = _boxes(_nodes_behind(tensor.node), _leaf_names(names))
    measure(boxes)
    params = [box.params for box in boxes if box.params]
    measure(params)
    for box in boxes:
        box.make_room()
    figure = picture(boxes, arrange(boxes, edges, GAP, ROW_GAP))
    for box in boxes:
        if box.params:
            _draw_params(figure.axes[0], box, box.params)
    return figure


@dataclass(eq=False)
class _Box(TextBox):
    """An operator or a leaf; its parameters stand to the left of it."""

    params: TextBox | None = None

    def make_room(self) -> None:
        """For the parameters."""
        if self.params:
            self.left = self.half + _PARAMS_GAP + 2 * self.params.half
            self.height = self.params.height = max(self.height, self.params.height)


def _draw_params(ax: Any, box: _Box, params: TextBox) -> None:
    """Beside their operator, where it has been placed, and an arrow."""
    from matplotlib.patches import FancyArrowPatch

    params.x, params.top, params.bottom = box.x - box.left + params.half, box.top, box.bottom
    draw(ax, [params], [])
    middle, end = (box.top + box.bottom) / 2, box.x - box.half
    ax.add_patch(
        FancyArrowPatch((end - _PARAMS_GAP, middle), (end, middle), gid="params", shrinkA=0, shrinkB=0, **ARROW)
    )


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
        labels = [f"{names.get(p, 'parameter')} {p.shape}" for p in node.parents if isinstance(p, Parameter)]
        params = TextBox(kind="params", title=labels[0], details=labels[1:]) if labels else None
        box = _Box(kind="operator", title=node.op.name, details=[str(node.shape)], params=params)
        for parent in node.parents:
            if parent is None or isinstance(parent, Parameter):
                continue
            if parent not in boxes:  # a leaf: nodes come after their parents
                assert isinstance(parent, Tensor)
                boxes[parent] = _Box(kind="leaf", title=names.get(parent, "leaf"), details=[str(parent.shape)])
            edges.append((boxes[parent], box))
        boxes[node] = box
    return list(boxes.values()), edges
