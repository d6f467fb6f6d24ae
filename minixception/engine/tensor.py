"""Tensor: an array that remembers how it was computed. How that is remembered and used is in tape.py.

Operators are built on tensors, not the other way round: ``ops.methods`` gives ``Tensor`` its arithmetic, and
``interop`` what other libraries ask of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, DTypeError, GraphError, ShapeError
from ..gpu.device import device_of, full_like, to_cpu
from ..gpu.device import to as move
from . import tape
from .tape import Node


class Tensor:
    """An array that remembers how it was computed.

    Attributes: ``data`` (C-contiguous float32 or float64 ndarray, or integers for labels), ``grad`` (ndarray
    like data, or None), ``requires_grad``, ``node`` (None for a leaf).
    """

    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")

    def __init__(self, data: Any, requires_grad: bool = False, node: Node | None = None) -> None:
        if isinstance(data, list | tuple | float | int | Tensor):
            kind = type(data).__name__
            raise ArgumentError(
                f"{type(self).__name__} takes an array, got {kind}: mx.tensor(...) makes a tensor of it"
            )
        self.data = data
        self.grad: np.ndarray | None = None
        self.requires_grad = requires_grad or node is not None
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along each dimension; activations are (n, h, w, c)."""
        return tuple(self.data.shape)

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
        return device_of(self.data)

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
        tape.backward(self, self._seed(grad))

    def _seed(self, grad: np.ndarray | None) -> np.ndarray:
        if not self.requires_grad:
            raise GraphError(
                "backward() found no path to any tensor with requires_grad=True: the tensor was computed under "
                "no_grad(), detached, or from constants only"
            )
        if grad is None:
            if self.data.size != 1:
                raise GraphError(f"backward() of shape {self.shape} needs grad=, the cotangent of the same shape")
            return full_like(self.data, 1)
        grad = np.array(grad, dtype=self.dtype, order="C")  # a copy: ours to add to
        if grad.shape != self.shape:
            raise ShapeError(f"grad must have the tensor's shape {self.shape}, got {grad.shape}")
        return move(grad, self.device)

    def __repr__(self) -> str:
        tail = f", op={self.node.op.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({np.array2string(self.numpy(), precision=4, threshold=20)}, {self.dtype}{tail})"

    def __len__(self) -> int:
        return len(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ShapeError(f"a tensor of shape {self.shape} is neither true nor false: ask (x > 0).any() or .all()")
        return bool(self.item())

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def argmax(self, axis: int | None = None) -> Any:
        """The index of the largest element, of all or along an axis, as an array of integers."""
        return self.numpy().argmax(axis)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype, copy=copy)

    def tolist(self) -> Any:
        """The values as nested lists of Python numbers, or as one number."""
        return self.numpy().tolist()

    if TYPE_CHECKING:  # these come from ops/methods.py, for operators are built on this module

        def __add__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __rpow__(self, base: float) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __abs__(self) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def __lt__(self, other: Any) -> np.ndarray: ...
        def __le__(self, other: Any) -> np.ndarray: ...
        def __gt__(self, other: Any) -> np.ndarray: ...
        def __ge__(self, other: Any) -> np.ndarray: ...
        @property
        def T(self) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...
        def permute(self, *axes: Any) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def sum(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def var(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def max(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def min(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def abs(self) -> Tensor: ...
        def clip(self, low: float | None = None, high: float | None = None) -> Tensor: ...
        def tanh(self) -> Tensor: ...


# An attribute by which arrays of other libraries are known -> how they become tensors: (array, dtype, requires_grad).
FOREIGN_ARRAYS: dict[str, Callable[[Any, Any, bool], Tensor]] = {}


def tensor(data: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A leaf tensor from an array, a list or a number; from a tensor, one with its values and without its gradient.

    Floating data keeps float32 or float64 (Python numbers become float32); integers stay integers (labels). A
    C-contiguous NumPy array of the right dtype is shared, not copied. So is an array of another library that lies on
    the GPU, always (see interop.py): the tensor is on the GPU then.
    Raises DTypeError for any other dtype, and for requires_grad on integers; of an array of the GPU also if ``dtype``
    is not its own, and InteropError unless it is C-contiguous. ShapeError for lists of different lengths.

    >>> tensor([[1.0, 2.0]]).shape
    (1, 2)
    """
    for attribute, convert in FOREIGN_ARRAYS.items():
        if hasattr(data, attribute):
            return convert(data, dtype, requires_grad)
    try:
        array = np.asarray(data)
    except ValueError as error:  # a list of lists that are not equally long
        raise ShapeError(f"a tensor needs rows of equal length in each dimension: {error}") from error
    if dtype is None:
        has_dtype = isinstance(data, np.ndarray | np.generic | Tensor)
        dtype = array.dtype if has_dtype or array.dtype.kind != "f" else np.float32
    dtype = np.dtype(dtype)
    check_dtype(dtype, requires_grad)
    return Tensor(np.ascontiguousarray(array, dtype=dtype).reshape(array.shape), requires_grad)


def check_dtype(dtype: np.dtype[Any], requires_grad: bool = False) -> None:
    """DTypeError unless a tensor may hold elements of this type (and have a gradient)."""
    if dtype.kind not in "iu" and dtype not in (np.float32, np.float64):
        raise DTypeError(f"a tensor holds float32, float64 or integers (labels), got {dtype}: convert it first")
    if requires_grad and dtype.kind in "iu":
        raise DTypeError(f"only floating tensors can require a gradient, got {dtype}")
