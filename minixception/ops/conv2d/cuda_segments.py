"""3b. GPU: grouped convolution with narrow segments, in strips of outputs that lie in registers.

A product for each group (cuda.py) computes tiles of 64 channels: with segments of 4 it throws away 15 of 16
multiply-adds. Here a thread has one output channel, whichever segment that belongs to, as in the depthwise kernels
(gpu/depthwise.py), and neighbouring threads have neighbouring channels: they read neighbouring weights, and of the
pixels those of their segment, which for a whole warp are a few neighbours, too.

A thread makes 4 outputs, side by side. For each row of the kernel and each channel of its segment it loads 3 weights
and 6 pixels, and multiplies each into all the sums that it touches: 9 loads for 12 multiply-adds, 6.8 reads for each
output and channel of the segment instead of 18, whatever the number of segments.

The gradient of the input with stride 1 is the same, of dy with the kernel rotated and its inputs and outputs exchanged;
with a stride it is still made of products. The gradient of the weights is depthwise convolution's, for each channel c
of the segments in turn.
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

COLUMNS = {1: 4, 2: 2}  # outputs of a thread, side by side, by stride: more, and the registers would not do
WIDEST = 32  # outputs of a segment; with more a product for each segment is better


def _strips(size: Size) -> Callable[[Array, Array, Array, Widths, tuple[int, int]], None]:
    kh, kw, stride = size
    columns = COLUMNS[stride]
    width = (columns - 1) * stride + kw

    @kernel
    def filter_segments(x, w, y, geometry, widths, rows):
        n, h, wd, c, ho, wo, co, top, left = geometry
        inputs, outputs = widths
        across = (wo + columns - 1) // columns
        o, strip = cuda.blockIdx.y * LANES + cuda.threadIdx.x, cuda.blockIdx.x * WARPS + cuda.threadIdx.y
        if strip >= n * ho * across or o >= co:
            return
        m, i, j0 = strip // (across * ho), strip // across % ho, strip % across * columns
        sums = cuda.local.array(columns, dtype)
        row = cuda.local.array(width, dtype)
        weights = cuda.local.array(kw, dtype)
        for j in range(columns):
            sums[j] = dtype(0)
        first = left - j0 * stride  # the columns of the strip that lie in the image, from this one on,
        last = first + wd  # to this one
        for a in range(rows):  # of the kernel; as many as it has, which the compiler need not know
            u = i * stride + a - top
            if 0 <= u < h:
                x_row = ((m * h + u) * wd - first) * c + o // outputs * inputs
                w_row = a * kw * inputs * co + o
                for _ in range(inputs):
                    at = w_row
                    for b in range(kw):
                        weights[b] = w[np.uint64(at)]
                        at += inputs * co
                    at = x_row
                    for k in range(width):
                        row[k] = dtype(0)
                        if first <= k < last:
                            row[k] = x[np.uint64(at)]
                        at += c
                    for j in range(columns):
                        for b in range(kw):
                            sums[j] += row[j * stride + b] * weights[b]
                    x_row += 1
                    w_row += co
        at = ((m * ho + i) * wo + j0) * co + o
        for j in range(columns):
            if j0 + j < wo:
                y[np.uint64(at)] = sums[j]
            at += co

    def run(x: Array, w: Array, y: Array, widths: Widths, before: tuple[int, int]) -> None:
        n, ho, wo, co = y.shape
        grid = blocks(n * ho * blocks(wo, columns), WARPS), blocks(co, LANES)
        geometry = (*x.shape, ho, wo, co, *before)
        filter_segments[grid, (LANES, WARPS)](flat(x), flat(w), flat(y), geometry, widths, kh)

    return run


_FILTERS = {size: _strips(size) for size in ((3, 3, 1), (3, 3, 2))}


@kernel
def _exchange(w, turned, inputs, outputs):
    """turned (kh, kw, outputs, ci) from w (kh, kw, inputs, co), rotated by 180 degrees."""
    t = cuda.grid(1)
    if t < turned.size:
        kh, kw, _, ci = turned.shape
        channel, o, b, a = t % ci, t // ci % outputs, t // (ci * outputs) % kw, t // (ci * outputs * kw)
        turned[a, b, o, channel] = w[kh - 1 - a, kw - 1 - b, channel % inputs, channel // inputs * outputs + o]


def suits(kernel: tuple[int, ...], stride: int, groups: int) -> bool:
    """Whether the kernels here are made for a convolution with this kernel (kh, kw, ci/groups, co)."""
    return groups > 1 and kernel[3] // groups <= WIDEST and (*kernel[:2], stride) in _FILTERS


def filter_images(x: Array, w: Array, y: Array, stride: int, padding: Padding, groups: int) -> Array:
    """y, written."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    _FILTERS[(*w.shape[:2], stride)](x, w, y, (w.shape[2], w.shape[3] // groups), (top, left))
    return y


def input_gradient(dy: Array, x: Array, w: Array, stride: int, padding: Padding, groups: int) -> Array:
    """dx, with stride 1."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    kh, kw, inputs, co = w.shape
    outputs = co // groups
    turned, dx = empty((kh, kw, outputs, x.shape[3]), w.dtype), empty(x.shape, x.dtype)
    _exchange[blocks(turned.size), THREADS](w, turned, inputs, outputs)
    _FILTERS[kh, kw, 1](dy, turned, dx, (outputs, inputs), (kh - 1 - top, kw - 1 - left))
    return dx


def weight_gradient(dy: Array, x: Array, w: Array, stride: int, padding: Padding, groups: int) -> Array:
    """dw."""
    (_, top), (_, left) = extents(x.shape, w.shape, stride, padding)
    widths = w.shape[2], w.shape[3] // groups
    return add_shares(CORRELATIONS[(*w.shape[:2], stride)](x, floor(x.dtype, False), dy, (top, left), widths))
