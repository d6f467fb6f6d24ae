"""Max pooling: of every window, the greatest value of each channel.

    y[n,i,j,c] = max_{a,b} x[n, i*s+a-p, j*s+b-p, c]              over the taps (a,b) inside of the image

Shapes: x (n, h, w, c), window (kh, kw), y (n, ho, wo, c); stride s, padding p as in ops/window.py. A
padded pixel never wins, as if it were -inf. Of equal values the first in row-major order of the window wins;
a NaN wins over every other value, and the first NaN over the others, so that NaN propagates as in np.maximum.
Backward: y[n,i,j,c] is one of the pixels of x, and dy[n,i,j,c] goes there:
          dx[n,u,v,c] = sum of dy[n,i,j,c] over the windows (i,j) whose winner is pixel (u,v)
The winner's tap a*kw + b is all that is saved: one byte for each output, where keeping x would hold 4*s*s
bytes in float32.
Cost: no MACs; n*ho*wo*c*kh*kw comparisons. Memory-bound: x is read once, y and the taps are written once.
Source: Chollet 2017, figure 5 (3x3, stride 2, padding "same"); the padding rule is TensorFlow's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.jit import loops, parallel, prange
from ...cpu.simd import (
    Normalised,
    arrived,
    greatest,
    holder,
    lanes,
    load,
    prefetch_run,
    splat,
    store,
    store_numbers,
    vectors_of,
)
from ...engine.op import Case, Draw, Op, Rung
from ...engine.tensor import Tensor
from ...gpu.kernel import dtype, empty, kernel
from ...gpu.pixels import element, pixel_grid, this_element
from ..window import Border, Padding, Pair, general_form, pad_image, sample_general_window, taps
from .arguments import pool_window, pooled_shape, sample_pool, window_params

# 1. Definition ----------------------------------------------------------------------------------------------


def forward_numpy(
    x: np.ndarray, *, size: tuple[int, int], stride: Pair, padding: Border, dilation: Pair = 1
) -> tuple[np.ndarray, tuple[Any, ...]]:
    """One shifted copy of x per tap of the window; where it is greater than all before, it wins."""
    xp, outputs, _ = pad_image(x, size, stride, padding, dilation)  # (n, hp, wp, c), (ho, wo)
    image, _, _ = pad_image(np.ones((1, *x.shape[1:3], 1), bool), size, stride, padding, dilation)  # (1, hp, wp, 1)
    y = np.full((x.shape[0], *outputs, x.shape[3]), -np.inf, x.dtype)  # and stays so where dilated taps miss the image
    tap = np.zeros(y.shape, _tap_dtype(size))
    begun = np.zeros((1, *outputs, 1), bool)
    for a, b, window in taps(size, stride, outputs, dilation):
        value = xp[window]  # (n, ho, wo, c)
        greater = ~(value <= y) & ~np.isnan(y)  # (n, ho, wo, c), or the first NaN
        wins = image[window] & (greater | ~begun)  # (n, ho, wo, c)
        y[wins], tap[wins] = value[wins], a * size[1] + b
        begun |= image[window]  # (1, ho, wo, 1)
    return y, (tap, x.shape, size, stride, padding)


def backward_numpy(dy: np.ndarray, saved: tuple[Any, ...], dilation: Pair = 1) -> tuple[np.ndarray]:
    """dy scattered back along each tap, where that tap won."""
    tap, shape, size, stride, padding = saved
    dxp, outputs, inside = pad_image(np.zeros(shape, dy.dtype), size, stride, padding, dilation)  # (n, hp, wp, c)
    for a, b, window in taps(size, stride, outputs, dilation):
        dxp[window] += np.where(tap == a * size[1] + b, dy, 0)  # (n, ho, wo, c)
    return (np.ascontiguousarray(dxp[inside]),)


def _tap_dtype(size: tuple[int, int]) -> np.dtype[Any]:
    """The smallest unsigned integer that can count the taps: one byte up to 16x16."""
    return np.min_scalar_type(size[0] * size[1] - 1)


# 2. CPU -----------------------------------------------------------------------------------------------------

# Loops: the formula, one scalar at a time


@loops
def _forward_loops(x, y, tap, kh, kw, stride, top, left):
    n, h, w, c = x.shape
    for m in range(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for q in range(c):
                    best, winner = x.dtype.type(0), -1
                    for a in range(kh):
                        for b in range(kw):
                            u, v = i * stride + a - top, j * stride + b - left
                            if 0 <= u < h and 0 <= v < w:
                                value = x[m, u, v, q]
                                if winner < 0 or value > best or (np.isnan(value) and not np.isnan(best)):
                                    best, winner = value, a * kw + b
                    y[m, i, j, q], tap[m, i, j, q] = best, winner


@loops
def _backward_loops(dy, tap, dx, kh, kw, stride, top, left):
    n, ho, wo, c = dy.shape
    dx[:] = 0
    for m in range(n):
        for i in range(ho):
            for j in range(wo):
                for q in range(c):
                    a, b = tap[m, i, j, q] // kw, tap[m, i, j, q] % kw
                    dx[m, i * stride + a - top, j * stride + b - left, q] += dy[m, i, j, q]


# Fast: a task is one row of y. A vector of channels walks over its window, and the greatest value and the number of its
# tap stay in registers. There is no branch, whatever wins: a comparison yields a mask, and the mask chooses between two
# registers. Of a pixel's channels only one vector is read at a time, which no hardware takes for a stream: an output
# asks for the ``stride`` rows of x that the output below it reads first. Inference needs no taps.


@parallel
def _forward(x, y, tap, kh, kw, stride, top, left, incoming=None):
    """incoming: what f is in y = max f(x), see ``vectors_of``. A ReLU that is shut has no winner, but tap kh * kw."""
    n, h, w, c = x.shape
    _, ho, wo, _ = y.shape
    for task in prange(n * ho):
        m, i = task // ho, task % ho
        a0, a1 = max(0, top - i * stride), min(kh, h + top - i * stride)
        for j in range(wo):
            b0, b1 = max(0, left - j * stride), min(kw, w + left - j * stride)
            u, v = i * stride - top, j * stride - left
            for q in range(0, c, lanes(y.dtype)):
                count = min(lanes(y.dtype), c - q)
                for r in range(stride):
                    prefetch_run(x, (m, u + kh + r, v, q), 2, False)
                f = vectors_of(incoming, x, q, count)
                (best,) = arrived((load(x, (m, u + a0, v + b0, q), count),), f, None)
                winner = splat(x, a0 * kw + b0)
                for a in range(a0, a1):
                    for b in range(b0, b1):
                        (value,) = arrived((load(x, (m, u + a, v + b, q), count),), f, None)
                        winner = holder(best, value, winner, splat(x, a * kw + b))
                        best = greatest(best, value)
                if incoming is not None:
                    winner = holder(splat(x, incoming.floor), best, splat(x, kh * kw), winner)
                store(y, (m, i, j, q), best, count)
                store_numbers(tap, (m, i, j, q), winner, count)


@parallel
def _maxima(x, y, kh, kw, stride, top, left):
    n, h, w, c = x.shape
    _, ho, wo, _ = y.shape
    for task in prange(n * ho):
        m, i = task // ho, task % ho
        u0, u1 = max(0, i * stride - top), min(h, i * stride - top + kh)
        for j in range(wo):
            v0, v1 = max(0, j * stride - left), min(w, j * stride - left + kw)
            for q in range(0, c, lanes(y.dtype)):
                count = min(lanes(y.dtype), c - q)
                for r in range(stride):
                    prefetch_run(x, (m, i * stride - top + kh + r, j * stride - left, q), 2, False)
                best = load(x, (m, u0, v0, q), count)
                for u in range(u0, u1):
                    for v in range(v0, v1):
                        best = greatest(best, load(x, (m, u, v, q), count))
                store(y, (m, i, j, q), best, count)


# Backward, a task is one row of dx, which gathers: the pixel asks each window that covers it whether it has won. A
# scatter from dy would make overlapping windows of two tasks add to the same pixel. The innermost loop runs over the
# channels of one pixel, and LLVM makes vectors of it; the pixel's sums are in L1 meanwhile.


@parallel
def _backward(dy, tap, dx, kh, kw, stride, top, left):
    n, h, w, c = dx.shape
    _, ho, wo, _ = dy.shape
    zero = dx.dtype.type(0)
    for task in prange(n * h):
        m, u = task // h, task % h + top
        # Input row u is covered by output row i through tap a = u - i*stride: one residue class modulo the
        # stride.
        a0, a1 = max(u % stride, u - stride * (ho - 1)), min(kh, u + 1)
        for v in range(left, w + left):
            b0, b1 = max(v % stride, v - stride * (wo - 1)), min(kw, v + 1)
            total = dx[m, u - top, v - left]
            total[:] = zero
            for a in range(a0, a1, stride):
                for b in range(b0, b1, stride):
                    i, j = (u - a) // stride, (v - b) // stride
                    gradient, winner = dy[m, i, j], tap[m, i, j]
                    this_tap = tap.dtype.type(a * kw + b)
                    for q in range(c):
                        total[q] += gradient[q] if winner[q] == this_tap else zero


def _cpu_rung(forward_kernel: Any, backward_kernel: Any) -> Rung:
    """Kernels that write into the arrays they are given, as a rung."""

    def forward(
        x: np.ndarray, *, size: tuple[int, int], stride: int, padding: Padding
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        shape, window = pool_window(x.shape, size, stride, padding)
        y, tap = memory.empty(shape, x.dtype), memory.empty(shape, _tap_dtype(size))
        forward_kernel(x, y, tap, *window)
        return y, (tap, x.shape, size, stride, padding)

    def backward(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray]:
        tap, shape, size, stride, padding = saved
        dx = memory.empty(shape, dy.dtype)
        backward_kernel(dy, tap, dx, *pool_window(shape, size, stride, padding)[1])
        return (dx,)

    return Rung(forward, backward)


# In a compiled training step max pooling reads through the batchnorm and the ReLU in front of it, as separable
# convolutions do (ops/separable/training.py): what those would write is never written.


def pool_normalised(x: np.ndarray, incoming: Normalised, y: np.ndarray, **window: Any) -> np.ndarray:
    """Write the maxima of f(x) into y (n, ho, wo, c), and return the taps that have won, or one more where f is 0."""
    tap = memory.empty(y.shape, _tap_dtype((math.prod(window["size"]) + 1, 1)))
    _forward(x, y, tap, *pool_window(x.shape, **window)[1], incoming)
    return tap


def gradient_into(dx: np.ndarray, dy: np.ndarray, tap: np.ndarray, **window: Any) -> None:
    """Write dx (n, h, w, c)."""
    _backward(dy, tap, dx, *pool_window(dx.shape, **window)[1])


def pool_into(x: np.ndarray, y: np.ndarray, size: tuple[int, int], stride: int, padding: Padding) -> np.ndarray:
    """Write the maxima into y (n, ho, wo, c) and return it: max pooling for inference, which records no taps."""
    _maxima(x, y, *pool_window(x.shape, size, stride, padding)[1])
    return y


# 3. GPU -----------------------------------------------------------------------------------------------------
# A thread per output, and backward a thread per pixel of x, laid out as gpu/pixels.py says: the 32 threads of a
# warp have 32 neighbouring channels of one pixel, and every load is of whole lines of memory.
# Forward, an output reads its window, 9 values for 3x3; what several windows share is read by neighbours at the same
# moment, and the cache answers. Memory itself sees x once: with stride 2, 4 values for each output.
# Backward gathers, as on the CPU: a pixel asks each window that covers it (at most 4 for 3x3 with stride 2) for its
# tap, one byte, and reads dy only where it has won. A scatter would need atomic additions, whose order changes from
# run to run.


@kernel
def _forward_on_gpu(x, y, tap, kh, kw, stride, top, left):
    _, h, w, c = x.shape
    m, i, j, q = this_element(y.shape[1])
    if j < y.shape[2] and q < c:
        a0, a1 = max(0, top - i * stride), min(kh, h + top - i * stride)
        b0, b1 = max(0, left - j * stride), min(kw, w + left - j * stride)
        best, winner = dtype(-math.inf), a0 * kw + b0
        for a in range(a0, a1):
            for b in range(b0, b1):
                value = element(x, m, i * stride + a - top, j * stride + b - left, q)
                if (not value <= best) and best == best:  # greater, or the first NaN
                    best, winner = value, a * kw + b
        y[m, i, j, q] = best
        tap[m, i, j, q] = winner


@kernel
def _backward_on_gpu(dy, tap, dx, kh, kw, stride, top, left):
    _, h, w, c = dx.shape
    _, ho, wo, _ = dy.shape
    m, row, column, q = this_element(h)
    if column < w and q < c:
        u, v = row + top, column + left
        total = dtype(0)
        for i in range(max(0, (u - kh) // stride + 1), min(ho, u // stride + 1)):  # the windows that cover (u, v)
            for j in range(max(0, (v - kw) // stride + 1), min(wo, v // stride + 1)):
                if element(tap, m, i, j, q) == (u - i * stride) * kw + v - j * stride:
                    total += element(dy, m, i, j, q)
        dx[m, row, column, q] = total


def forward_cuda(x: Any, *, size: tuple[int, int], stride: int, padding: Padding) -> tuple[Any, tuple[Any, ...]]:
    """A thread per output walks over its window."""
    shape, window = pool_window(x.shape, size, stride, padding)
    y, tap = empty(shape, x.dtype), empty(shape, _tap_dtype(size))
    _forward_on_gpu[pixel_grid(shape)](x, y, tap, *window)
    return y, (tap, x.shape, size, stride, padding)


def backward_cuda(dy: Any, saved: tuple[Any, ...]) -> tuple[Any]:
    """A thread per pixel of x gathers from the windows that it won."""
    tap, shape, size, stride, padding = saved
    dx = empty(shape, dy.dtype)
    _backward_on_gpu[pixel_grid(shape)](dy, tap, dx, *pool_window(shape, size, stride, padding)[1])
    return (dx,)


# 4. Operator ------------------------------------------------------------------------------------------------


def _sample(draw: Draw) -> Case:
    shape, params = sample_pool(draw)
    return Case((draw.distinct(*shape),), params)


def _sample_general(draw: Draw) -> Case:
    kernel, window, size = sample_general_window(draw)
    x = draw.distinct(draw.integer(1, 2), *size, draw.integer(1, 20))
    return Case((x,), {"size": kernel, **window})


MAX_POOL2D = Op(
    name="max_pool2d",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": _cpu_rung(_forward_loops, _backward_loops),
        "cpu": _cpu_rung(_forward, _backward),
        "cuda": Rung(forward_cuda, backward_cuda),
    },
    shape=partial(pooled_shape, "max_pool2d"),
    sample=_sample,
)
GENERAL_MAX_POOL2D = general_form(MAX_POOL2D, _sample_general)


# 5. Function ------------------------------------------------------------------------------------------------


def max_pool2d(
    x: Tensor,
    size: int | Sequence[int],
    stride: Pair | None = None,
    padding: Border = "valid",
    dilation: Pair = 1,
) -> Tensor:
    """The greatest value of each window of x (n, h, w, c), channel by channel; y is (n, ho, wo, c).

    size: the window's side, or (height, width). stride: None for the window's size. padding: "same", "valid" or a
    number of pixels on each side; padded pixels never win. Stride, padding and dilation may be pairs (down, across), as
    in ``conv2d``; a window whose taps all miss x, as dilated ones near the border can, has the maximum -inf.
    Raises ShapeError if x is no image or a window does not fit, ArgumentError for a size, stride, padding or dilation
    that does not exist. Chollet 2017, figure 5.

    >>> import minixception as mx
    >>> max_pool2d(mx.tensor([[[[1.0], [4.0]], [[3.0], [2.0]]]]), 2).numpy().ravel()
    array([4.], dtype=float32)
    """
    params = window_params("max_pool2d", size, stride, padding, dilation)
    return (GENERAL_MAX_POOL2D if "dilation" in params else MAX_POOL2D)(x, **params)
