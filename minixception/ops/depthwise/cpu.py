"""2. CPU: depthwise convolution in plain Numba loops, and the fast kernels."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...cpu import memory
from ...cpu.depthwise_forward import WINDOWS, filter_outputs, window_of
from ...cpu.depthwise_weights import correlate_outputs
from ...cpu.elementwise import added
from ...cpu.jit import loops, parallel, prange
from ...cpu.simd import fma, lanes, load, splat, store
from ..window import Padding, extents

# Loops: the formula, one scalar at a time ---------------------------------------------------------------------------


@loops
def _forward_loops(x, w, y, stride, top, left):
    n, h, wd, c = x.shape
    kh, kw, _ = w.shape
    for m in range(n):
        for i in range(y.shape[1]):
            for j in range(y.shape[2]):
                for q in range(c):
                    total = x.dtype.type(0)
                    for a in range(kh):
                        for b in range(kw):
                            u, v = i * stride + a - top, j * stride + b - left
                            if 0 <= u < h and 0 <= v < wd:
                                total += x[m, u, v, q] * w[a, b, q]
                    y[m, i, j, q] = total


@loops
def _backward_loops(dy, x, w, dx, dw, stride, top, left):
    n, h, wd, c = x.shape
    kh, kw, _ = w.shape
    for m in range(n):
        for i in range(dy.shape[1]):
            for j in range(dy.shape[2]):
                for a in range(kh):
                    for b in range(kw):
                        u, v = i * stride + a - top, j * stride + b - left
                        if 0 <= u < h and 0 <= v < wd:
                            for q in range(c):
                                dx[m, u, v, q] += dy[m, i, j, q] * w[a, b, q]
                                dw[a, b, q] += dy[m, i, j, q] * x[m, u, v, q]


def forward_loops(x: np.ndarray, w: np.ndarray, *, stride: int, padding: Padding) -> tuple[np.ndarray, tuple[Any, ...]]:
    """The formula of the definition as loops."""
    y, top, left = _output(x, w, stride, padding)
    _forward_loops(x, w, y, stride, top, left)
    return y, (x, w, stride, padding)


def backward_loops(dy: np.ndarray, saved: tuple[Any, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The same loops, sending dy back to the input and to the kernel."""
    x, w, stride, padding = saved
    _, top, left = _output(x, w, stride, padding)
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    _backward_loops(dy, x, w, dx, dw, stride, top, left)
    return dx, dw


def _output(x: np.ndarray, w: np.ndarray, stride: int, padding: Padding) -> tuple[np.ndarray, int, int]:
    """The array for y, and the padding above and to the left of x."""
    (ho, top), (wo, left) = extents(x.shape, w.shape, stride, padding)
    return memory.empty((x.shape[0], ho, wo, x.shape[3]), x.dtype), top, left


# Fast ---------------------------------------------------------------------------------------------------------------
# Channels are independent, so one vector register holds one pixel's next 16 channels (float32, AVX-512), and all taps
# are summed into it before it is written: y is stored once and never read. Neighbouring outputs share most of their
# pixels: two rows of five are computed at once, and each pixel is loaded once for all (cpu/depthwise_forward.py).
# A task is a band of rows of one image, an even number of them: bands do not overlap in what they write. What remains
# is the memory: x once in, y once out.


