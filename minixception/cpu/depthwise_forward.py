"""Depthwise convolution, forward: a block of neighbouring outputs at once.

    y[i, j] = sum over a, b of f(x[i * stride + a - top, j * stride + b - left]) * w[a, b]        (channel by channel)

A 3x3 convolution uses each input pixel nine times. One output after the other, each of these uses is a load from
the cache; the multiplications then wait for loads. Here 2 x 5 neighbouring outputs are held in registers, and each
pixel of the 4 x 7 under them is loaded once and multiplied into all sums that it touches: 28 loads of pixels and 18 of
weights feed 90 fused multiply-adds, instead of 180 loads.

1. **Two rows of outputs** share two of their three rows of input: L2 delivers two rows of input for each, not three.
   x is taken row by row; what a row adds to the sums is one call of ``fma_rows``.
2. **All channels** of ten outputs before the next ten: whole pixels are read and written, in straight streams. The two
   rows of x that consecutive pairs of rows share come from L2 then; a few channels at a time, down all rows, they would
   come from L1, but of what is in L3 or in memory each cache line would be fetched by itself.
3. **Prefetching**: a tile asks for the rows of x and y below it, which the next pair of rows reads and writes. The
   hardware's own prefetching follows straight streams, not tiles.
4. **Borders**: a tile is compiled twice, for the inside of the image, and with masks that read what lies outside as
   zero. There are no branches, and on AVX-512 a masked load costs no more than a plain one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .jit import forceinline, inline, pasted
from .simd import (
    Inside,
    arrived,
    borrowed,
    fma,
    fma_rows,
    lanes,
    load,
    load_run,
    prefetch_run,
    splat,
    store,
    store_run,
    vectors_of,
    where_positive,
    zeros,
)

ROWS = 2  # of outputs in a tile,
COLUMNS = 5  # and columns: the widths 10, 19, 37, 74 and 147 of Xception are just below its multiples


class Border(NamedTuple):
    """What exists of the runs that a tile touches; None is all."""

    pixels: Any
    taps: Any
    outputs: Any


def _tiles(size, stride):
    """Outputs by tiles, for a square kernel and a stride known at compile time."""
    pixels = (COLUMNS - 1) * stride + size  # of x, under a row of the tile
    lines = (ROWS - 1) * stride + size  # rows of x under the tile
    ahead = COLUMNS * stride  # pixels of a row that lie under this tile and not under its neighbour
    spacing = (stride, 1)

    @pasted
    def tile(x, line, column, how, w, y, i, j, q, gate, border):
        """Outputs y[i : i + 2, j : j + 5], channels from q on; x[line, column] lies under their first tap, or would.

        3x3: 10 sums, 6 weights, a pixel and what f needs are in registers. The loop over the rows of x is a loop and
        not written out, and its branches stay: in straight code LLVM moves loads up, and spills 75 registers for it.
        """
        for u in range(ROWS * stride):
            prefetch_run(x, (line + lines + u, column, q), ahead, False)
        for u in range(ROWS, 2 * ROWS):
            prefetch_run(y, (i + u, j, q), COLUMNS, True)
        two = i + 1 < y.shape[0]
        above, below = zeros(y, ROWS, COLUMNS)
        for u in range(max(0, -line), min(lines if two else size, x.shape[0] - line)):
            place = (line + u, column, q)
            if u < stride or not two:
                taps = load_run(w, (u, 0, q), size, border.taps)
                (above,) = fma_rows((above,), x, place, (taps,), spacing, how, border.pixels)
            elif u < size:
                taps = load_run(w, (u, 0, q), size, border.taps), load_run(w, (u - stride, 0, q), size, border.taps)
                above, below = fma_rows((above, below), x, place, taps, spacing, how, border.pixels)
            else:
                taps = load_run(w, (u - stride, 0, q), size, border.taps)
                (below,) = fma_rows((below,), x, place, (taps,), spacing, how, border.pixels)
        store_gated(y, (i, j, q), above, gate, border.outputs)
        if two:
            store_gated(y, (i + 1, j, q), below, gate, border.outputs)

    @forceinline
    def two_rows(x, line, column, incoming, w, y, i, gate):
        """Two rows of outputs, from row i on; x[line, column] lies under their first tap."""
        c = y.shape[2]
        vector = lanes(y.dtype)
        for j in range(0, y.shape[1], COLUMNS):
            v = column + j * stride
            whole = v >= 0 and v + pixels <= x.shape[1] and j + COLUMNS <= y.shape[1]
            for q in range(0, c, vector):
                n = min(vector, c - q)
                how = vectors_of(incoming, x, q, n)
                if whole and n == vector:
                    tile(x, line, v, how, w, y, i, j, q, gate, Border(None, None, None))
                else:
                    exist = Inside(-v, x.shape[1] - v, n), Inside(0, size, n), Inside(0, y.shape[1] - j, n)
                    tile(x, line, v, how, w, y, i, j, q, gate, Border(*exist))

    @inline
    def run(x, line, column, incoming, w, y, gate):
        x, w, y, gate = borrowed(x), borrowed(w), borrowed(y), borrowed(gate)
        for i in range(0, y.shape[0], ROWS):
            two_rows(x, line + i * stride, column, incoming, w, y, i, gate)

    return run


@pasted
def store_gated(y, index, run, gate, inside):
    """Store a run of outputs; where there is a gate, as 0 wherever it is not positive."""
    if len(gate) > 0:
        run = where_positive(load_run(gate, index, COLUMNS, inside), run)
    store_run(y, index, run, inside)


_filter_3_1, _filter_3_2, _filter_5_1, _filter_5_2 = (_tiles(size, s) for size in (3, 5) for s in (1, 2))

# A kernel that calls ``filter_outputs`` is made once for each of these windows, which is a constant in it: only the
# tiles of this one window are compiled with it, when it is first called.
WINDOWS = ("3x3", "3x3 stride 2", "5x5", "5x5 stride 2", "any")


def window_of(kernel: tuple[int, ...], stride: int) -> str:
    """Which of WINDOWS a kernel (kh, kw, ...) with this stride belongs to.

    >>> window_of((3, 3, 728), 1), window_of((3, 3, 728), 2), window_of((7, 3, 728), 1)
    ('3x3', '3x3 stride 2', 'any')
    """
    name = f"{kernel[0]}x{kernel[1]}" + (f" stride {stride}" if stride > 1 else "")
    return name if name in WINDOWS else "any"


@pasted
def filter_outputs(x, line, column, incoming, w, y, gate, stride, window):
    """Outputs y (rows, columns, c) of one image x (h, w, c): by tiles for the usual windows, else one at a time.

    line, column: where in x the window of y[0, 0] begins; less than 0 if in the padding. incoming: what f is, see
    ``vectors_of``: a ReLU or a batchnorm on the way in needs no pass of its own; None costs no instruction. gate:
    empty, or laid out like y, which is then 0 wherever the gate is not positive (the gradient of a ReLU). window: a
    constant.
    """
    if window == "3x3":
        _filter_3_1(x, line, column, incoming, w, y, gate)
    elif window == "3x3 stride 2":
        _filter_3_2(x, line, column, incoming, w, y, gate)
    elif window == "5x5":
        _filter_5_1(x, line, column, incoming, w, y, gate)
    elif window == "5x5 stride 2":
        _filter_5_2(x, line, column, incoming, w, y, gate)
    else:
        _filter_any(x, line, column, incoming, w, y, gate, stride)


@pasted
def filter_strip(x, first, last, outputs, incoming, w, buffer, corner, stride, window):
    """Output pixels ``first`` to ``last`` of all images x (n, h, w, c), one behind the other, to buffer (flat).

    outputs: rows and columns of an image's outputs; corner: rows and columns of padding above and to the left. The rest
    is as in ``filter_outputs``.
    """
    (ho, wo), (top, left), c = outputs, corner, x.shape[3]
    p = first
    while p < last:  # the rest of a row, as many whole rows of an image as there are, the start of a row
        row, j0 = p // wo, p % wo
        m, i = row // ho, row % ho
        rows = min(ho - i, (last - p) // wo) if j0 == 0 and last - p >= wo else 1
        j1 = min(wo, j0 + last - p)
        here = buffer[(p - first) * c : (p - first + rows * (j1 - j0)) * c].reshape(rows, j1 - j0, c)
        filter_outputs(x[m], i * stride - top, j0 * stride - left, incoming, w, here, here[:0], stride, window)
        p += rows * (j1 - j0)


@inline
def _filter_any(x, line, column, incoming, w, y, gate, stride):
    """One output after the other: windows of any size."""
    (h, width, c), (kh, kw, _), (rows, columns, _) = x.shape, w.shape, y.shape
    for i in range(rows):
        for j in range(columns):
            u, v = line + i * stride, column + j * stride
            for q in range(0, c, lanes(y.dtype)):
                n = min(lanes(y.dtype), c - q)
                how = vectors_of(incoming, x, q, n)
                total = splat(y, y.dtype.type(0))
                for a in range(max(0, -u), min(kh, h - u)):
                    for b in range(max(0, -v), min(kw, width - v)):
                        (pixel,) = arrived((load(x, ((u + a) * width + v + b) * c + q, n),), how, None)
                        total = fma(pixel, load(w, (a * kw + b) * c + q, n), total)
                store(y, (i * columns + j) * c + q, total, n)
                if len(gate) > 0:
                    for p in range(q, q + n):
                        y[i, j, p] = y[i, j, p] if gate[i, j, p] > 0 else y.dtype.type(0)
