"""2b. CPU: grouped convolution with narrow segments, several of which share a vector register.

    y[i, j, o] = sum over a, b, c of x[i * stride + a - top, j * stride + b - left, first(o) + c] * w[a, b, c, o]

    first(o) = o // outputs * inputs     inputs, outputs: the channels of a segment, before and behind

A matrix product for each segment fills as many lanes of a register as a segment has outputs, 2 of 16 say: with ever
narrower segments the multiply-accumulates fall, and the time does not. That is why other libraries turn upwards here.
But the kernel already lies as it is wanted: w[a, b, c, o:] are the weights of 16 neighbouring outputs, whatever segment
they belong to. What each of them must meet is channel c of its *own* segment. So a pixel's register is loaded, and for
each c its lanes change places (``member``): one instruction, whose result is multiplied into the sums of up to six
taps, three in each of two rows of outputs.

For each c this is a depthwise convolution. The tiles are those of cpu/depthwise_forward.py and cpu/depthwise_weights.py
with a loop over c inside, and as wide as the registers allow: 20 sums, 6 taps, a pixel, the same with its lanes in
new places, and the places. A register holds whole segments: with 6 channels two of them, and 4 lanes idle. Segments
wider than a register are better served by a product each (cpu.py), and so are kernels and strides that no tile is
compiled for.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...cpu import memory
from ...cpu.depthwise_forward import WINDOWS, Border, window_of
from ...cpu.elementwise import added
from ...cpu.gemm import VECTORS, Epilogue, sums_only
from ...cpu.jit import forceinline, inline, parallel, pasted, prange
from ...cpu.simd import (
    Inside,
    add,
    arrived,
    borrowed,
    fma_rows,
    lanes,
    load,
    load_run,
    maximum,
    member,
    opaque,
    prefetch_run,
    segments,
    splat,
    store,
    store_run,
    zeros,
)
from ...engine.op import Shape

Pair = tuple[int, int]

ROWS = 2  # of outputs in a tile,
COLUMNS = 10 if VECTORS == 4 else 3  # and columns, with 32 registers or 16
_TASKS = 32  # bands of rows in all, about
_TAPS = 16  # vectors of weights for each tap that stay in L1, and so the blocks that go down a band together
_CHUNKS = 16  # parts of the sum over rows in dw; fixed, so that the order of the sum does not depend on the threads
_PIXELS = 5  # of dy at a time, in dw: sums of three rows wait for few multiply-adds of their own, and overlap
_LINES = 3  # rows of the kernel whose sums are in registers together, in dw


# A kernel w (kh, kw, inputs, co) is packed as (blocks, kh, inputs, kw, lanes): block by block the outputs that share a
# register, and in a block tap by tap as they are used, padded with zeros.


def per_register(inputs: int, outputs: int, dtype: Any) -> int:
    """Segments that share a register; 0 if one is too wide.

    >>> per_register(4, 4, np.float32) == 2 * per_register(8, 4, np.float32)
    True
    """
    return lanes(dtype) // max(inputs, outputs)


def pack(w: np.ndarray, groups: int) -> np.ndarray:
    """The kernel, block by block."""
    width = _outputs(w.shape, groups, w.dtype)
    packed = np.zeros(packed_shape(w.shape, groups, w.dtype), w.dtype)
    for block, taps in enumerate(packed):
        part = w[..., block * width : (block + 1) * width]
        taps[..., : part.shape[3]] = part.swapaxes(1, 2)
    return packed


def packed_shape(w: Shape, groups: int, dtype: Any) -> Shape:
    """(blocks, kh, inputs, kw, lanes)."""
    kh, kw, inputs, co = w
    return (-(-co // _outputs(w, groups, dtype)), kh, inputs, kw, lanes(dtype))


def _outputs(w: Shape, groups: int, dtype: Any) -> int:
    """Channels of y in a block."""
    _, _, inputs, co = w
    return per_register(inputs, co // groups, dtype) * (co // groups)


def unpack(packed: np.ndarray, w: np.ndarray, groups: int) -> None:
    """Write what ``pack`` has packed to w."""
    width = _outputs(w.shape, groups, w.dtype)
    for block, taps in enumerate(packed):
        part = w[..., block * width : (block + 1) * width]
        part[...] = taps.swapaxes(1, 2)[..., : part.shape[3]]


@forceinline
def _place(block, ci, co, vector, widths):
    """Of a block of outputs: (first channel of x, of ``vector`` how many exist, first channel of y, how many of y)."""
    inputs, outputs = widths
    together = vector // max(inputs, outputs)
    p, q = block * together * inputs, block * together * outputs
    return p, min(vector, ci - p), q, min(together * outputs, co - q)


# Forward, and dx with stride 1, a convolution of dy with the kernel rotated and its inputs and outputs exchanged ------


def _forward_tiles(size, stride):
    """Outputs by tiles, for a square kernel and a stride known at compile time."""
    pixels = (COLUMNS - 1) * stride + size  # of x, under a row of the tile
    lines = (ROWS - 1) * stride + size  # rows of x under the tile
    ahead = COLUMNS * stride
    spacing = (stride, 1)

    @pasted
    def tile(x, line, column, places, w, y, i, j, at, epilogue, border):
        """Outputs y[i : i + 2, j : j + 10], channels from q on; x[line, column] lies under their first tap, or would.

        Rows of x that lie under the first row of outputs alone, under both, under the second alone: whose sums are not
        open takes no registers. The loop over the segment's channels is inside, for then the pixels stay in L1.
        """
        p, q, n = at
        for u in range(ROWS * stride):
            prefetch_run(x, (line + lines + u, column, p), ahead, False)
        for u in range(ROWS, 2 * ROWS):
            prefetch_run(y, (i + u, j, q), COLUMNS, True)
        two = i + 1 < y.shape[0]
        begin, end = max(0, -line), x.shape[0] - line
        (above,) = zeros(y, 1, COLUMNS)
        for u in range(begin, min(end, stride if two else size)):
            for c in range(w.shape[1]):
                taps = load_run(w, (u, c, 0, 0), size, None)
                how = member(places, c)
                (above,) = fma_rows((above,), x, (line + u, column, p), (taps,), spacing, how, border.pixels)
        if two:
            (below,) = zeros(y, 1, COLUMNS)
            for u in range(max(begin, stride), min(end, size)):
                for c in range(w.shape[1]):
                    taps = load_run(w, (u, c, 0, 0), size, None), load_run(w, (u - stride, c, 0, 0), size, None)
                    how = member(places, c)
                    above, below = fma_rows((above, below), x, (line + u, column, p), taps, spacing, how, border.pixels)
            _finish(above, y, (i, j, q), n, epilogue, border.outputs)
            for u in range(max(begin, size), min(end, lines)):
                for c in range(w.shape[1]):
                    taps = load_run(w, (u - stride, c, 0, 0), size, None)
                    how = member(places, c)
                    (below,) = fma_rows((below,), x, (line + u, column, p), (taps,), spacing, how, border.pixels)
            _finish(below, y, (i + 1, j, q), n, epilogue, border.outputs)
        else:
            _finish(above, y, (i, j, q), n, epilogue, border.outputs)

    @inline
    def run(x, line, column, w, y, epilogue, widths):
        x, w, y = borrowed(x), borrowed(w), borrowed(y)
        epilogue = Epilogue(borrowed(epilogue.residual), epilogue.add_residual, borrowed(epilogue.bias), epilogue.relu)
        places = segments(y, widths[0], widths[1])
        together = max(1, _TAPS // w.shape[2])  # blocks, whose pixels are neighbours in memory
        for first in range(0, len(w), together):
            for i in range(0, y.shape[0], ROWS):
                for j in range(0, y.shape[1], COLUMNS):
                    u, v = line + i * stride, column + j * stride
                    whole = v >= 0 and v + pixels <= x.shape[1] and j + COLUMNS <= y.shape[1]
                    for block in range(first, min(len(w), first + together)):
                        p, n_in, q, n = _place(block, x.shape[2], y.shape[2], lanes(y.dtype), widths)
                        if whole and n_in == lanes(y.dtype) == n:
                            border = Border(None, None, None)
                            tile(x, u, v, places, w[block], y, i, j, (p, q, n), epilogue, border)
                        else:
                            border = Border(Inside(-v, x.shape[1] - v, n_in), None, Inside(0, y.shape[1] - j, n))
                            tile(x, u, v, places, w[block], y, i, j, (p, q, n), epilogue, border)

    return run


@pasted
def _finish(run, y, index, n, epilogue, inside):
    """Store f(run + residual + bias)."""
    if epilogue.bias.size > 0:
        run = add(run, load(epilogue.bias, index[2], n))
    if epilogue.add_residual:
        run = add(run, load_run(epilogue.residual, index, COLUMNS, inside))
    if epilogue.relu:
        run = maximum(run, splat(y, 0))
    store_run(y, index, run, inside)


def _forward_kernel(size: int, stride: int) -> Any:
    rows = _forward_tiles(size, stride)

    @parallel
    def forward(x, w, y, epilogue, top, left, widths):
        n, ho = y.shape[:2]
        pairs = (ho + 1) // 2
        bands = max(1, min(pairs, _TASKS // n))
        for task in prange(n * bands):
            m, band = task // bands, task % bands
            i0, i1 = 2 * (band * pairs // bands), min(ho, 2 * ((band + 1) * pairs // bands))
            after = Epilogue(epilogue.residual[m, i0:i1], epilogue.add_residual, epilogue.bias, epilogue.relu)
            rows(x[m], i0 * stride - top, -left, w, y[m, i0:i1], after, widths)

    return forward


# dx with a stride: pixels of x that lie stride apart meet the same taps, and neighbouring pixels of dy. So a row of dx
# is seen as one whose pixels are stride times as long, and each tile takes neighbours of that row.


@parallel
def _backward_input_strided(dy, w, dx, stride, top, left, widths):
    """w: packed with inputs and outputs exchanged, and not rotated; widths: outputs, inputs."""
    n, h, wd, channels = dx.shape
    wide = stride * channels
    for task in prange(n * h):
        m, u = task // h, task % h
        strides = wide * dx.itemsize, dx.itemsize
        row = as_strided(dx[m, u], ((wd + stride - 1) // stride, wide), strides)
        _gather_row(dy[m], w, row, u + top, left, wd, channels, stride, widths)


@inline
def _gather_row(dy, w, row, u, left, wd, channels, stride, widths):
    """Row u of dx (wd pixels), counted with the padding above; dy (ho, wo, co) of one image."""
    dy, w, row = borrowed(dy), borrowed(w), borrowed(row)
    _, kh, depth, kw, _ = w.shape
    ho, wo, _ = dy.shape
    places = segments(row, widths[0], widths[1])
    for block in range(len(w)):
        p, n_in, q, n = _place(block, dy.shape[2], channels, lanes(row.dtype), widths)
        for first in range(min(stride, wd)):
            count = (wd - first + stride - 1) // stride  # pixels of dx that lie stride apart, from ``first`` on
            for k in range(0, count, COLUMNS):
                (sums,) = zeros(row, 1, COLUMNS)
                for a in range(max(u % stride, u - stride * (ho - 1)), min(kh, u + 1), stride):
                    for b in range((first + left) % stride, kw, stride):
                        j = (first + left - b) // stride + k
                        place, inside = ((u - a) // stride, j, p), Inside(-j, wo - j, n_in)
                        for c in range(depth):
                            tap = load_run(w, (block, a, c, b, 0), 1, None)
                            (sums,) = fma_rows((sums,), dy, place, (tap,), (1, 1), member(places, c), inside)
                store_run(row, (k, first * channels + q), sums, Inside(0, count - k, n))


# dw: the lanes are channels of x here, and those of dy change places: dw[a, b, c, o] = sum of x[.., c] * dy[.., o] is
# made for output o of all segments at once. A pixel of dy meets the nine taps of a 3x3 kernel, so that nine multiply-
# adds follow each change, not three. A task takes some rows of dy and goes down them block by block: the sums of a
# block stay in L1. So do a row of dy and the rows of x under it: they are copied, with a border of zeros, since pixels
# of one block of channels lie nearly a power of two apart, and would fight for a few lines of the cache.


def _weights_tiles(size, stride):
    """What some rows of dy add to dw, for a square kernel and a stride known at compile time."""
    spacing = (1, stride)

    @pasted
    def tile(sums, lines, slots, column, how, dy, j, count):
        """What dy[j : j + 5] adds to the sums of up to three rows of the kernel, ``count`` of them."""
        first, second, third = sums
        gradients = (arrived(load_run(dy, (j, 0), _PIXELS, None), how, None),)
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

        lines (size, pixels, lanes): of x, in turn those that lie under a row of dy; row_of_dy (pixels, lanes).
        """
        x, dy, dw, lines, row_of_dy = borrowed(x), borrowed(dy), borrowed(dw), borrowed(lines), borrowed(row_of_dy)
        (_, h, wd, _), (_, ho, wo, _), (top, left), vector = x.shape, dy.shape, corner, lanes(dy.dtype)
        lines[:] = 0
        row_of_dy[:] = 0
        places = segments(dy, widths[0], widths[1])
        for block in range(len(dw)):
            p, n_in, q, n = _place(block, dy.shape[3], x.shape[3], vector, widths)
            known = 0
            for row in range(begin, end):
                m, i = row // ho, row % ho
                first = i * stride  # of the rows of x, counted with the padding above
                known = first if row == begin or i == 0 else known
                for u in range(max(known, top), min(first + size, top + h)):
                    for v in range(max(0, -left), min(wd, lines.shape[1] - left)):
                        store(lines, (u % size, v + left, 0), load(x, (m, u - top, v, q), n), vector)
                known = first + size
                for j in range(wo):
                    store(row_of_dy, (j, 0), load(dy, (m, i, j, p), n_in), vector)
                last = min(size, top + h - first)
                for a in range(max(0, top - first), last, _LINES):
                    for o in range(dw.shape[2]):
                        how = member(places, o)
                        three_rows(lines, first, how, row_of_dy, dw[block], a, o, min(_LINES, last - a))

    return run


