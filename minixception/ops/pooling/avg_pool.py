"""Average pooling: the mean of every window, channel by channel. Padding is not counted.

    y[n,i,j,c] = 1/k_ij sum_{a,b} x[n, i*s+a-p, j*s+b-p, c]       over the k_ij taps (a,b) inside of the image

Shapes: x (n, h, w, c), window (kh, kw), y (n, ho, wo, c); stride s, padding p as in ops/window.py. k_ij is
kh*kw inside and less at the border. (Counting padded zeros, as PyTorch does unless told otherwise, would
darken the border.)
Backward: dx[n,u,v,c] = sum of dy[n,i,j,c] / k_ij over the windows (i,j) that cover pixel (u,v)
Cost: no MACs in the paper's way of counting; n*ho*wo*c*kh*kw additions. Memory-bound: x is read once, y is
written once.
Source: the rule of Keras AveragePooling2D; the pooling branch of Szegedy et al. 2016, figures 5 to 7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.jit import loops, parallel, prange
from ...cpu.simd import add, lanes, load, multiply, splat, store
from ...engine.op import Case, Draw, Op, Rung, Shape
from ...engine.tensor import Tensor
from ...gpu.kernel import dtype, empty, kernel
from ...gpu.pixels import element, pixel_grid, this_element
from ..window import Border, Padding, Pair, pad_image, sample_general_window, taps
from .arguments import pool_window, pooled_shape, sample_pool, window_params

# 1. Definition ----------------------------------------------------------------------------------------------


def forward_numpy(
    x: np.ndarray, *, size: tuple[int, int], stride: Pair, padding: Border
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """One shifted copy of x per tap of the window, summed, and divided by the taps inside of the image."""
    xp, outputs, _ = pad_image(x, size, stride, padding)  # (n, hp, wp, c), (ho, wo)
    y = np.zeros((x.shape[0], *outputs, x.shape[3]), x.dtype)
    for _, _, window in taps(size, stride, outputs):
        y += xp[window]  # (n, ho, wo, c)
    return y / _counts(x.shape, size, stride, padding, x.dtype), (x.shape, size, stride, padding)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
    """Every pixel of a window gets the same share of dy."""
    shape, size, stride, padding = saved
    share = dy / _counts(shape, size, stride, padding, dy.dtype)  # (n, ho, wo, c)
    dxp, outputs, inside = pad_image(np.zeros(shape, dy.dtype), size, stride, padding)  # (n, hp, wp, c)
    for _, _, window in taps(size, stride, outputs):
        dxp[window] += share
    return (np.ascontiguousarray(dxp[inside]),)


def _counts(shape: Shape, size: tuple[int, int], stride: Pair, padding: Border, dtype: np.dtype[Any]) -> np.ndarray:
    """The number of taps of each window that lie inside of the image, (ho, wo, 1)."""
    ones = np.ones((1, *shape[1:3], 1), dtype)  # (1, h, w, 1)
    image, outputs, _ = pad_image(ones, size, stride, padding)  # (1, hp, wp, 1)
    counts = np.zeros((*outputs, 1), dtype)
    for _, _, window in taps(size, stride, outputs):
        counts += image[window][0]  # (ho, wo, 1)
    return counts


# 2. CPU -----------------------------------------------------------------------------------------------------

# Loops: the formula, one scalar at a time


@loops
def _forward_loops(x, y, kh, kw, stride, top, left):
    n, h, w, c = x.shape
    for m in range(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for q in range(c):
                    total, count = x.dtype.type(0), 0
                    for a in range(kh):
                        for b in range(kw):
                            u, v = i * stride + a - top, j * stride + b - left
                            if 0 <= u < h and 0 <= v < w:
                                total += x[m, u, v, q]
                                count += 1
                    y[m, i, j, q] = total / count


@loops
def _backward_loops(dy, counts, dx, kh, kw, stride, top, left):
    n, h, w, c = dx.shape
    dx[:] = 0
    for m in range(n):
        for i in range(dy.shape[1]):
            for j in range(dy.shape[2]):
                for a in range(kh):
                    for b in range(kw):
                        u, v = i * stride + a - top, j * stride + b - left
                        if 0 <= u < h and 0 <= v < w:
                            for q in range(c):
                                dx[m, u, v, q] += dy[m, i, j, q] / counts[i, j, 0]


# Fast: a depthwise convolution without weights. Forward, one vector of channels is summed over the window in
# a register and stored once, already divided; a task is one row of y. Backward, a task is one row of dx, and
# a pixel gathers from the windows that cover it; few do (at most 4 for 3x3 with stride 2), so its sum may as
# well stay in L1.


@parallel
def _forward(x, y, kh, kw, stride, top, left, lanes):
    n, h, w, c = x.shape
    _, ho, wo, _ = y.shape
    xs, ys = x.reshape(-1), y.reshape(-1)
    for task in prange(n * ho):
        m, i = task // ho, task % ho
        a0, a1 = max(0, top - i * stride), min(kh, h + top - i * stride)
        for j in range(wo):
            b0, b1 = max(0, left - j * stride), min(kw, w + left - j * stride)
            corner = ((m * h + i * stride - top) * w + j * stride - left) * c  # of the window, in x
            share = splat(y, y.dtype.type(1 / ((a1 - a0) * (b1 - b0))))
            for q in range(0, c, lanes):
                valid = min(lanes, c - q)
                total = splat(y, y.dtype.type(0))
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        total = add(total, load(xs, corner + (a * w + b) * c + q, valid))
                store(ys, (task * wo + j) * c + q, multiply(total, share), valid)


@parallel
def _backward(dy, counts, dx, kh, kw, stride, top, left):
    n, h, w, c = dx.shape
    _, ho, wo, _ = dy.shape
    one = dy.dtype.type(1)
    for task in prange(n * h):
        m, u = task // h, task % h + top
        # Input row u is covered by output row i through tap a = u - i*stride: one residue class modulo the
        # stride.
        a0, a1 = max(u % stride, u - stride * (ho - 1)), min(kh, u + 1)
        for v in range(left, w + left):
            b0, b1 = max(v % stride, v - stride * (wo - 1)), min(kw, v + 1)
            total = dx[m, u - top, v - left]
            total[:] = 0
            for a in range(a0, a1, stride):
                for b in range(b0, b1, stride):
                    i, j = (u - a) // stride, (v - b) // stride
                    gradient, share = dy[m, i, j], one / counts[i, j, 0]
                    for q in range(c):
                        total[q] += gradient[q] * share


def _forward_in_vectors(x: np.ndarray, y: np.ndarray, *window: int) -> None:
    _forward(x, y, *window, lanes(x.dtype.type))


def _cpu_rung(forward_kernel: Any, backward_kernel: Any) -> Rung:
    """Kernels that write into the arrays they are given, as a rung."""

    def forward(
        x: np.ndarray, *, size: tuple[int, int], stride: int, padding: Padding
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        shape, window = pool_window(x.shape, size, stride, padding)
        y = memory.empty(shape, x.dtype)
        forward_kernel(x, y, *window)
        return y, (x.shape, size, stride, padding)

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
        shape, size, stride, padding = saved
        counts = _counts(shape, size, stride, padding, dy.dtype)  # (ho, wo, 1)
        dx = memory.empty(shape, dy.dtype)
        backward_kernel(dy, counts, dx, *pool_window(shape, size, stride, padding)[1])
        return (dx,)

    return Rung(forward, backward)


# 3. GPU -----------------------------------------------------------------------------------------------------
# A thread per output, and backward a thread per pixel of x, laid out as gpu/pixels.py says: the 32 threads of a
# warp have 32 neighbouring channels of one pixel, and every load is of whole lines of memory.
# Forward, an output reads its window, 9 values for 3x3; what several windows share is read by neighbours at the same
# moment, and the cache answers. Memory itself sees x once. Backward gathers, as on the CPU, at most 4 values for each
# pixel with 3x3 and stride 2: a scatter would need atomic additions, whose order changes from run to run. How many taps
# of a window lie inside of the image is a matter of four integers, cheaper to work out again than to read.


@kernel
def _forward_on_gpu(x, y, kh, kw, stride, top, left):
    _, h, w, c = x.shape
    m, i, j, q = this_element(y.shape[1])
    if j < y.shape[2] and q < c:
        a0, a1 = max(0, top - i * stride), min(kh, h + top - i * stride)
        b0, b1 = max(0, left - j * stride), min(kw, w + left - j * stride)
        total = dtype(0)
        for a in range(a0, a1):
            for b in range(b0, b1):
                total += element(x, m, i * stride + a - top, j * stride + b - left, q)
        y[m, i, j, q] = total / dtype((a1 - a0) * (b1 - b0))


@kernel
def _backward_on_gpu(dy, dx, kh, kw, stride, top, left):
    _, h, w, c = dx.shape
    _, ho, wo, _ = dy.shape
    m, row, column, q = this_element(h)
    if column < w and q < c:
        u, v = row + top, column + left
        total = dtype(0)
        for i in range(max(0, (u - kh) // stride + 1), min(ho, u // stride + 1)):  # the windows that cover (u, v)
            down = min(kh, h + top - i * stride) - max(0, top - i * stride)  # taps inside of the image
            for j in range(max(0, (v - kw) // stride + 1), min(wo, v // stride + 1)):
                across = min(kw, w + left - j * stride) - max(0, left - j * stride)
                total += element(dy, m, i, j, q) / dtype(down * across)
        dx[m, row, column, q] = total


def forward_cuda(x: Any, *, size: tuple[int, int], stride: int, padding: Padding) -> tuple[Any, tuple[Any, ...]]:
    """A thread per output sums its window in a register."""
    shape, window = pool_window(x.shape, size, stride, padding)
    y = empty(shape, x.dtype)
    _forward_on_gpu[pixel_grid(shape)](x, y, *window)
    return y, (x.shape, size, stride, padding)


def backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any]:
    """A thread per pixel of x gathers its shares of dy."""
    shape, size, stride, padding = saved
    dx = empty(shape, dy.dtype)
    _backward_on_gpu[pixel_grid(shape)](dy, dx, *pool_window(shape, size, stride, padding)[1])
    return (dx,)


# 4. Operator ------------------------------------------------------------------------------------------------


def _sample(draw: Draw) -> Case:
    shape, params = sample_pool(draw)
    return Case((draw.normal(*shape),), params)


def _sample_general(draw: Draw) -> Case:
    kernel, window, size = sample_general_window(draw, dilations=(1,))
    x = draw.normal(draw.integer(1, 2), *size, draw.integer(1, 20))
    return Case((x,), {"size": kernel, "stride": window["stride"], "padding": window["padding"]})


AVG_POOL2D = Op(
    name="avg_pool2d",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": _cpu_rung(_forward_loops, _backward_loops),
        "cpu": _cpu_rung(_forward_in_vectors, _backward),
        "cuda": Rung(forward_cuda, backward_cuda),
    },
    shape=partial(pooled_shape, "avg_pool2d"),
    sample=_sample,
)
GENERAL_AVG_POOL2D = replace(  # of any stride and padding: an average has no dilation
    AVG_POOL2D,
    name="general_avg_pool2d",
    rungs={"numpy": AVG_POOL2D.rungs["numpy"]},
    shape=partial(pooled_shape, "avg_pool2d", dilation=1),
    sample=_sample_general,
)


# 5. Function ------------------------------------------------------------------------------------------------


def avg_pool2d(x: Tensor, size: int | Sequence[int], stride: Pair | None = None, padding: Border = "valid") -> Tensor:
    """The mean of each window of x (n, h, w, c) over its pixels inside of x; y is (n, ho, wo, c).

    size: the window's side, or (height, width). stride: None for the window's size. padding: "same", "valid" or a
    number of pixels on each side; padded pixels are not counted. Stride and padding may be pairs (down, across).
    Raises ShapeError if x is no image or a window does not fit, ArgumentError for a size, stride or
    padding that does not exist.

    >>> import minixception as mx
    >>> avg_pool2d(mx.tensor([[[[1.0], [2.0], [6.0]]]]), (1, 2), stride=2, padding="same").numpy().ravel()
    array([1.5, 6. ], dtype=float32)
    """
    params = window_params("avg_pool2d", size, stride, padding)
    op = GENERAL_AVG_POOL2D if params.pop("dilation", None) else AVG_POOL2D
    return op(x, **params)
