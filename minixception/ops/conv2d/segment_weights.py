"""2c. CPU: grouped convolution with narrow segments, the gradient of the kernel.

    dw[a, b, c, o] = sum over i, j of x[i * stride + a - top, j * stride + b - left, first(o) + c] * dy[i, j, o]

The lanes are channels of x here, and those of dy change places, so that output o of all segments is met at once: a
pixel of dy meets the nine taps of a 3x3 kernel, and nine multiply-adds follow each change, not three. The sums of three
rows of the kernel stay in registers along a row of dy.

A task takes some rows of dy and goes down them, with all blocks of a row before the next row: x and dy are then read in
straight streams, and the sums of all blocks stay in L2. What a block meets, its channels of a row of dy and of the rows
of x under it, is copied beforehand, with a border of zeros: pixels lie nearly a power of two apart, and those of one
block would fight for a few lines of L1.

Segments of one to two registers come here as well, for a matrix product would leave a register of the two half empty. A
block then belongs to one segment or to two, and each pixel of dy is two elements, spread over the lanes of either.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from ...cpu import memory
from ...cpu.depthwise_forward import window_of
from ...cpu.elementwise import added
from ...cpu.jit import forceinline, inline, parallel, pasted, prange
from ...cpu.simd import (
    Neighbours,
    borrowed,
    fma_rows,
    lanes,
    load,
    load_arrived,
    load_run,
    member,
    opaque,
    prefetch,
    segments,
    store,
    store_run,
)
from ...engine.op import Shape
from .segments import (
    TILES,
    Block,
    Pair,
    blockwise,
    exchanged,
    packed_shape,
    several,
    wide_segments,
)

_CHUNKS = 16  # parts of the sum over rows; fixed, so that the order of the sum does not depend on the threads
_PIXELS = 4  # of dy at a time: sums of three rows wait for few multiply-adds of their own, and overlap
_LINES = 3  # rows of the kernel whose sums are in registers together


@forceinline
def _one_or_two(block, places, vector, ci, co, widths):
    """The next outputs, of one segment or of two, each block with places of its own."""
    inputs, outputs = widths
    q = block * vector
    segment = q // outputs
    split = (segment + 1) * outputs - q
    step = inputs if split < min(vector, co - q) else 0  # behind the last segment there is nothing to read
    return Block(Neighbours(0, step, split), segment * inputs, vector, q, min(vector, co - q))


def _weights_tiles(size, stride, block_of):
    """What some rows of dy add to dw, for a square kernel and a stride known at compile time."""
    spacing = (1, stride)

    @pasted
    def tile(sums, lines, slots, column, how, dy, j, count):
        """What dy[j : j + 4] adds to the sums of up to three rows of the kernel, ``count`` of them."""
        first, second, third = sums
        gradients = (load_arrived(dy, (j, 0), _PIXELS, how, None),)
        (first,) = fma_rows((first,), lines, (slots[0], column, 0), gradients, spacing, None, None)
        if count > 1:
            (second,) = fma_rows((second,), lines, (slots[1], column, 0), gradients, spacing, None, None)
        if count > 2:
            (third,) = fma_rows((third,), lines, (slots[2], column, 0), gradients, spacing, None, None)
        return first, second, third

    @forceinline
    def three_rows(lines, top, how, dy, dw, a, o, count):
        """Rows a, a + 1 and a + 2 of dw, as far as there are such, for output o of the segments, along a row of dy."""
        b, d = min(a + 1, a + count - 1), min(a + 2, a + count - 1)  # a row that is not there is loaded and not stored
        slots = (top + a) % size, (top + b) % size, (top + d) % size
        sums = (
            load_run(dw, (a, o, 0, 0), size, None),
            load_run(dw, (b, o, 0, 0), size, None),
            load_run(dw, (d, o, 0, 0), size, None),
        )
        for pixel in range(0, len(dy), _PIXELS):
            j = opaque(pixel)
            sums = tile(sums, lines, slots, j * stride, how, dy, j, count)
        store_run(dw, (a, o, 0, 0), sums[0], None)
        if count > 1:
            store_run(dw, (b, o, 0, 0), sums[1], None)
        if count > 2:
            store_run(dw, (d, o, 0, 0), sums[2], None)

    @inline
    def run(x, dy, begin, end, corner, dw, lines, row_of_dy, widths):
        """Rows begin to end of dy (n, ho, wo, co), counted through all images; dw: packed, of one task.

        lines (blocks, size, pixels, lanes): of x, in turn those that lie under a row of dy; row_of_dy (blocks, pixels,
        lanes).
        """
        x, dy, dw, lines, row_of_dy = borrowed(x), borrowed(dy), borrowed(dw), borrowed(lines), borrowed(row_of_dy)
        (_, h, wd, c), (_, ho, wo, co), (top, left), vector = x.shape, dy.shape, corner, lanes(dy.dtype)
        lines[:] = 0
        row_of_dy[:] = 0
        of_all = segments(dy, widths[0], widths[1])
        known = 0
        for row in range(begin, end):
            m, i = row // ho, row % ho
            first = i * stride  # of the rows of x, counted with the padding above
            known = first if row == begin or i == 0 else known
            last = min(size, top + h - first)
            for block in range(len(dw)):
                places, p, _, q, n = block_of(block, of_all, vector, co, c, widths)
                for u in range(max(known, top), first + last):
                    for v in range(max(0, -left), min(wd, lines.shape[2] - left)):
                        store(lines, (block, u % size, v + left, 0), load(x, (m, u - top, v, q), n), vector)
                        prefetch(x, (m, u - top + stride, v, q))
                for j in range(wo):
                    for k in range(0, row_of_dy.shape[2], vector):
                        some = max(0, min(vector, co - p - k))
                        store(row_of_dy, (block, j, k), load(dy, (m, i, j, p + k), some), vector)
                        prefetch(dy, (m, i + 1, j, p + k))
                for a in range(max(0, top - first), last, _LINES):
                    for o in range(dw.shape[2]):
                        how, count = member(places, o), min(_LINES, last - a)
                        three_rows(lines[block], first, how, row_of_dy[block], dw[block], a, o, count)
            known = first + size

    return run


def _weights_kernel(size: int, stride: int, block_of: Any) -> Any:
    rows_of_dy = _weights_tiles(size, stride, block_of)

    @parallel
    def backward_weights(dy, x, partial, lines, row_of_dy, corner, widths):
        chunks, rows = len(partial), dy.shape[0] * dy.shape[1]
        for chunk in prange(chunks):
            begin, end = chunk * rows // chunks, (chunk + 1) * rows // chunks
            thread = numba.get_thread_id()
            partial[chunk] = 0
            rows_of_dy(x, dy, begin, end, corner, partial[chunk], lines[thread], row_of_dy[thread], widths)

    return backward_weights


_WEIGHTS = {
    wide: {window: _weights_kernel(*size, block_of) for window, size in TILES.items()}
    for wide, block_of in ((False, several), (True, _one_or_two))
}


def suits(kernel: Shape, stride: int, groups: int, dtype: Any) -> bool:
    """Whether ``weight_gradient`` is made for this kernel (kh, kw, ci/groups, co): segments of less than two registers.

    >>> suits((3, 3, 24, 192), 1, 8, np.float32), suits((3, 3, 64, 64), 1, 1, np.float32)
    (True, False)
    """
    inputs, outputs = kernel[2], kernel[3] // groups
    wide = wide_segments(inputs, outputs, dtype) and max(inputs, outputs) < 2 * lanes(dtype)
    narrow = max(inputs, outputs) <= lanes(dtype)
    return groups > 1 and (narrow or wide) and window_of(kernel, stride) in TILES


def weight_gradient(dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, corner: Pair, groups: int) -> np.ndarray:
    """dw."""
    kh, kw, inputs, co = w.shape
    swapped = memory.empty((kh, kw, co // groups, x.shape[3]), w.dtype)
    chunks = min(_CHUNKS, dy.shape[0] * dy.shape[1])
    partial = memory.empty((chunks, *packed_shape(swapped.shape, groups, w.dtype)), w.dtype)
    wide = wide_segments(inputs, co // groups, w.dtype)
    pixels, threads, vector = -(-dy.shape[2] // _PIXELS) * _PIXELS, numba.get_num_threads(), lanes(w.dtype)
    channels = -(-2 * co // groups // vector) * vector if wide else vector  # of dy, which a block of x meets
    here = threads, partial.shape[1]
    shapes = (*here, kh, (pixels - 1) * stride + kw, vector), (*here, pixels, channels)
    parts = memory.carve([math.prod(shape) for shape in shapes], w.dtype)
    lines, row_of_dy = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
    _WEIGHTS[wide][window_of(w.shape, stride)](dy, x, partial, lines, row_of_dy, corner, (co // groups, inputs))
    unpack(added(partial), swapped, groups)
    return exchanged(swapped, groups)


def unpack(packed: np.ndarray, w: np.ndarray, groups: int) -> None:
    """Write what ``pack`` has packed to w."""
    for part, of_w in blockwise(packed, w, groups):
        of_w[...] = part
