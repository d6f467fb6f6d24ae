"""2. CPU: pointwise convolution in plain Numba loops, and as the package's own matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.gemm import gemm
from ...cpu.jit import loops, parallel, prange

# Loops: the formula, one scalar at a time ---------------------------------------------------------------------------


@loops
def _forward_loops(x, w, y, stride):
    for m in range(y.shape[0]):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for o in range(y.shape[3]):
                    total = x.dtype.type(0)
                    for c in range(x.shape[3]):
                        total += x[m, i * stride, j * stride, c] * w[c, o]
                    y[m, i, j, o] = total


@loops
def _backward_loops(dy, x, w, dx, dw, stride):
    for m in range(dy.shape[0]):
        for i in range(dy.shape[1]):
            for j in range(dy.shape[2]):
                for c in range(x.shape[3]):
                    for o in range(dy.shape[3]):
                        dx[m, i * stride, j * stride, c] += dy[m, i, j, o] * w[c, o]
                        dw[c, o] += x[m, i * stride, j * stride, c] * dy[m, i, j, o]


def forward_loops(x: np.ndarray, w: np.ndarray, *, stride: int) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The formula of the definition as loops."""
    y = _output(x, w, stride)
    _forward_loops(x, w, y, stride)
    return y, (x, w, stride)


def backward_loops(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same loops, sending dy back to the input and to the kernel."""
    x, w, stride = saved
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    _backward_loops(dy, x, w, dx, dw, stride)
    return dx, dw


def _output(x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    n, h, wd, _ = x.shape
    return memory.empty((n, -(-h // stride), -(-wd // stride), w.shape[1]), x.dtype)


# Fast ---------------------------------------------------------------------------------------------------------------
# NHWC makes every pixel a row of a matrix, so nothing has to be moved: the kernel is cpu/gemm.py. With a stride the
# rows that count are first gathered into a matrix of their own, a copy of 1/stride^2 of x next to a product that reads
# each row co times; on the way back they are spread over dx, and what lies between is set to 0 in the same pass.


@parallel
def _gather(x, stride, rows):
    n, h, wd, c = x.shape
    ho, wo = (h + stride - 1) // stride, (wd + stride - 1) // stride
    for line in prange(n * ho):
        m, i = line // ho, line % ho
        for j in range(wo):
            for q in range(c):
                rows[line * wo + j, q] = x[m, i * stride, j * stride, q]


@parallel
def _spread(rows, stride, dx):
    n, h, wd, c = dx.shape
    ho, wo = (h + stride - 1) // stride, (wd + stride - 1) // stride
    for line in prange(n * h):
        m, u = line // h, line % h
        for v in range(wd):
            if u % stride == 0 and v % stride == 0:
                row = (m * ho + u // stride) * wo + v // stride
                for q in range(c):
                    dx[m, u, v, q] = rows[row, q]
            else:
                for q in range(c):
                    dx[m, u, v, q] = 0


def forward_cpu(x: np.ndarray, w: np.ndarray, *, stride: int) -> tuple[np.ndarray, tuple[Any, ...]]:
    """One matrix product (P, ci) (ci, co)."""
    y = _output(x, w, stride)
    gemm(pixel_rows(x, stride), w, y.reshape(-1, w.shape[1]))
    return y, (x, w, stride)


def backward_cpu(
    dy: np.ndarray, saved: tuple[Any, ...], wanted: tuple[bool, bool] = (True, True)
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """dx = dy w^T and dw = x^T dy by the same tile; the transposes are only strides."""
    x, w, stride = saved
    dy = dy.reshape(-1, w.shape[1])  # (P, co)
    return (
        _input_gradient(dy, x, w, stride) if wanted[0] else None,
        gemm(pixel_rows(x, stride), dy, memory.empty(w.shape, w.dtype), transpose_a=True) if wanted[1] else None,
    )


def _input_gradient(dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int) -> np.ndarray:
    if stride == 1:
        dx = memory.empty(x.shape, x.dtype)
        gemm(dy, w, dx.reshape(-1, w.shape[0]), transpose_b=True)
        return dx
    rows = gemm(dy, w, memory.empty((dy.shape[0], w.shape[0]), x.dtype), transpose_b=True)
    dx = memory.empty(x.shape, x.dtype)
    _spread(rows, stride, dx)
    return dx


def pixel_rows(x: np.ndarray, stride: int) -> np.ndarray:
    """The pixels a stride visits as the rows of a matrix (P, ci)."""
    n, h, w, c = x.shape
    if stride == 1:
        return x.reshape(-1, c)
    rows = memory.empty((n * -(-h // stride) * -(-w // stride), c), x.dtype)
    _gather(x, stride, rows)
    return rows
