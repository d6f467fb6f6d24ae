"""Softmax and its logarithm, over the last axis.

    softmax(x)_j = e^(x_j) / sum_k e^(x_k)          log_softmax(x)_j = x_j - log sum_k e^(x_k)

Shapes: x, y (..., k). The greatest x of a row is subtracted first: the result is the same and no e^x
overflows.
Backward, both from y alone: softmax      dx_j = y_j (dy_j - sum_k dy_k y_k)
                             log_softmax  dx_j = dy_j - e^(y_j) sum_k dy_k
Cost: no MACs. One exponential per element from the C library, 3 to 5 ns, while its 8 bytes move in 0.2 ns:
the exponential is the limit. For the head of a classifier, 64 rows of 1000, that is a fifth of a millisecond.
Source: Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numba.extending import register_jitable

from ..cpu import memory
from ..cpu.jit import loops, parallel, prange
from ..engine.op import Case, Draw, Op, Rung, Shape
from ..engine.tensor import Tensor
from ..errors import ShapeError
from ..gpu.kernel import Kernel, cuda, device_function, dtype, empty, kernel
from ..gpu.reduce import block_max, block_sum, row_threads

# 1. Definition ----------------------------------------------------------------------------------------------


def _softmax_forward_numpy(x: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # (..., k)
    y = e / e.sum(axis=-1, keepdims=True)  # (..., k)
    return y, (y,)


def _softmax_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    (y,) = saved
    return (y * (dy - (dy * y).sum(axis=-1, keepdims=True)),)  # (..., k)


def _log_softmax_forward_numpy(x: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
    z = x - x.max(axis=-1, keepdims=True)  # (..., k)
    y = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))  # (..., k)
    return y, (y,)


def _log_softmax_backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    (y,) = saved
    return (dy - np.exp(y) * dy.sum(axis=-1, keepdims=True),)  # (..., k)


# 2. CPU -----------------------------------------------------------------------------------------------------
# The formulas once more, for one row. A row of 1000 classes is 4 kB and stays in L1 from its first pass to
# its last.

_row = register_jitable(error_model="numpy", fastmath={"contract"})


@_row
def _softmax(x, y):
    top = x.max()
    total = x.dtype.type(0)
    for j in range(x.size):
        y[j] = math.exp(x[j] - top)
        total += y[j]
    for j in range(x.size):
        y[j] /= total


@_row
def _softmax_gradient(dy, y, dx):
    dot = y.dtype.type(0)
    for j in range(y.size):
        dot += dy[j] * y[j]
    for j in range(y.size):
        dx[j] = y[j] * (dy[j] - dot)


@_row
def _log_softmax(x, y):
    top = x.max()
    total = x.dtype.type(0)
    for j in range(x.size):
        total += math.exp(x[j] - top)
    log_total = math.log(total)
    for j in range(x.size):
        y[j] = x[j] - top - log_total


@_row
def _log_softmax_gradient(dy, y, dx):
    total = y.dtype.type(0)
    for j in range(y.size):
        total += dy[j]
    for j in range(y.size):
        dx[j] = dy[j] - math.exp(y[j]) * total


def _loops_rung(value: Callable[..., None], gradient: Callable[..., None]) -> Rung:
    """One row after the other."""

    @loops
    def forward(x, y):
        for i in range(x.shape[0]):
            value(x[i], y[i])

    @loops
    def backward(dy, y, dx):
        for i in range(y.shape[0]):
            gradient(dy[i], y[i], dx[i])

    return _rung(forward, backward)


def _cpu_rung(value: Callable[..., None], gradient: Callable[..., None]) -> Rung:
    """A task is one row, so no sum depends on the number of threads."""

    @parallel
    def forward(x, y):
        for i in prange(x.shape[0]):
            value(x[i], y[i])

    @parallel
    def backward(dy, y, dx):
        for i in prange(y.shape[0]):
            gradient(dy[i], y[i], dx[i])

    return _rung(forward, backward)


def _rung(forward_rows: Any, backward_rows: Any, empty: Callable[..., Any] = memory.empty) -> Rung:
    """Kernels on rows (n, k), as a rung for arrays (..., k)."""

    def forward(x: np.ndarray) -> tuple[np.ndarray, tuple[Any, ...]]:
        y = empty(x.shape, x.dtype)
        forward_rows(_rows(x), _rows(y))
        return y, (y,)

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
        (y,) = saved
        dx = empty(y.shape, y.dtype)
        backward_rows(_rows(dy), _rows(y), _rows(dx))
        return (dx,)

    return Rung(forward, backward)


def _rows(x: np.ndarray) -> np.ndarray:
    *_, k = x.shape
    return x.reshape(-1, k)


# 3. GPU -----------------------------------------------------------------------------------------------------
# A block works on a row, its threads on every 128th element (with fewer for short rows), so that neighbours load
# neighbours at any length of the row. The block needs two values of the whole row, each one reduction by shuffles:
# its maximum and its sum of exponentials. x is read three times, but a row of 1000 classes is 4 kB: the second and
# third time it comes from the cache. The exponentials are computed twice, which is cheaper than to write them down in
# between.


@device_function
def _row_top(x, row):
    """The maximum of a row, for all threads of the block. A NaN may get lost here: its exponential will not."""
    top = dtype(-math.inf)
    for j in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
        if x[row, j] > top:
            top = x[row, j]
    return block_max(top)


@device_function
def _row_total(x, row, top):
    """The sum of e^(x - top) of a row, for all threads of the block."""
    total = dtype(0)
    for j in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
        total += math.exp(x[row, j] - top)
    return block_sum(total)


@kernel
def _softmax_cuda(x, y):
    row = cuda.blockIdx.x
    top = _row_top(x, row)
    total = _row_total(x, row, top)
    for j in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
        y[row, j] = math.exp(x[row, j] - top) / total


@kernel
def _softmax_gradient_cuda(dy, y, dx):
    row = cuda.blockIdx.x
    dot = dtype(0)
    for j in range(cuda.threadIdx.x, y.shape[1], cuda.blockDim.x):
        dot += dy[row, j] * y[row, j]
    dot = block_sum(dot)
    for j in range(cuda.threadIdx.x, y.shape[1], cuda.blockDim.x):
        dx[row, j] = y[row, j] * (dy[row, j] - dot)


@kernel
def _log_softmax_cuda(x, y):
    row = cuda.blockIdx.x
    top = _row_top(x, row)
    log_total = math.log(_row_total(x, row, top))
    for j in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
        y[row, j] = x[row, j] - top - log_total


@kernel
def _log_softmax_gradient_cuda(dy, y, dx):
    row = cuda.blockIdx.x
    total = dtype(0)
    for j in range(cuda.threadIdx.x, y.shape[1], cuda.blockDim.x):
        total += dy[row, j]
    total = block_sum(total)
    for j in range(cuda.threadIdx.x, y.shape[1], cuda.blockDim.x):
        dx[row, j] = dy[row, j] - math.exp(y[row, j]) * total


def launch_rows(kernel: Kernel, *arrays: Any) -> None:
    """Run a kernel of one block per row on device arrays, the first of which is (n, k)."""
    n, k = arrays[0].shape
    if n:
        kernel[n, row_threads(k)](*arrays)


def _cuda_rung(forward: Kernel, backward: Kernel) -> Rung:
    return _rung(partial(launch_rows, forward), partial(launch_rows, backward), empty)


# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(x: Shape) -> Shape:
    if (0, *x)[-1] == 0:  # a scalar has no classes
        raise ShapeError(f"softmax and log_softmax: x must be (..., k) with at least one class, got shape {x}")
    return x


def _sample(draw: Draw) -> Case:
    return Case((draw.normal(draw.integer(1, 4), draw.integer(1, 20)),))


SOFTMAX = Op(
    name="softmax",
    rungs={
        "numpy": Rung(_softmax_forward_numpy, _softmax_backward_numpy),
        "loops": _loops_rung(_softmax, _softmax_gradient),
        "cpu": _cpu_rung(_softmax, _softmax_gradient),
        "cuda": _cuda_rung(_softmax_cuda, _softmax_gradient_cuda),
    },
    shape=_shape,
    sample=_sample,
)
LOG_SOFTMAX = Op(
    name="log_softmax",
    rungs={
        "numpy": Rung(_log_softmax_forward_numpy, _log_softmax_backward_numpy),
        "loops": _loops_rung(_log_softmax, _log_softmax_gradient),
        "cpu": _cpu_rung(_log_softmax, _log_softmax_gradient),
        "cuda": _cuda_rung(_log_softmax_cuda, _log_softmax_gradient_cuda),
    },
    shape=_shape,
    sample=_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def softmax(x: Tensor) -> Tensor:
    """Probabilities from logits x (..., k): positive, and each row sums to 1. ShapeError for a scalar.

    >>> import minixception as mx
    >>> softmax(mx.tensor([[1000.0, 1000.0]])).numpy()
    array([[0.5, 0.5]], dtype=float32)
    """
    return SOFTMAX(x)


def log_softmax(x: Tensor) -> Tensor:
    """log(softmax(x)) for x (..., k), also where the probability would round to 0. ShapeError for a scalar.

    >>> import minixception as mx
    >>> log_softmax(mx.tensor([[0.0, 1000.0]])).numpy()
    array([[-1000.,     0.]], dtype=float32)
    """
    return LOG_SOFTMAX(x)
