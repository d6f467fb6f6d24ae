"""The matrix product, of two matrices or of stacks of them.

    y[..., i, j] = sum_k a[..., i, k] * b[..., k, j]

Shapes: a (..., n, k), b (..., k, m), y (..., n, m); what stands in front broadcasts. A vector is a matrix of one row on
the left, of one column on the right, and y is without that dimension.
Backward: da = dy bᵀ, db = aᵀ dy; a matrix that was repeated takes part in several products: its gradients are summed.
Cost: n*k*m MACs for each product, on n*k + k*m + n*m elements.
Source: NumPy's matmul.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ShapeError
from .arithmetic import Operand, floating_tensors, sum_to
from .linear import LINEAR
from .reshape import reshape

# 1. Definition ----------------------------------------------------------------------------------------------


def _forward_numpy(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    return a @ b, (a, b)


def _backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    a, b = saved
    da = dy @ b.swapaxes(-1, -2)  # (..., n, k)
    db = a.swapaxes(-1, -2) @ dy  # (..., k, m)
    return sum_to(da, a.shape), sum_to(db, b.shape)


# 2. CPU, 3. GPU ---------------------------------------------------------------------------------------------
# Two matrices are multiplied by linear, which has all the kernels. Stacks have the definition alone.

# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(a: Shape, b: Shape) -> Shape:
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        raise ShapeError(f"matmul: expected (..., n, k) and (..., k, m), with the same k twice, got {a} and {b}")
    try:
        return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    except ValueError:
        raise ShapeError(f"matmul: the stacks {a[:-2]} and {b[:-2]} of {a} and {b} do not broadcast") from None


def _macs(a: Shape, b: Shape) -> int:
    return math.prod(_shape(a, b)) * a[-1]


def _sample(draw: Draw) -> Case:
    n, k, m = (draw.integer(1, 4) for _ in range(3))
    a, b = draw.choice((((2, 3), (2, 3)), ((2,), (3, 1)), ((), (2,)), ((3,), ())))
    return Case((draw.normal(*a, n, k), draw.normal(*b, k, m)))


MATMUL = Op("matmul", {"numpy": Rung(_forward_numpy, _backward_numpy)}, _shape, _sample, _macs)


# 5. Function ------------------------------------------------------------------------------------------------


def matmul(a: Operand, b: Operand) -> Tensor:
    """a @ b: of matrices, of stacks of matrices, or of vectors; tensors or arrays.

    Raises ShapeError if sizes disagree, DTypeError for mixed dtypes. Cost: n*k*m MACs for each product.

    >>> import minixception as mx
    >>> matmul(mx.tensor([[1.0, 2.0]]), mx.tensor([3.0, 4.0])).numpy()
    array([11.], dtype=float32)
    """
    a, b = floating_tensors("matmul", a, b)
    rows = reshape(a, (1, *a.shape)) if a.ndim == 1 else a
    columns = reshape(b, (*b.shape, 1)) if b.ndim == 1 else b
    shape = _shape(rows.shape, columns.shape)
    y = (LINEAR if len(shape) == 2 else MATMUL)(rows, columns)
    if a.ndim > 1 and b.ndim > 1:
        return y
    return reshape(y, shape[:-2] + shape[-2:-1] * (a.ndim > 1) + shape[-1:] * (b.ndim > 1))
