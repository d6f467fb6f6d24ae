"""Linear (fully connected) layer: a matrix product, and a bias if there is one.

    y[n,j] = sum_i x[n,i] * w[i,j] + b[j]

Shapes: x (n, ci), w (ci, co), b (co) or left out, y (n, co).
Backward: dx = dy wᵀ      dw = xᵀ dy      db[j] = sum_n dy[n,j]
Cost: n*ci*co MACs on x + w + y elements. For one image every weight is used once: 4 bytes for 2 FLOP,
memory-bound; with a batch of n each weight that was fetched is used n times.
Source: Chollet 2017, figure 5 ("optional fully-connected layers", logistic regression).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cpu import memory
from ..cpu.gemm import gemm
from ..cpu.jit import loops
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ShapeError
from ..gpu.gemm import MATRIX_A, MATRIX_B, MATRIX_C, TRANSPOSED_A, TRANSPOSED_B, register_tiled
from ..gpu.kernel import THREADS, blocks, cuda, device_function, dtype, empty, kernel

# 1. Definition ----------------------------------------------------------------------------------------------


def forward_numpy(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The product, and the bias on every row of it."""
    y = x @ w  # (n, co)
    return y if b is None else y + b, (x, w, b is not None)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """Two products with the transposed factors; the bias was added to each row, so db sums over rows."""
    x, w, has_bias = saved
    dx = dy @ w.T  # (n, ci)
    dw = x.T @ dy  # (ci, co)
    return (dx, dw, dy.sum(axis=0)) if has_bias else (dx, dw)


# 2. CPU -----------------------------------------------------------------------------------------------------
# Loops: three of them.


@loops
def _forward_loops(x, w, y):
    n, ci = x.shape
    for m in range(n):
        for j in range(w.shape[1]):
            for i in range(ci):
                y[m, j] += x[m, i] * w[i, j]


@loops
def _backward_loops(dy, x, w, dx, dw):
    n, ci = x.shape
    for m in range(n):
        for j in range(w.shape[1]):
            for i in range(ci):
                dx[m, i] += dy[m, j] * w[i, j]
                dw[i, j] += dy[m, j] * x[m, i]


def forward_loops(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The formula of the definition as loops, started from the bias."""
    y = _start(x, w, b)
    _forward_loops(x, w, y)
    return y, (x, w, b is not None)


def backward_loops(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """The same loops, sending dy back to the input and to the weights."""
    x, w, has_bias = saved
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    _backward_loops(dy, x, w, dx, dw)
    return (dx, dw, dy.sum(axis=0)) if has_bias else (dx, dw)


def _start(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    """Every row of y before the product is added to it: the bias, or zero."""
    y = memory.empty((x.shape[0], w.shape[1]), x.dtype)
    y[...] = 0 if b is None else b
    return y


# Fast: the three products run near the machine's peak in cpu/gemm.py, which reads transposed factors in
# place. The bias costs no pass of its own: it is what y holds when the product is added. db reads dy once and
# stays with NumPy.


def forward_cpu(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> tuple[np.ndarray, tuple[Any, ...]]:
    """y = b + x w."""
    return gemm(x, w, _start(x, w, b), accumulate=True), (x, w, b is not None)


def backward_cpu(
    dy: np.ndarray, saved: tuple[Any, ...], wanted: tuple[bool, ...] = (True, True)
) -> tuple[np.ndarray | None, ...]:
    """dx = dy wᵀ and dw = xᵀ dy, each only if wanted."""
    x, w, has_bias = saved
    dx = gemm(dy, w, memory.empty(x.shape, x.dtype), transpose_b=True) if wanted[0] else None
    dw = gemm(x, dy, memory.empty(w.shape, w.dtype), transpose_a=True) if wanted[1] else None
    return (dx, dw, dy.sum(axis=0)) if has_bias else (dx, dw)


# 3. GPU -----------------------------------------------------------------------------------------------------
# The three products on the fastest step of gpu/gemm. The bias is added to the sums while they are still in
# registers. db is a thread per column: neighbouring threads read neighbours, row after row.


@device_function
def _add_bias(total, b, j):
    return total + b[j]


_product = register_tiled(MATRIX_A, MATRIX_B, MATRIX_C)
_biased_product = register_tiled(MATRIX_A, MATRIX_B, MATRIX_C, _add_bias)
_input_product = register_tiled(MATRIX_A, TRANSPOSED_B, MATRIX_C)
_weight_product = register_tiled(TRANSPOSED_A, MATRIX_B, MATRIX_C)


@kernel
def _sum_rows(dy, db):
    j = cuda.grid(1)
    if j < db.size:
        total = dtype(0)
        for m in range(dy.shape[0]):
            total += dy[m, j]
        db[j] = total


def forward_cuda(x: Any, w: Any, b: Any | None = None) -> tuple[Any, tuple[Any, ...]]:
    """y = x w + b."""
    (n, ci), co = x.shape, w.shape[1]
    y = empty((n, co), x.dtype)
    product = _product if b is None else _biased_product
    return product(x, w, y, (n, co, ci), extra=b), (x, w, b is not None)


def backward_cuda(dy: Any, saved: tuple[Any, ...], wanted: tuple[bool, ...] = (True, True)) -> tuple[Any | None, ...]:
    """dx = dy wᵀ and dw = xᵀ dy, each only if wanted."""
    x, w, has_bias = saved
    (n, ci), co = x.shape, w.shape[1]
    dx = _input_product(dy, w, empty(x.shape, x.dtype), (n, ci, co)) if wanted[0] else None
    dw = _weight_product(x, dy, empty(w.shape, w.dtype), (ci, co, n), split=True) if wanted[1] else None
    if not has_bias:
        return dx, dw
    db = empty((co,), dy.dtype)
    _sum_rows[blocks(co), THREADS](dy, db)
    return dx, dw, db


# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape, w: Shape, b: Shape | None = None) -> Shape:
    if len(x) != 2:
        raise ShapeError(f"linear: x must be (n, ci), got {len(x)} dimensions: {x}; pool or reshape images first")
    if len(w) != 2 or w[0] != x[1]:
        raise ShapeError(f"linear: w must be (ci, co) with ci = {x[1]}, as x is {x}; got {w}")
    if b is not None and b != (w[1],):
        raise ShapeError(f"linear: b must be ({w[1]},), one value per output, got {b}")
    return (x[0], w[1])


def _macs(x: Shape, w: Shape, b: Shape | None = None) -> int:
    return x[0] * w[0] * w[1]


def _sample(draw: Draw) -> Case:
    n, ci, co = draw.integer(1, 7), draw.integer(1, 20), draw.integer(1, 20)
    bias = (draw.normal(co),) if draw.choice((True, False)) else ()
    return Case((draw.normal(n, ci), draw.normal(ci, co), *bias))


LINEAR = Op(
    name="linear",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": Rung(forward_loops, backward_loops),
        "cpu": Rung(forward_cpu, backward_cpu, selective=True),
        "cuda": Rung(forward_cuda, backward_cuda, selective=True),
    },
    shape=_shape,
    macs=_macs,
    sample=_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """x (n, ci) times w (ci, co), plus b (co) if it is given; y is (n, co).

    Raises ShapeError if sizes disagree, DTypeError for mixed dtypes. Cost: n*ci*co MACs.

    >>> import minixception as mx
    >>> linear(mx.tensor([[1.0, 2.0]]), mx.tensor([[3.0], [4.0]]), mx.tensor([0.5])).numpy()
    array([[11.5]], dtype=float32)
    """
    return LINEAR(x, w) if b is None else LINEAR(x, w, b)