def _weights_kernel(size: int, stride: int) -> Any:
    rows_of_dy = _weights_tiles(size, stride)

    @parallel
    def backward_weights(dy, x, partial, lines, row_of_dy, corner, widths):
        chunks, rows = len(partial), dy.shape[0] * dy.shape[1]
        for chunk in prange(chunks):
            begin, end = chunk * rows // chunks, (chunk + 1) * rows // chunks
            thread = numba.get_thread_id()
            partial[chunk] = 0
            rows_of_dy(x, dy, begin, end, corner, partial[chunk], lines[thread], row_of_dy[thread], widths)

    return backward_weights


_TILES = {"3x3": (3, 1), "3x3 stride 2": (3, 2), "5x5": (5, 1), "5x5 stride 2": (5, 2)}
_FORWARD = {window: _forward_kernel(*_TILES[window]) for window in WINDOWS if window in _TILES}
_WEIGHTS = {window: _weights_kernel(*_TILES[window]) for window in WINDOWS if window in _TILES}


def suits(kernel: Shape, stride: int, groups: int, dtype: Any) -> bool:
    """Whether the kernels here are made for a convolution with this kernel (kh, kw, ci/groups, co)."""
    narrow = per_register(kernel[2], kernel[3] // groups, dtype) > 0
    return groups > 1 and narrow and window_of(kernel, stride) in _FORWARD


def convolve(
    x: np.ndarray, packed: np.ndarray, y: np.ndarray, epilogue: Epilogue, stride: int, corner: Pair, widths: Pair
) -> None:
    """y = f(convolution + residual + bias); packed: by ``pack``.

    corner: padding above and to the left; widths: channels of a segment of x and of y.
    """
    _FORWARD[window_of((packed.shape[1], packed.shape[3]), stride)](x, packed, y, epilogue, *corner, widths)


def input_gradient(dy: np.ndarray, w: np.ndarray, dx: np.ndarray, stride: int, corner: Pair, groups: int) -> None:
    """Write dx."""
    kh, kw, inputs, co = w.shape
    widths, swapped = (co // groups, inputs), exchanged(w, groups)
    if stride == 1:
        packed, around = pack(swapped[::-1, ::-1], groups), (kh - 1 - corner[0], kw - 1 - corner[1])
        convolve(dy, packed, dx, sums_only(dx, False), 1, around, widths)
    else:
        _backward_input_strided(dy, pack(swapped, groups), dx, stride, *corner, widths)


def exchanged(w: np.ndarray, groups: int) -> np.ndarray:
    """The kernel (kh, kw, co/groups, ci) that leads from the outputs of each segment to its inputs."""
    kh, kw, inputs, co = w.shape
    by_segment = w.reshape(kh, kw, inputs, groups, co // groups)
    return by_segment.transpose(0, 1, 4, 3, 2).reshape(kh, kw, co // groups, groups * inputs)


def weight_gradient(dy: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int, corner: Pair, groups: int) -> np.ndarray:
    """dw."""
    kh, kw, inputs, co = w.shape
    swapped = memory.empty((kh, kw, co // groups, x.shape[3]), w.dtype)
    chunks = min(_CHUNKS, dy.shape[0] * dy.shape[1])
    partial = memory.empty((chunks, *packed_shape(swapped.shape, groups, w.dtype)), w.dtype)
    pixels, threads = -(-dy.shape[2] // _PIXELS) * _PIXELS, numba.get_num_threads()
    shapes = (threads, kh, (pixels - 1) * stride + kw, lanes(w.dtype)), (threads, pixels, lanes(w.dtype))
    parts = memory.carve([math.prod(shape) for shape in shapes], w.dtype)
    lines, row_of_dy = (part.reshape(shape) for part, shape in zip(parts, shapes, strict=True))
    _WEIGHTS[window_of(w.shape, stride)](dy, x, partial, lines, row_of_dy, corner, (co // groups, inputs))
    unpack(added(partial), swapped, groups)
    return exchanged(swapped, groups)
