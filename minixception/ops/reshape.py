"""Reshape, transpose and concat: the same elements in another arrangement.

    reshape: y = x read in C order, in another shape      concat: y = the inputs side by side along an axis
    transpose: y[i_p, i_q, ...] = x[i_0, i_1, ...], the dimensions in the order (p, q, ...)

Shapes: reshape any -> any with as many elements; concat (n, h, w, c1), (n, h, w, c2) -> (n, h, w, c1 + c2).
Backward: reshape reshapes dy back; concat cuts dy into the parts it was joined from; transpose undoes itself.
Cost: no MACs. reshape moves no bytes; concat and transpose read and write each element once.
Source: concat joins the towers of an Inception module, Szegedy et al. 2015, "Rethinking the Inception
Architecture".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cpu import memory
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..gpu.kernel import THREADS, blocks, cuda, empty, flat, kernel

# 1. Definition ----------------------------------------------------------------------------------------------


def _reshape_forward_numpy(x: np.ndarray, *, shape: Shape) -> tuple[np.ndarray, tuple[Any, ...]]:
    return x.reshape(shape), (x.shape,)  # a view: x and y are the same memory


def _reshape_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    (shape,) = saved
    return (dy.reshape(shape),)


def _concat_forward_numpy(*arrays: np.ndarray, axis: int) -> tuple[np.ndarray, tuple[Any, ...]]:
    sizes = [array.shape[axis] for array in arrays]
    y = memory.empty(_concat_shape(*[array.shape for array in arrays], axis=axis), arrays[0].dtype)
    return np.concatenate(arrays, axis, out=y), (sizes, axis)


def _concat_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    sizes, axis = saved
    return tuple(np.ascontiguousarray(part) for part in np.split(dy, np.cumsum(sizes[:-1]), axis))


def _transpose_forward_numpy(x: np.ndarray, *, axes: Shape) -> tuple[np.ndarray, tuple[Any, ...]]:
    return np.asarray(x.transpose(axes), order="C"), (axes,)


def _transpose_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    (axes,) = saved
    return (np.asarray(dy.transpose(np.argsort(axes)), order="C"),)


# 2. CPU -----------------------------------------------------------------------------------------------------
# Nothing to gain: reshape is a new header for the same memory, and concat is NumPy's memory copy, run by run
# of contiguous elements. Both have the one rung, as has transpose, which layers on NHWC do not need; the backends of
# the processor fall back to it.

# 3. GPU -----------------------------------------------------------------------------------------------------
# reshape is a new header here too: the definition's functions do it. concat is a copy for each input: seen as
# (outer, size * inner), all inputs stand side by side in the rows of y, each from a column of its own on. A thread
# moves one element, neighbours move neighbours: within a row, loads and stores are both coalesced.


@kernel
def _paste(part, width, y, y_width, column):
    i = cuda.grid(1)
    if i < part.size:
        row = i // width
        y[row * y_width + column + i - row * width] = part[i]


@kernel
def _cut(dy, dy_width, column, part, width):
    i = cuda.grid(1)
    if i < part.size:
        row = i // width
        part[i] = dy[row * dy_width + column + i - row * width]


def _concat_forward_cuda(*arrays: Any, axis: int) -> tuple[Any, tuple[Any, ...]]:
    y = empty(_concat_shape(*[array.shape for array in arrays], axis=axis), arrays[0].dtype)
    y_width, column = _width(y.shape, axis), 0
    for array in arrays:
        width = _width(array.shape, axis)
        if array.size:
            _paste[blocks(array.size), THREADS](flat(array), width, flat(y), y_width, column)
        column += width
    return y, ([array.shape[axis % y.ndim] for array in arrays], axis)


def _concat_backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, ...]:
    sizes, axis = saved
    axis %= dy.ndim
    parts = [empty((*dy.shape[:axis], size, *dy.shape[axis + 1 :]), dy.dtype) for size in sizes]
    dy_width, column = _width(dy.shape, axis), 0
    for part in parts:
        width = _width(part.shape, axis)
        if part.size:
            _cut[blocks(part.size), THREADS](flat(dy), dy_width, column, flat(part), width)
        column += width
    return tuple(parts)


def _width(shape: Shape, axis: int) -> int:
    """Elements from the axis on: the length of a row."""
    return math.prod(shape[axis % len(shape) :])


# 4. Operator ------------------------------------------------------------------------------------------------


def _reshape_shape(x: Shape, *, shape: Shape) -> Shape:
    size = math.prod(x)
    known = math.prod(s for s in shape if s != -1)
    if shape.count(-1) == 1 and known > 0 and size % known == 0:
        return tuple(size // known if s == -1 else s for s in shape)
    if any(s < 0 for s in shape) or known != size:
        raise ShapeError(f"reshape: the {size} elements of {x} do not fill the shape {shape}")
    return shape


def _concat_shape(*shapes: Shape, axis: int) -> Shape:
    first = shapes[0]
    if not -len(first) <= axis < len(first):
        raise ArgumentError(f"concat: axis must be one of the {len(first)} dimensions of {first}, got {axis}")
    axis %= len(first)
    if any(len(s) != len(first) or _without(s, axis) != _without(first, axis) for s in shapes):
        raise ShapeError(f"concat: shapes must agree but for axis {axis}, got {', '.join(map(str, shapes))}")
    return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])


def _without(shape: Shape, axis: int) -> Shape:
    return shape[:axis] + shape[axis + 1 :]


def _reshape_sample(draw: Draw) -> Case:
    a, b, c = draw.integer(1, 4), draw.integer(1, 4), draw.integer(1, 4)
    return Case((draw.normal(a, b, c),), {"shape": draw.choice(((a, b * c), (c, -1, b), (a * b * c,)))})


def _concat_sample(draw: Draw) -> Case:
    axis, shape = draw.integer(-3, 2), [draw.integer(1, 4) for _ in range(3)]
    shapes = [[*shape] for _ in range(draw.integer(1, 3))]
    for s in shapes:
        s[axis] = draw.integer(1, 4)
    return Case(tuple(draw.normal(*s) for s in shapes), {"axis": axis})


def _transpose_shape(x: Shape, *, axes: Shape) -> Shape:
    if sorted(axes) != list(range(len(x))):
        raise ArgumentError(f"transpose: expected each of the {len(x)} dimensions of {x} once, got {axes}")
    return tuple(x[i] for i in axes)


def _transpose_sample(draw: Draw) -> Case:
    x = draw.normal(*[draw.integer(1, 4) for _ in range(3)])
    return Case((x,), {"axes": draw.choice(((0, 2, 1), (1, 2, 0), (2, 1, 0), (0, 1, 2)))})


RESHAPE = Op(
    name="reshape",
    rungs={
        "numpy": Rung(_reshape_forward_numpy, _reshape_backward_numpy),
        "cuda": Rung(_reshape_forward_numpy, _reshape_backward_numpy),
    },
    shape=_reshape_shape,
    sample=_reshape_sample,
)
CONCAT = Op(
    name="concat",
    rungs={
        "numpy": Rung(_concat_forward_numpy, _concat_backward_numpy),
        "cuda": Rung(_concat_forward_cuda, _concat_backward_cuda),
    },
    shape=_concat_shape,
    sample=_concat_sample,
)
TRANSPOSE = Op(
    name="transpose",
    rungs={"numpy": Rung(_transpose_forward_numpy, _transpose_backward_numpy)},
    shape=_transpose_shape,
    sample=_transpose_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The values of x in another shape, without a copy; one size may be -1 and follows from the others.

    Raises ShapeError if the number of elements differs.

    >>> import minixception as mx
    >>> reshape(mx.tensor([[1.0, 2.0], [3.0, 4.0]]), (-1,)).shape
    (4,)
    """
    return RESHAPE(x, shape=tuple(shape))


def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """The dimensions in another order, by default the reverse; the result is C-contiguous, a copy.

    axes: for each dimension of the result, which of x it is, as NumPy's. Raises ArgumentError unless each stands there
    once.

    >>> import minixception as mx
    >>> transpose(mx.tensor(np.zeros((8, 3, 32, 32))), (0, 2, 3, 1)).shape  # NCHW to NHWC
    (8, 32, 32, 3)
    """
    order = range(x.ndim)[::-1] if axes is None else axes
    return TRANSPOSE(x, axes=tuple(i % x.ndim if -x.ndim <= i < 0 else i for i in order))


def concat(tensors: Sequence[Tensor], axis: int = -1) -> Tensor:
    """Join tensors along an axis, by default the channels; all other sizes must agree.

    Raises ArgumentError for no tensors or an axis that does not exist, ShapeError if sizes disagree.

    >>> import minixception as mx
    >>> concat([mx.tensor([[1.0, 2.0]]), mx.tensor([[3.0]])]).numpy()
    array([[1., 2., 3.]], dtype=float32)
    """
    if not tensors:
        raise ArgumentError("concat: expected at least one tensor, got none")
    return CONCAT(*tensors, axis=axis)
