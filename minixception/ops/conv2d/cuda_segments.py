"""3b. GPU: grouped convolution with narrow segments, in strips of outputs that lie in registers.

A product for each group (cuda.py) computes tiles of 64 channels: with segments of 4 it throws away 15 of 16
multiply-adds. Here a thread has one output channel, whichever segment that belongs to, as in the depthwise kernels
(gpu/depthwise.py), and neighbouring threads have neighbouring channels: they read neighbouring weights, and of the
pixels those of their segment, which for a whole warp are a few neighbours, too.

A thread makes 2 x 8 outputs. For each channel of its segment it loads 9 weights and, row by row, the 4 x 10 pixels
under them, and multiplies each into all the sums that it touches: 49 loads for 144 multiply-adds. That is 3.1 reads for
each output and channel of the segment, instead of 18, whatever the number of segments.

The gradient of the input with stride 1 is the same, of dy with the kernel rotated and its inputs and outputs exchanged;
with a stride each pixel gathers. The gradient of the weights is depthwise convolution's, for each channel c of the
segments in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...gpu.depthwise import LANES, WARPS, Size
from ...gpu.kernel import THREADS, blocks, cuda, dtype, empty, flat, kernel
from ..depthwise.cpu import floor
from ..depthwise.cuda import CORRELATIONS
from ..depthwise.cuda_gradients import add_shares
from ..window import Padding, extents

Array = Any  # an array of the GPU
Widths = tuple[int, int]  # channels of a segment, before and behind

ROWS, COLUMNS = 2, 8  # of outputs in the registers of a thread
WIDEST = 32  # outputs of a segment; with more a product for each segment is better


def _strips(size: Size) -> Callable[[Array, Array, Array, Widths, tuple[int, int]], None]:
    kh, kw, stride = size
    taps, lines, width = kh * kw, (ROWS - 1) * stride + kh, (COLUMNS - 1) * stride + kw
    count = ROWS * COLUMNS

    @kernel
    def filter_segments(x, w, y, geometry, widths):
        n, h, wd, c, ho, wo, co, top, left = geometry
        inputs, outputs = widths
        across, down = (wo + COLUMNS - 1) // COLUMNS, (ho + ROWS - 1) // ROWS
        o, strip = cuda.blockIdx.y * LANES + cuda.threadIdx.x, cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        if strip >= n * down * across or o >= co:
            return
        m, i0, j0 = strip // (across * down), strip // across % down * ROWS, strip % across * COLUMNS
        sums = cuda.local.array(count, dtype)
        row = cuda.local.array(width, dtype)
        weights = cuda.local.array(taps, dtype)
        for k in range(count):
            sums[k] = dtype(0)
        u0, v0 = i0 * stride - top, j0 * stride - left
        for q in range(inputs):
            for tap in range(taps):
                weights[tap] = w[np.uint64((tap * inputs + q) * co + o)]
            x_row = ((m * h + u0) * wd + v0) * c + o // outputs * inputs + q
            for line in range(lines):
                at = x_row
                for k in range(width):
                    inside = 0 <= u0 + line < h and 0 <= v0 + k < wd
                    row[k] = x[np.uint64(at)] if inside else dtype(0)
                    at += c
                for r in range(ROWS):
                    a = line - r * stride  # the row of the kernel that this row of pixels is multiplied by
                    if 0 <= a < kh:
                        for j in range(COLUMNS):
                            for b in range(kw):
                                sums[r * COLUMNS + j] += row[j * stride + b] * weights[a * kw + b]
                x_row += wd * c
        for r in range(ROWS):
            for j in range(COLUMNS):
                if i0 + r < ho and j0 + j < wo:
                    y[np.uint64(((m * ho + i0 + r) * wo + j0 + j) * co + o)] = sums[r * COLUMNS + j]

    def run(x: Array, w: Array, y: Array, widths: Widths, before: tuple[int, int]) -> None:
        n, ho, wo, co = y.shape
        grid = blocks(n * blocks(ho, ROWS) * blocks(wo, COLUMNS), WARPS), blocks(co, LANES)
        geometry = (*x.shape, ho, wo, co, *before)
        filter_segments[grid, (LANES, WARPS)](flat(x), flat(w), flat(y), geometry, widths)

    return run


_FILTERS = {size: _strips(size) for size in ((3, 3, 1), (3, 3, 2))}


@kernel
def _exchange(w, swapped, inputs, outputs, rotated):
    """swapped (kh, kw, outputs, ci) from w (kh, kw, inputs, co); rotated by 180 degrees where that is asked for."""
    t = cuda.grid(1)
    if t < swapped.size:
        kh, kw, _, ci = swapped.shape
        channel, o, b, a = t % ci, t // ci % outputs, t // (ci * outputs) % kw, t // (ci * outputs * kw)
        from_a, from_b = (kh - 1 - a, kw - 1 - b) if rotated else (a, b)
        swapped[a, b, o, channel] = w[from_a, from_b, channel % inputs, channel // inputs * outputs + o]


@kernel
def _gather_segments(dy, swapped, dx, stride, top, left, inputs, outputs):
    """dx where the stride is more than 1, a thread for each element: row u came to row i by tap u + top - i*stride."""
    _, h, wd, c = dx.shape
    t = cuda.grid(1)
    if t < dx.size:
        q, v, u, m = t % c, t // c % wd, t // (c * wd) % h, t // (c * wd * h)
        first = q // inputs * outputs
        total = dtype(0)
        for a in range((u + top) % stride, swapped.shape[0], stride):
            for b in range((v + left) % stride, swapped.shape[1], stride):
                i, j = (u + top - a) // stride, (v + left - b) // stride
                if 0 <= i < dy.shape[1] and 0 <= j < dy.shape[2]:
                    for o in range(outputs):
                        total += dy[m, i, j, first + o] * swapped[a, b, o, q]
        dx[m, u, v, q] = total


def suits(kernel: tuple[int, ...], stride: int, groups: int) -> bool:
    """Whether the kernels here are made for a convolution with this kernel (kh, kw, ci/groups, co)."""
    return groups > 1 and kernel[3] // groups <= WIDEST and (*kernel[:2], stride) in _FILTERS


def filter_images(x: Array, w: Array, y: Array, stride: int, padding: Padding, groups: int) -> Array:
    """y, written."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    _FILTERS[(*w.shape[:2], stride)](x, w, y, (w.shape[2], w.shape[3] // groups), (top, left))
    return y


def input_gradient(dy: Array, x: Array, w: Array, stride: int, padding: Padding, groups: int) -> Array:
    """dx."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    kh, kw, inputs, co = w.shape
    outputs = co // groups
    swapped, dx = empty((kh, kw, outputs, x.shape[3]), w.dtype), empty(x.shape, x.dtype)
    _exchange[blocks(swapped.size), THREADS](w, swapped, inputs, outputs, stride == 1)
    if stride == 1:
        _FILTERS[kh, kw, 1](dy, swapped, dx, (outputs, inputs), (kh - 1 - top, kw - 1 - left))
    else:
        _gather_segments[blocks(dx.size), THREADS](dy, swapped, dx, stride, top, left, inputs, outputs)
    return dx


def weight_gradient(dy: Array, x: Array, w: Array, stride: int, padding: Padding, groups: int) -> Array:
    """dw."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    widths = w.shape[2], w.shape[3] // groups
    return add_shares(CORRELATIONS[(*w.shape[:2], stride)](x, floor(x.dtype, False), dy, (top, left), widths))
