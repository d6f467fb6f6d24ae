"""Sum, mean and variance over some of the axes, or over all.

    sum: y = sum of x over the axes          mean: y = the same, divided by the number of elements summed
    var: y = mean of (x - mean of x)²

Shapes: y has the dimensions of x that were not summed over; () if all were.
Backward: of sum, dy repeated along the axes; of mean, dy / count repeated; of var that of the operators it is made of.
Cost: no MACs. One addition for each element read: memory-bound.
Accuracy: the error of a sum one by one grows with its length, in float32 to 1e-3 for a million terms. NumPy
sums pairs of pairs; the cpu rung sums chunks, 16 lanes at a time, and then the chunks: both keep partial sums
short.
Source: Higham 1993, "The accuracy of floating point summation".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cpu import memory
from ..cpu.jit import loops, parallel, prange
from ..cpu.simd import add, lanes, load, splat, store
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..gpu.reduce import repeat, sums
from .arithmetic import subtract
from .reshape import reshape

# 1. Definition ----------------------------------------------------------------------------------------------


def _sum_forward_numpy(x: np.ndarray, *, axis: Shape) -> tuple[np.ndarray, tuple[Any, ...]]:
    return np.asarray(x.sum(axis=axis)), (x.shape, axis)


def _sum_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    shape, axis = saved
    dx = memory.empty(shape, dy.dtype)
    dx[...] = np.expand_dims(dy, axis)
    return (dx,)


def _mean_of(sum_rung: Rung) -> Rung:
    """The mean is the sum divided by the count, and so is its gradient."""

    def forward(x: np.ndarray, *, axis: Shape) -> tuple[np.ndarray, tuple[Any, ...]]:
        y, saved = sum_rung.forward(x, axis=axis)
        return np.asarray(y / _count(x.shape, axis)), saved

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray | None, ...]:
        return sum_rung.backward(np.asarray(dy / _count(*saved)), saved)

    return Rung(forward, backward)


def _count(shape: Shape, axis: Shape) -> int:
    return math.prod(shape[i] for i in axis)


# 2. CPU -----------------------------------------------------------------------------------------------------
# Both rungs see x as (outer, length, inner), summed over the one axis in the middle. Neighbouring axes are
# merged without moving a byte; others are brought together by a transposed copy first.


def _merged(x: np.ndarray, axis: Shape) -> np.ndarray:
    """x as (outer, length, inner); C-contiguous."""
    first = min(axis, default=x.ndim)
    if axis != tuple(range(first, first + len(axis))):
        kept = [i for i in range(x.ndim) if i not in axis]
        x = np.ascontiguousarray(x.transpose(*kept, *axis))
        first = len(kept)
    return x.reshape(math.prod(x.shape[:first]), -1, math.prod(x.shape[first + len(axis) :]))


# Loops: one sum per output.


@loops
def _sum_loops(x, y):
    outer, length, inner = x.shape
    for o in range(outer):
        for i in range(inner):
            total = x.dtype.type(0)
            for r in range(length):
                total += x[o, r, i]
            y[o, i] = total


def _sum_forward_loops(x: np.ndarray, *, axis: Shape) -> tuple[np.ndarray, tuple[Any, ...]]:
    merged = _merged(x, axis)
    y = memory.empty(_shape(x.shape, axis=axis), x.dtype)
    _sum_loops(merged, y.reshape(merged.shape[0], merged.shape[2]))
    return y, (x.shape, axis)


# Fast: a task adds up one chunk of rows, 16 columns in a register at a time. Where the summed axis is the
# last there are no columns (inner = 1): its elements are then dealt to the lanes of a register as if to
# columns, and the lanes are added at the end. The backward pass is one repeating copy, which NumPy does at
# the speed of memory: it keeps the definition's.

_ROWS = 128  # of one task; fixed, so that the order of the sum does not depend on the threads


@parallel
def _partial_sums(x, partial, lanes):
    outer, chunks, width = partial.shape
    size = x.size // outer
    xs, partials = x.reshape(-1), partial.reshape(-1)
    for task in prange(outer * chunks):
        o, chunk = task // chunks, task % chunks
        for q in range(0, width, lanes):
            valid = min(lanes, width - q)
            total = splat(partial, partial.dtype.type(0))
            for at in range(chunk * _ROWS * width + q, min(size, (chunk + 1) * _ROWS * width), width):
                total = add(total, load(xs, o * size + at, min(valid, size - at)))
            store(partials, task * width + q, total, valid)


def _sum_forward_cpu(x: np.ndarray, *, axis: Shape) -> tuple[np.ndarray, tuple[Any, ...]]:
    merged = _merged(x, axis)
    outer, length, inner = merged.shape
    width = inner if inner > 1 else lanes(x.dtype.type)
    partial = memory.empty((outer, -(-length * inner // (_ROWS * width)), width), x.dtype)
    _partial_sums(merged, partial, lanes(x.dtype.type))
    y = partial.sum(axis=1 if inner > 1 else (1, 2))
    return y.reshape(_shape(x.shape, axis=axis)), (x.shape, axis)


# 3. GPU -----------------------------------------------------------------------------------------------------
# The sum of gpu/reduce.py: every thread adds 32 rows, and their sums are added in turn, in an order that
# depends on the shape alone. Its divisor comes last and makes a mean of it; the backward pass repeats dy.


def _cuda_rung(mean: bool) -> Rung:
    def forward(x: Any, *, axis: Shape) -> tuple[Any, tuple[Any, ...]]:
        return sums(x, axis, mean), (x.shape, axis)

    def backward(dy: Any, saved: tuple[Any, ...]) -> tuple[Any]:
        shape, axis = saved
        return (repeat(dy, axis, shape, _count(shape, axis) if mean else 1),)

    return Rung(forward, backward)


# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape, *, axis: Shape) -> Shape:
    return tuple(size for i, size in enumerate(x) if i not in axis)


def _mean_shape(x: Shape, *, axis: Shape) -> Shape:
    if not _count(x, axis):
        raise ShapeError(f"mean: expected at least one element to take the mean of, got shape {x} and axes {axis}")
    return _shape(x, axis=axis)


def _sample(draw: Draw) -> Case:
    shape = [draw.integer(1, 5) for _ in range(4)]
    shape[draw.integer(0, 3)] = draw.integer(1, 70)
    axis = draw.choice(((0, 1, 2, 3), (1, 2), (0, 1, 2), (0, 2), (3,), (0,), (1, 3), (2, 3)))
    return Case((draw.normal(*shape),), {"axis": axis})


_CPU_RUNGS = {
    "numpy": Rung(_sum_forward_numpy, _sum_backward_numpy),
    "loops": Rung(_sum_forward_loops, _sum_backward_numpy),
    "cpu": Rung(_sum_forward_cpu, _sum_backward_numpy),
}
SUM = Op(name="sum", rungs=_CPU_RUNGS | {"cuda": _cuda_rung(mean=False)}, shape=_shape, sample=_sample)
MEAN = Op(
    name="mean",
    rungs={name: _mean_of(rung) for name, rung in _CPU_RUNGS.items()} | {"cuda": _cuda_rung(mean=True)},
    shape=_mean_shape,
    sample=_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------

Axis = int | Sequence[int] | None


def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over all elements, or over one axis or several.

    keepdims: the axes stay, with size 1, so that the result broadcasts with x.
    Raises ArgumentError for an axis that x does not have, or the same one twice.

    >>> import minixception as mx
    >>> sum(mx.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0).numpy()
    array([4., 6.], dtype=float32)
    """
    axes = named_axes("sum", x, axis)
    return kept_dimensions(SUM(x, axis=axes), x, axes, keepdims)


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The mean over all elements, or over one axis or several; as ``sum``, and ShapeError for none.

    >>> import minixception as mx
    >>> mean(mx.tensor([[1.0, 2.0], [3.0, 4.0]])).item()
    2.5
    """
    axes = named_axes("mean", x, axis)
    return kept_dimensions(MEAN(x, axis=axes), x, axes, keepdims)


def var(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The variance over all elements, or over one axis or several, divided by their number (biased, as in batchnorm).

    Two passes over x, so that a large mean does no harm; errors as for ``mean``.

    >>> import minixception as mx
    >>> var(mx.tensor([[1.0, 2.0], [3.0, 6.0]]), axis=1).numpy()
    array([0.25, 2.25], dtype=float32)
    """
    difference = subtract(x, mean(x, axis, keepdims=True))
    return mean(difference * difference, axis, keepdims)


def named_axes(name: str, x: Tensor, axis: Axis) -> Shape:
    """Axes counted from the front, in ascending order."""
    asked = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    axes = {a % x.ndim for a in asked if -x.ndim <= a < x.ndim}
    if len(axes) != len(asked):
        raise ArgumentError(f"{name}: axis must name different dimensions of x {x.shape}, got {axis}")
    return tuple(sorted(axes))


def kept_dimensions(y: Tensor, x: Tensor, axes: Shape, keepdims: bool) -> Tensor:
    """y, which x became; if asked for, with the axes that it has lost, of size 1."""
    return reshape(y, [1 if i in axes else size for i, size in enumerate(x.shape)]) if keepdims else y
