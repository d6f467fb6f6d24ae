"""Tensor and tape: the whole autograd engine.

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
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DTypeError, GraphError, ShapeError
from ..gpu import kernel as gpu
from ..gpu.device import copy, is_on_gpu, is_writable, share_memory, to_cpu
from ..gpu.device import to as move
from .accumulate import accumulate

if TYPE_CHECKING:
    from .op import Op

_creation = itertools.count()
_recording: ContextVar[bool] = ContextVar("recording", default=True)
_USED = object()  # takes the place of a node's saved arrays once backward() has consumed them


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Run without recording: results have no path back, and nothing is kept for a backward pass.

    >>> x = tensor([1.0, 2.0], requires_grad=True)
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


class Tensor:
    """An array that remembers how it was computed.

    Attributes: ``data`` (C-contiguous float32 or float64 ndarray, or integers for labels), ``grad`` (ndarray
    like data, or None), ``requires_grad``, ``node`` (None for a leaf).
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")
    __array_priority__ = 1000  # ndarray + Tensor calls Tensor.__radd__

    def __init__(self, data: np.ndarray, requires_grad: bool = False, node: Node | None = None) -> None:
        self.data = data
        self.grad: np.ndarray | None = None
        self.requires_grad = requires_grad or node is not None
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along each dimension; activations are (n, h, w, c)."""
        return tuple(self.data.shape)  # the simulator of CUDA has a kind of its own

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32 or float64; an integer type for labels."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.data.ndim

    @property
    def device(self) -> str:
        """Where the array lives: "cpu" or "cuda"."""
        return "cuda" if is_on_gpu(self.data) else "cpu"

    def to(self, device: str) -> Tensor:
        """A leaf with this tensor's values on "cpu" or "cuda"; the tensor itself if it is there.

        Raises GraphError for a tensor that was computed with a gradient: detach it first, or move what it is computed
        from. ArgumentError for another device, BackendError where there is no GPU.
        """
        if device == self.device:
            return self
        if self.node is not None:
            raise GraphError(f"to({device!r}) is for leaves: this tensor was computed by {self.node.op.name}")
        return Tensor(move(self.data, device), self.requires_grad)

    def numpy(self) -> np.ndarray:
        """The array itself, not a copy; of an array on the GPU, a copy."""
        return to_cpu(self.data)

    def item(self) -> float:
        """The only element as a Python number; ShapeError if there are more."""
        if self.data.size != 1:
            raise ShapeError(f"item() needs a tensor of one element, got shape {self.shape}")
        return to_cpu(self.data).item()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For libraries that use the GPU's memory in place; AttributeError on the processor and in the simulator.

        It names our stream, for which they wait. The tape does not see what they write.
        """
        array: Any = self.data
        if not is_on_gpu(array):
            raise AttributeError("a tensor on the cpu has no __cuda_array_interface__")
        return {**array.__cuda_array_interface__, "stream": int(gpu.stream())}

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's (type, id) of the device: (1, 0) is the processor, (2, id) a GPU."""
        from .interop import dlpack_device

        return dlpack_device(self.data)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        """A DLPack capsule of the memory, for ``from_dlpack`` of other libraries; see interop.py.

        Shared, not copied, unless copy=True: the tape does not see what others write. On the GPU it returns when the
        values are there, or at once with stream=-1. Raises InteropError for another device than the tensor's.

        >>> np.from_dlpack(tensor([1.0, 2.0]))
        array([1., 2.], dtype=float32)
        """
        from .interop import to_dlpack

        return to_dlpack(self.data, stream, max_version, dl_device, copy)

    def detach(self) -> Tensor:
        """The same array, cut off from the tape."""
        return Tensor(self.data)

    def retain_grad(self) -> Tensor:
        """Ask backward() to keep this intermediate tensor's gradient in ``.grad``; returns self."""
        if self.node is not None:
            self.node.output = weakref.ref(self)
        return self

    def backward(self, grad: np.ndarray | None = None) -> None:
        """Add d(self)/d(leaf), contracted with ``grad``, to ``.grad`` of every leaf this was computed from.

        grad: the cotangent, same shape as self; may be left out for a single element (then 1).
        Time and memory: about twice the forward pass; each node's saved arrays are freed on the way.
        Raises GraphError without a recorded path, and when the tape was already used by a backward().

        >>> x = tensor([3.0], requires_grad=True)
        >>> (x * x).backward()
        >>> x.grad
        array([6.], dtype=float32)
        """
        _backward(self, self._seed(grad))

    def _seed(self, grad: np.ndarray | None) -> np.ndarray:
        if not self.requires_grad:
            raise GraphError(
                "backward() found no path to any tensor with requires_grad=True: the tensor was computed under "
                "no_grad(), detached, or from constants only"
            )
        if grad is None:
            if self.data.size != 1:
                raise GraphError(f"backward() of shape {self.shape} needs grad=, the cotangent of the same shape")
            grad = np.ones(self.shape, self.dtype)
        grad = np.array(grad, dtype=self.dtype, order="C")  # a copy: ours to add to
        if grad.shape != self.shape:
            raise ShapeError(f"grad must have the tensor's shape {self.shape}, got {grad.shape}")
        return move(grad, self.device)

    def __repr__(self) -> str:
        tail = f", op={self.node.op.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({np.array2string(self.numpy(), precision=4, threshold=20)}, {self.dtype}{tail})"

    def __len__(self) -> int:
        return len(self.data)

    # Arithmetic: the operators live in ops/, which is built on this module, hence the late imports.
    def __add__(self, other: Any) -> Tensor:
        from ..ops import add

        return add(self, other)

    def __sub__(self, other: Any) -> Tensor:
        from ..ops import subtract

        return subtract(self, other)

    def __mul__(self, other: Any) -> Tensor:
        from ..ops import multiply

        return multiply(self, other)

    def __truediv__(self, other: Any) -> Tensor:
        from ..ops import divide

        return divide(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        from ..ops import subtract

        return subtract(other, self)

    def __rtruediv__(self, other: Any) -> Tensor:
        from ..ops import divide

        return divide(other, self)

    def __neg__(self) -> Tensor:
        return self * -1.0

    __radd__ = __add__
    __rmul__ = __mul__

    def reshape(self, *shape: int) -> Tensor:
        """The same values in another shape; one size may be -1."""
        from ..ops import reshape

        return reshape(self, shape)

    def sum(self, axis: int | Sequence[int] | None = None) -> Tensor:
        """Sum over all elements, or over ``axis``."""
        from ..ops import sum as sum_

        return sum_(self, axis)

    def mean(self, axis: int | Sequence[int] | None = None) -> Tensor:
        """Mean over all elements, or over ``axis``."""
        from ..ops import mean

        return mean(self, axis)


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A leaf tensor from an array, a list or a number.

    Floating data keeps float32 or float64 (Python numbers become float32); integers stay integers (labels). A
    C-contiguous NumPy array of the right dtype is shared, not copied. So is the GPU's memory of an object with
    ``__cuda_array_interface__``, always: the tensor is on the GPU then.
    Raises DTypeError for any other dtype, and for requires_grad on integers; of an array of the GPU also if ``dtype``
    is not its own, and InteropError unless it is C-contiguous.

    >>> tensor([[1.0, 2.0]]).shape
    (1, 2)
    """
    if hasattr(data, "__cuda_array_interface__"):
        from .interop import from_cuda_array

        return from_cuda_array(data, dtype, requires_grad)
    array = np.asarray(data)
    if dtype is None:
        dtype = (
            np.float32 if not isinstance(data, (np.ndarray, np.generic)) and array.dtype.kind == "f" else array.dtype
        )
    dtype = np.dtype(dtype)
    check_dtype(dtype, requires_grad)
    return Tensor(np.ascontiguousarray(array, dtype=dtype).reshape(array.shape), requires_grad)


def check_dtype(dtype: np.dtype[Any], requires_grad: bool = False) -> None:
    """DTypeError unless a tensor may hold such numbers (and have a gradient)."""
    if dtype.kind not in "iu" and dtype not in (np.float32, np.float64):
        raise DTypeError(f"a tensor holds float32, float64 or integers (labels), got {dtype}: convert it first")
    if requires_grad and dtype.kind in "iu":
        raise DTypeError(f"only floating tensors can require a gradient, got {dtype}")


def _backward(root: Tensor, seed: np.ndarray) -> None:
    """Pop nodes newest first; hand each one's gradients on to its parents."""
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
            if isinstance(parent, Tensor):
                _accumulate_leaf(parent, gradient, dy)
            elif parent is not None:
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
    if is_on_gpu(gradient) != is_on_gpu(leaf.data) or not gradient.shape:  # NumPy's numbers become arrays
        gradient = move(gradient, leaf.device)
    if leaf.grad is not None:
        accumulate(leaf.grad, gradient)
    else:  # .grad is changed in place by optimisers and clipping: it must not share memory with a gradient in use
        leaf.grad = copy(gradient) if share_memory(gradient, dy) else gradient
