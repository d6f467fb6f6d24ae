"""The largest or smallest element along some of the axes, or of all.

Shapes: y has the dimensions of x that were not searched; () if all were.
Backward: dy goes to the element that was found, of several equal ones to the first, as in max pooling; all others
get 0. NaN is larger and smaller than any number.
Cost: no MACs. One comparison for each element read: memory-bound.
Source: NumPy's max and min.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ShapeError
from .reduction import kept_dimensions, named_axes

# 1. Definition ----------------------------------------------------------------------------------------------


def _rung(pick: Callable[..., np.ndarray]) -> Rung:
    """pick: the index of the element that is looked for, np.argmax or np.argmin."""

    def forward(x: np.ndarray, *, axis: Shape) -> tuple[np.ndarray, tuple[Any, ...]]:
        order = _searched_last(x.ndim, axis)
        kept = [x.shape[i] for i in order[: x.ndim - len(axis)]]
        rows = x.transpose(order).reshape(*kept, math.prod(x.shape[i] for i in axis))  # (kept, searched)
        at = pick(rows, axis=-1)[..., None]
        return np.take_along_axis(rows, at, axis=-1)[..., 0], (x.shape, axis, at)

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
        shape, axis, at = saved
        order = _searched_last(len(shape), axis)
        dx = np.zeros((*dy.shape, math.prod(shape[i] for i in axis)), dy.dtype)  # (kept, searched)
        np.put_along_axis(dx, at, dy[..., None], axis=-1)
        dx = dx.reshape([shape[i] for i in order]).transpose(np.argsort(order))
        return (np.ascontiguousarray(dx).reshape(shape),)

    return Rung(forward, backward)


def _searched_last(dimensions: int, axis: Shape) -> list[int]:
    """All dimensions, those that are searched behind the others."""
    return [i for i in range(dimensions) if i not in axis] + list(axis)


# 2. CPU, 3. GPU ---------------------------------------------------------------------------------------------
# The definition alone; the maximum that a network computes, of windows, has all its kernels in pooling/max_pool.py.

# 4. Operator ------------------------------------------------------------------------------------------------


def _operator(name: str, pick: Callable[..., np.ndarray]) -> Op:
    def shape(x: Shape, *, axis: Shape) -> Shape:
        if not math.prod(x[i] for i in axis):
            raise ShapeError(f"{name}: expected at least one element to choose from, got shape {x} and axes {axis}")
        return tuple(size for i, size in enumerate(x) if i not in axis)

    return Op(name, {"numpy": _rung(pick)}, shape, _sample)


def _sample(draw: Draw) -> Case:
    x = draw.distinct(*[draw.integer(1, 4) for _ in range(3)])
    return Case((x,), {"axis": draw.choice(((0, 1, 2), (0,), (1,), (2,), (0, 2), (1, 2)))})


MAX = _operator("max", np.argmax)
MIN = _operator("min", np.argmin)


# 5. Function ------------------------------------------------------------------------------------------------


def max(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """The largest element of all, or along one axis or several.

    keepdims: the axes stay, with size 1. ArgumentError for an axis that x does not have, ShapeError for no elements.

    >>> import minixception as mx
    >>> max(mx.tensor([[1.0, 4.0], [3.0, 2.0]]), axis=1).numpy()
    array([4., 3.], dtype=float32)
    """
    axes = named_axes("max", x, axis)
    return kept_dimensions(MAX(x, axis=axes), x, axes, keepdims)


def min(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """The smallest element of all, or along one axis or several; as ``max``.

    >>> import minixception as mx
    >>> min(mx.tensor([[1.0, 4.0], [3.0, 2.0]])).item()
    1.0
    """
    axes = named_axes("min", x, axis)
    return kept_dimensions(MIN(x, axis=axes), x, axes, keepdims)
