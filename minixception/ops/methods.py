"""What a Tensor can do by itself: the functions of some operators as its methods.

Tensor stands below the operators and cannot import them, so they are given to it here, when ``ops`` is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..engine.tensor import Tensor
from . import arithmetic, reduction
from .reshape import reshape


def _swapped(operator: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """The method that Python calls if the tensor stands on the right: other - tensor."""
    return lambda tensor, other: operator(other, tensor)


def _negative(x: Tensor) -> Tensor:
    return x * -1.0


def _reshape(x: Tensor, *shape: int) -> Tensor:
    """The same values in another shape; one size may be -1."""
    return reshape(x, shape)


def _sum(x: Tensor, axis: int | Sequence[int] | None = None) -> Tensor:
    """Sum over all elements, or over ``axis``."""
    return reduction.sum(x, axis)


def _mean(x: Tensor, axis: int | Sequence[int] | None = None) -> Tensor:
    """Mean over all elements, or over ``axis``."""
    return reduction.mean(x, axis)


METHODS: dict[str, Callable[..., Tensor]] = {
    "__add__": arithmetic.add,
    "__sub__": arithmetic.subtract,
    "__mul__": arithmetic.multiply,
    "__truediv__": arithmetic.divide,
    "__radd__": arithmetic.add,
    "__rsub__": _swapped(arithmetic.subtract),
    "__rmul__": arithmetic.multiply,
    "__rtruediv__": _swapped(arithmetic.divide),
    "__neg__": _negative,
    "reshape": _reshape,
    "sum": _sum,
    "mean": _mean,
}

for _name, _method in METHODS.items():
    setattr(Tensor, _name, _method)