def _forward_kernel(window: str) -> Any:
    @parallel
    def forward(x, floor, w, y, gate, stride, top, left):
        n, ho = y.shape[:2]
        pairs = (ho + 1) // 2
        bands = max(1, min(pairs, _TASKS // n))
        for task in prange(n * bands):
            m, band = task // bands, task % bands
            i0, i1 = 2 * (band * pairs // bands), 2 * ((band + 1) * pairs // bands)
            filter_outputs(x[m], i0 * stride - top, -left, floor, w, y[m, i0:i1], gate[m, i0:i1], stride, window)

    return forward


# dx with stride 1 is a convolution of dy with the kernel rotated by 180 degrees, so ``forward`` computes it. With a
# stride, input row u gets a contribution from output row i only through tap a = u + top - i*stride: a runs over one
# residue class modulo the stride. Gathering them, each task alone writes its row of dx.


@parallel
def _backward_input_strided(dy, w, dx, stride, top, left):
    n, h, wd, c = dx.shape
    kh, kw, _ = w.shape
    _, ho, wo, _ = dy.shape
    dys, ws, dxs = dy.reshape(-1), w.reshape(-1), dx.reshape(-1)
    for task in prange(n * h):
        m, u = task // h, task % h + top
        a0, a1 = max(u % stride, u - stride * (ho - 1)), min(kh, u + 1)
        for v in range(left, wd + left):
            b0, b1 = max(v % stride, v - stride * (wo - 1)), min(kw, v + 1)
            for q in range(0, c, lanes(dx.dtype)):
                valid = min(lanes(dx.dtype), c - q)
                total = splat(dx, dx.dtype.type(0))
                for a in range(a0, a1, stride):
                    row = (m * ho + (u - a) // stride) * wo
                    for b in range(b0, b1, stride):
                        dy_at = (row + (v - b) // stride) * c + q
                        total = fma(load(dys, dy_at, valid), load(ws, (a * kw + b) * c + q, valid), total)
                store(dxs, (task * wd + v - left) * c + q, total, valid)


# dw: each task sums its own rows into its own copy of dw, and along a row the sums of three rows of the kernel stay in
# registers (cpu/depthwise_weights.py).


def _weights_kernel(window: str) -> Any:
    @parallel
    def backward_weights(dy, x, floor, partial, stride, top, left):
        n, ho = dy.shape[:2]
        chunks = len(partial)
        for chunk in prange(chunks):
            partial[chunk] = 0
            for row in range(chunk * n * ho // chunks, (chunk + 1) * n * ho // chunks):
                m, i = row // ho, row % ho
                correlate_outputs(x[m], i * stride - top, left, floor, dy[m, i], partial[chunk], stride, window)

    return backward_weights


_FORWARD = {window: _forward_kernel(window) for window in WINDOWS}
_WEIGHTS = {window: _weights_kernel(window) for window in WINDOWS}

_TASKS = 32  # bands of rows in all, about: enough to share among threads, and few rows of x are read by two
_CHUNKS = 16  # parts of the sum over rows in dw; fixed, so that the order of the sum does not depend on the threads


def forward_cpu(x: np.ndarray, w: np.ndarray, *, stride: int, padding: Padding) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Tiles of 2 x 5 outputs and 16 channels in registers; one task per band of rows."""
    return filter_images(x, w, stride, padding, None), (x, w, stride, padding)


def backward_cpu(
    dy: np.ndarray, saved: tuple[Any, ...], wanted: tuple[bool, bool] = (True, True)
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """dx gathers from dy like another depthwise convolution; dw is summed per chunk of rows, then over chunks."""
    x, w, stride, padding = saved
    return (
        input_gradient(dy, x, w, stride, padding, None, relu=False) if wanted[0] else None,
        weight_gradient(dy, x, w.shape, stride, padding, None) if wanted[1] else None,
    )


# The three passes as functions, for separable convolution to use as well. least: the ``floor`` of x, for a ReLU on the
# way in, or None, which costs no instruction. Separable convolution always gives a number, so that its layers with and
# without a ReLU share a kernel: compiling another takes seconds.


def filter_images(x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, least: Any) -> np.ndarray:
    """y, the forward pass."""
    y, top, left = _output(x, w, stride, padding)
    return filter_into(y, x, w, stride, (top, left), least)


def filter_into(
    y: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, corner: tuple[int, int], incoming: Any
) -> np.ndarray:
    """Write y, the forward pass; corner: padding above and to the left; incoming: what f is (``vectors_of``)."""
    _FORWARD[window_of(w.shape, stride)](x, incoming, w, y, _no_gate(y), stride, *corner)
    return y


def input_gradient(
    dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, padding: Padding, least: Any, relu: bool
) -> np.ndarray:
    """dx, the gradient of the input; behind a ReLU 0 where x is not positive."""
    kh, kw, _ = w.shape
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    dx = memory.empty(x.shape, x.dtype)
    if stride == 1:
        rotated = np.ascontiguousarray(w[::-1, ::-1])
        kernel, gate = _FORWARD[window_of(w.shape, 1)], x if relu else _no_gate(dx)
        kernel(dy, least, rotated, dx, gate, 1, kh - 1 - top, kw - 1 - left)
    else:
        _backward_input_strided(dy, w, dx, stride, top, left)
        if relu:
            dx[~(x > 0)] = 0
    return dx


def weight_gradient(
    dy: np.ndarray, x: np.ndarray, kernel: tuple[int, ...], stride: int, padding: Padding, least: Any
) -> np.ndarray:
    """dw (kh, kw, c)."""
    partial = memory.empty((min(_CHUNKS, dy.shape[0] * dy.shape[1]), *kernel), x.dtype)
    (_, top), (_, left) = extents(x.shape, kernel, stride, padding)
    summed = _WEIGHTS[window_of(kernel, stride)]
    summed(dy, x, least, partial, stride, top, left)
    return added(partial)


def floor(dtype: np.dtype[Any], relu: bool) -> Any:
    """The least value that an input counts as: 0 behind a ReLU, else none."""
    return dtype.type(0 if relu else -np.inf)


def _no_gate(y: np.ndarray) -> np.ndarray:
    """A gate that lets everything through."""
    return np.empty((0, 0, 0, 0), y.dtype)
