"""Arithmetic: add, subtract, multiply, divide, element by element, with NumPy's broadcasting.

    y = a + b          y = a - b          y = a * b          y = a / b

Shapes: a and b broadcast to y: aligned at the last dimension, sizes of 1 are repeated.
Backward: of +  da = dy, db = dy         of *  da = dy b,   db = dy a
          of -  da = dy, db = -dy        of /  da = dy / b, db = -dy a / b²
An element that was repeated takes part in several outputs: its gradients are summed.
Cost: no MACs. Two inputs are read and one output is written for one operation each: memory-bound.
Source: add is the residual connection of Chollet 2017, figure 5.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..cpu import memory
from ..cpu.elementwise import chunks, part
from ..cpu.jit import loops, parallel, prange
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor, tensor
from ..errors import DTypeError, ShapeError
from ..gpu.kernel import THREADS, Kernel, blocks, cuda, elementwise, empty, flat, kernel
from ..gpu.reduce import broadcast, offset, sums

Operand = Tensor | np.ndarray | float

# Every rung is one function of two arrays, y = value(a, b), and a backward pass, for which the inputs are saved or,
# where it needs no more, their shapes.


def _rung(value: Callable[[Any, Any], Any], backward: Callable[..., tuple[Any, Any]], saves_arrays: bool) -> Rung:
    def forward(a: Any, b: Any) -> tuple[Any, tuple[Any, ...]]:
        return value(a, b), (a, b) if saves_arrays else (a.shape, b.shape)

    return Rung(forward, backward)


# 1. Definition ----------------------------------------------------------------------------------------------


def _numpy(operation: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    return lambda a, b: np.asarray(operation(a, b))  # NumPy makes a scalar of a result without dimensions


def _add_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    a_shape, b_shape = saved
    return sum_to(dy, a_shape), sum_to(dy, b_shape)  # dy itself where nothing was repeated


def _subtract_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    a_shape, b_shape = saved
    return sum_to(dy, a_shape), sum_to(-dy, b_shape)


def _multiply_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    a, b = saved
    return sum_to(dy * b, a.shape), sum_to(dy * a, b.shape)


def _divide_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    a, b = saved
    da = dy / b  # y.shape
    return sum_to(da, a.shape), sum_to(-da * a / b, b.shape)


def sum_to(gradient: np.ndarray, shape: Shape) -> np.ndarray:
    """The gradient of an input of this shape: summed over the dimensions along which it was repeated."""
    if gradient.shape == shape:
        return np.asarray(gradient)
    padded = (1,) * (gradient.ndim - len(shape)) + shape
    repeated = tuple(i for i, size in enumerate(padded) if size == 1)
    return gradient.sum(axis=repeated, keepdims=True).reshape(shape)


# 2. CPU -----------------------------------------------------------------------------------------------------
# Loops: operands repeated to the shape of y by strides of 0, then one element after the other. Neither rung has a
# backward pass of its own: what the definition does is one pass over whole arrays, and of add it moves no bytes.


def _loops(operation: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    @loops
    def kernel(a, b, y):
        for i in range(y.size):
            y[i] = operation(a[i], b[i])

    def value(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        y = memory.empty(np.broadcast_shapes(a.shape, b.shape), a.dtype)
        kernel(*[np.broadcast_to(v, y.shape).reshape(-1) for v in (a, b)], y.reshape(-1))
        return y

    return value


# Fast: one kernel for equal shapes, the hot path: a residual connection adds two activations. What counts there is
# memory bandwidth, which one core cannot use up, and an output from the pool, whose pages need not be faulted
# in. A loop over flat arrays cannot broadcast; operands that do (a scalar, one scale per channel) go to the
# definition, where NumPy repeats them in one pass.


def _cpu(operation: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    @parallel
    def kernel(a, b, y):
        for chunk in prange(chunks(y.size)):
            left, right, out = part(a, chunk), part(b, chunk), part(y, chunk)
            for i in range(out.size):
                out[i] = operation(left[i], right[i])

    def value(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if a.shape != b.shape:
            return np.asarray(operation(a, b))
        y = memory.empty(a.shape, a.dtype)
        kernel(a.reshape(-1), b.reshape(-1), y.reshape(-1))
        return y

    return value


# 3. GPU -----------------------------------------------------------------------------------------------------
# A thread per element of y, neighbours loading neighbours. Equal shapes, the residual connection, need nothing but the
# element's own index; operands that are repeated are found by strides of 0, so no large copy of them is made. The
# backward passes are the same kernels on dy, and then sums along what was repeated, each in a fixed order.


def _cuda_kernels(operation: Callable[[Any, Any], Any]) -> tuple[Kernel, Kernel]:
    """y = operation(a, b), flat: of equal shapes, and of shapes that broadcast."""

    @kernel
    def same(a, b, y):
        i = cuda.grid(1)
        if i < y.size:
            y[i] = operation(a[i], b[i])

    @kernel
    def repeated(a, b, sizes, a_strides, b_strides, y):
        i = cuda.grid(1)
        if i < y.size:
            y[i] = operation(a[offset(i, sizes, a_strides)], b[offset(i, sizes, b_strides)])

    return same, repeated


@kernel
def _negate(x, y):
    i = cuda.grid(1)
    if i < y.size:
        y[i] = -x[i]


_CUDA = {name: _cuda_kernels(getattr(operator, name)) for name in ("add", "sub", "mul", "truediv")}


def _on_gpu(name: str, a: Any, b: Any) -> Any:
    """The operation on device arrays that broadcast."""
    same, repeated = _CUDA[name]
    if a.shape == b.shape:
        return elementwise(same, a, b)
    y = empty(np.broadcast_shapes(a.shape, b.shape), a.dtype)
    if y.size:
        repeated[blocks(y.size), THREADS](flat(a), flat(b), *broadcast(y.shape, a.shape, b.shape), flat(y))
    return y


def _sum_to_on_gpu(gradient: Any, shape: Shape) -> Any:
    """The same as ``sum_to``, of a device array."""
    padded = (1,) * (gradient.ndim - len(shape)) + shape
    repeated = tuple(i for i, size in enumerate(padded) if size < gradient.shape[i])
    return sums(gradient, repeated).reshape(shape) if gradient.shape != shape else gradient


def _add_backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any]:
    a_shape, b_shape = saved
    return _sum_to_on_gpu(dy, a_shape), _sum_to_on_gpu(dy, b_shape)


def _subtract_backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any]:
    a_shape, b_shape = saved
    return _sum_to_on_gpu(dy, a_shape), elementwise(_negate, _sum_to_on_gpu(dy, b_shape))


def _multiply_backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any]:
    a, b = saved
    return _sum_to_on_gpu(_on_gpu("mul", dy, b), a.shape), _sum_to_on_gpu(_on_gpu("mul", dy, a), b.shape)


def _divide_backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any, Any]:
    a, b = saved
    da = _on_gpu("truediv", dy, b)  # y.shape
    minus_db = _on_gpu("truediv", _on_gpu("mul", da, a), b)  # y.shape
    return _sum_to_on_gpu(da, a.shape), elementwise(_negate, _sum_to_on_gpu(minus_db, b.shape))


# 4. Operator ------------------------------------------------------------------------------------------------


def _operator(
    name: str,
    operation: Callable[[Any, Any], Any],
    backward: Callable[..., tuple[Any, Any]],
    backward_cuda: Callable[..., tuple[Any, Any]],
    saves_arrays: bool,
) -> Op:
    def shape(a: Shape, b: Shape) -> Shape:
        try:
            return np.broadcast_shapes(a, b)
        except ValueError:
            raise ShapeError(
                f"{name}: {a} and {b} do not broadcast: from the last dimension on, sizes must be equal or 1"
            ) from None

    def sample(draw: Draw) -> Case:
        sizes = [draw.integer(1, 4) for _ in range(3)]
        a, b = ([draw.choice((1, size)) for size in sizes] for _ in range(2))
        a, b = draw.choice(((sizes, sizes), (a, b), (a, b[draw.integer(1, 3) :])))
        return Case((draw.normal(*a), draw.distinct(*b)))  # not too near to 0: b divides

    rungs = {
        "numpy": _rung(_numpy(operation), backward, saves_arrays),
        "loops": _rung(_loops(operation), backward, saves_arrays),
        "cpu": _rung(_cpu(operation), backward, saves_arrays),
        "cuda": _rung(partial(_on_gpu, operation.__name__), backward_cuda, saves_arrays),
    }
    return Op(name, rungs, shape, sample)


ADD = _operator("add", operator.add, _add_backward_numpy, _add_backward_cuda, saves_arrays=False)
SUBTRACT = _operator("subtract", operator.sub, _subtract_backward_numpy, _subtract_backward_cuda, saves_arrays=False)
MULTIPLY = _operator("multiply", operator.mul, _multiply_backward_numpy, _multiply_backward_cuda, saves_arrays=True)
DIVIDE = _operator("divide", operator.truediv, _divide_backward_numpy, _divide_backward_cuda, saves_arrays=True)


# 5. Function ------------------------------------------------------------------------------------------------


def add(a: Operand, b: Operand) -> Tensor:
    """a + b; each a tensor, an array, or a scalar, which takes the other's dtype.

    Raises ShapeError if the shapes do not broadcast, DTypeError for mixed dtypes or integer arrays.

    >>> import minixception as mx
    >>> add(mx.tensor([[1.0], [2.0]]), mx.tensor([10.0, 20.0])).numpy()
    array([[11., 21.],
           [12., 22.]], dtype=float32)
    """
    return ADD(*floating_tensors("add", a, b))


def subtract(a: Operand, b: Operand) -> Tensor:
    """a - b; operands and errors as for ``add``.

    >>> import minixception as mx
    >>> subtract(1, mx.tensor([0.25, 3.0])).numpy()
    array([ 0.75, -2.  ], dtype=float32)
    """
    return SUBTRACT(*floating_tensors("subtract", a, b))


def multiply(a: Operand, b: Operand) -> Tensor:
    """a * b, element by element; operands and errors as for ``add``.

    >>> import minixception as mx
    >>> multiply(mx.tensor([1.0, 2.0]), 0.5).numpy()
    array([0.5, 1. ], dtype=float32)
    """
    return MULTIPLY(*floating_tensors("multiply", a, b))


def divide(a: Operand, b: Operand) -> Tensor:
    """a / b, element by element; operands and errors as for ``add``.

    >>> import minixception as mx
    >>> divide(1, mx.tensor([2.0, 4.0])).numpy()
    array([0.5 , 0.25], dtype=float32)
    """
    return DIVIDE(*floating_tensors("divide", a, b))


def floating_tensors(name: str, a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    """Both operands as floating tensors; a scalar becomes one of the other operand's dtype."""
    dtype = next((v.dtype for v in (a, b) if isinstance(v, (Tensor, np.ndarray))), np.dtype(np.float32))
    return _tensor(name, a, dtype), _tensor(name, b, dtype)


def _tensor(name: str, value: Operand, dtype: np.dtype[Any]) -> Tensor:
    if isinstance(value, (int, float, np.number)):
        return tensor(value, dtype)
    if not isinstance(value, (Tensor, np.ndarray)) or value.dtype.kind != "f":
        got = getattr(value, "dtype", type(value).__name__)
        raise DTypeError(f"{name} takes floating tensors, floating arrays and numbers, got {got}")
    return value if isinstance(value, Tensor) else tensor(value)
