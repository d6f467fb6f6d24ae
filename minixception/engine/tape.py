"""The tape: what was computed, and the walk back over it.

An operator that runs on tensors leaves a ``Node`` behind: the rung that ran, the arrays its backward pass
needs, and edges to the nodes that made its inputs. ``backward()`` walks these nodes from the newest to the oldest.
Nodes are numbered in order of creation, and an input is always created before what is computed from it, so
popping the highest number from a heap *is* a topological order: no recursion, no marking.

What keeps memory low:
- An edge leads to the parent's *node*, not to its tensor: an activation that no backward pass saved is freed
  as soon as the forward pass drops it.
- No node refers to its own output, so there are no reference cycles, and backward() drops each node's saved
  arrays the moment they have been used.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import GraphError
from ..gpu.device import copy, is_on_gpu, is_writable, share_memory
from ..gpu.device import to as move
from .accumulate import accumulate

if TYPE_CHECKING:
    from .op import Op
    from .tensor import Tensor

_creation = itertools.count()
_recording: ContextVar[bool] = ContextVar("recording", default=True)
_USED = object()  # takes the place of a node's saved arrays once backward() has consumed them


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Run without recording: results have no path back, and nothing is kept for a backward pass.

    >>> import minixception as mx
    >>> x = mx.tensor([1.0, 2.0], requires_grad=True)
    >>> with no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def is_recording() -> bool:
    """Whether operators record themselves on the tape here: False inside of ``no_grad()``."""
    return _recording.get()


class Node:
    """One recorded operation: how to run it backward, what that needs, and where the gradients go."""

    __slots__ = ("__weakref__", "backward", "op", "order", "output", "parents", "saved", "shape")

    def __init__(
        self,
        op: Op,
        backward: Callable[..., Any],
        saved: Any,
        parents: tuple[Node | Tensor | None, ...],
        shape: tuple[int, ...],
    ) -> None:
        self.op = op
        self.backward = backward
        self.saved = saved
        self.parents = parents  # a Node, a leaf Tensor, or None where no gradient is wanted
        self.shape = shape
        self.order = next(_creation)
        self.output: weakref.ref[Tensor] | None = None  # set by retain_grad() only


def backward(root: Tensor, seed: np.ndarray) -> None:
    """Pop nodes newest first; hand each one's gradients on to its parents. seed: the gradient of the root."""
    if root.node is None:
        _accumulate_leaf(root, seed, seed)
        return
    pending = _Pending()
    pending.add(root.node, seed, ours=False)
    while pending:
        node, dy = pending.pop()
        if node.saved is _USED:
            raise GraphError(
                f"backward() reached {node.op.name} a second time: its saved arrays were freed by the first "
                "backward(). Run the forward pass again, or add the losses and call backward() once"
            )
        output = node.output() if node.output else None
        if output is not None:
            _accumulate_leaf(output, dy, dy)
        gradients = node.backward(dy, node.saved)
        node.saved = _USED
        identities = list(map(id, gradients))  # one array may be the gradient of two inputs
        for parent, gradient in zip(node.parents, gradients, strict=True):
            if parent is None:
                continue
            if not isinstance(parent, Node):
                _accumulate_leaf(parent, gradient, dy)
            else:
                fresh = is_writable(gradient) and not share_memory(gradient, dy)
                pending.add(parent, gradient, ours=fresh and identities.count(id(gradient)) == 1)


class _Pending:
    """Gradients on their way: a heap of nodes, newest first, with the sum of what has reached each so far."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, Node]] = []
        self._sums: dict[Node, np.ndarray] = {}
        self._ours: set[Node] = set()  # nodes whose sum is our own array: safe to add to in place

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, node: Node, gradient: np.ndarray, ours: bool) -> None:
        """ours: nobody else looks at this gradient. Another node's dy, say, is not ours: addition hands it on."""
        if node not in self._sums:
            heapq.heappush(self._heap, (-node.order, node))
            self._sums[node] = gradient
        elif node in self._ours:
            accumulate(self._sums[node], gradient)
            return
        elif ours:
            accumulate(gradient, self._sums[node])
            self._sums[node] = gradient
        else:
            total, ours = copy(self._sums[node]), True
            accumulate(total, gradient)
            self._sums[node] = total
        if ours:
            self._ours.add(node)

    def pop(self) -> tuple[Node, np.ndarray]:
        node = heapq.heappop(self._heap)[1]
        self._ours.discard(node)
        return node, self._sums.pop(node)


def _accumulate_leaf(leaf: Tensor, gradient: np.ndarray, dy: np.ndarray) -> None:
    if is_on_gpu(gradient) != is_on_gpu(leaf.data) or not gradient.shape:  # NumPy's scalars become arrays
        gradient = move(gradient, leaf.device)
    if leaf.grad is not None:
        accumulate(leaf.grad, gradient)
    else:  # .grad is changed in place by optimisers and clipping: it must not share memory with a gradient in use
        leaf.grad = copy(gradient) if share_memory(gradient, dy) else gradient
