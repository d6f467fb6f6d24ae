"""What a Tensor can do by itself: the functions of some operators as its methods.

Tensor stands below the operators and cannot import them, so they are given to it here, when ``ops`` is imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..engine.tensor import Tensor
from ..errors import ArgumentError, GraphError
from . import activation, arithmetic, elementary, extremes, indexing, matmul, reduction, reshape


def _swapped(operator: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """The method that Python calls if the tensor stands on the right: other - tensor, other @ tensor."""
    return lambda tensor, other: operator(other, tensor)


def _negative(x: Tensor) -> Tensor:
    return x * -1.0


def _reshape(x: Tensor, *shape: Any) -> Tensor:
    """The same values in another shape, given as integers or as one tuple; one size may be -1."""
    return reshape.reshape(x, _one_or_many(shape))


def _reversed(x: Tensor) -> Tensor:
    """The dimensions in the reverse order: the transpose of a matrix."""
    return reshape.transpose(x)


def _permute(x: Tensor, *axes: Any) -> Tensor:
    """The dimensions in this order, each given once, as integers or as one tuple: (0, 2, 3, 1) makes NHWC of NCHW."""
    return reshape.transpose(x, _one_or_many(axes))


def _transpose(x: Tensor, *axes: Any) -> Tensor:
    """The dimensions in the reverse order, or in that of all axes, as NumPy's."""
    order = _one_or_many(axes)
    if len(order) == 2 and (x.ndim > 2 or tuple(order) == (0, 1)):  # PyTorch's, which swaps two
        raise ArgumentError(
            f"transpose takes all {x.ndim} dimensions in their new order, or none for the reverse, got {tuple(order)}: "
            "to swap two, write .T of a matrix, or permute(...)"
        )
    return reshape.transpose(x, order or None)


def _one_or_many(given: tuple[Any, ...]) -> Sequence[int]:
    return given[0] if len(given) == 1 and isinstance(given[0], Sequence) else given


def _rpow(x: Tensor, base: float) -> Tensor:
    """base ** x, for a positive number: e to the power of x log(base)."""
    if not isinstance(base, int | float | np.number) or base <= 0:
        raise ArgumentError(f"the base of a power must be a positive number, got {base!r}")
    return elementary.exp(x * math.log(base))


def _iterate(x: Tensor) -> Iterator[Tensor]:
    """Along the first dimension."""
    if not x.ndim:
        raise TypeError("a tensor without dimensions cannot be iterated over: its number is x.item()")  # as NumPy's
    return (indexing.index(x, i) for i in range(len(x)))


def _no_assignment(x: Tensor, index: Any, value: Any) -> None:
    """Elements are not assigned: the tape would not see it."""
    raise GraphError(
        "elements of a tensor are not assigned, for no gradient would flow: compute a new tensor, with mx.ops.concat "
        "or a mask of 0 and 1; or, before anything is computed from it, write to its array: x.data[...] = value"
    )


def _comparison(compare: Callable[[Any, Any], Any]) -> Callable[[Tensor, Any], Any]:
    """Element by element, as an array of booleans: no gradient flows through it."""

    def method(x: Tensor, other: Any) -> Any:
        known = isinstance(other, Tensor | np.ndarray | np.number | int | float | list | tuple)
        return compare(x.numpy(), other.numpy() if isinstance(other, Tensor) else other) if known else NotImplemented

    return method


_COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}
METHODS: dict[str, Any] = {
    "__add__": arithmetic.add,
    "__sub__": arithmetic.subtract,
    "__mul__": arithmetic.multiply,
    "__truediv__": arithmetic.divide,
    "__matmul__": matmul.matmul,
    "__radd__": arithmetic.add,
    "__rsub__": _swapped(arithmetic.subtract),
    "__rmul__": arithmetic.multiply,
    "__rtruediv__": _swapped(arithmetic.divide),
    "__rmatmul__": _swapped(matmul.matmul),
    "__pow__": elementary.power,
    "__rpow__": _rpow,
    "__neg__": _negative,
    "__abs__": elementary.abs,
    "__getitem__": indexing.index,
    "__setitem__": _no_assignment,
    "__iter__": _iterate,
    **{f"__{name}__": _comparison(getattr(np, ufunc)) for name, ufunc in _COMPARISONS.items()},
    "T": property(_reversed),
    "transpose": _transpose,
    "permute": _permute,
    "reshape": _reshape,
    "sum": reduction.sum,
    "mean": reduction.mean,
    "var": reduction.var,
    "max": extremes.max,
    "min": extremes.min,
    "exp": elementary.exp,
    "log": elementary.log,
    "sqrt": elementary.sqrt,
    "abs": elementary.abs,
    "clip": elementary.clip,
    "tanh": activation.tanh,
}

for _name, _method in METHODS.items():
    setattr(Tensor, _name, _method)
