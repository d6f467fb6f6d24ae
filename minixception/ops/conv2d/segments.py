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
new places, and the places. A register holds whole segments: with 6 channels two of them, and 4 lanes idle. Where it
would hold one alone nothing need change places: a product for each segment (products.py) reads its channels one by one
and spreads them over a register, which the loads do beside the multiply-adds. So it is, too, for kernels and strides
that no tile is compiled for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from ...cpu.depthwise_forward import Border, window_of
from ...cpu.gemm import VECTORS, Epilogue, sums_only
from ...cpu.jit import forceinline, inline, parallel, pasted, prange
from ...cpu.simd import (
    Inside,
    add,
    borrowed,
    fma_rows,
    lanes,
    load,
    load_run,
    maximum,
    member,
    prefetch_run,
    segments,
    splat,
    store_run,
    zeros,
)
from ...engine.op import Shape

Pair = tuple[int, int]

ROWS = 2  # of outputs in a tile,
COLUMNS = 10 if VECTORS == 4 else 3  # and columns, with 32 registers or 16
_TASKS = 32  # bands of rows in all, about


# A kernel w (kh, kw, inputs, co) is packed as (blocks, kh, inputs, kw, lanes): block by block the outputs that share a
# register, and in a block tap by tap as they are used, padded with zeros. A block is whole segments, as many as fit;
# or, where a segment does not, the next outputs, of one segment or of two.


def suits(kernel: Shape, stride: int, groups: int, dtype: Any) -> bool:
    """Whether segments of a convolution with this kernel (kh, kw, ci/groups, co) share a register, and tiles fit it.

    >>> suits((3, 3, 4, 64), 1, 16, np.float32), suits((3, 3, 64, 64), 1, 1, np.float32)
    (True, False)
    """
    several = 2 * max(kernel[2], kernel[3] // groups) <= lanes(dtype)
    return groups > 1 and several and window_of(kernel, stride) in TILES


def wide_segments(inputs: int, outputs: int, dtype: Any) -> bool:
    """Whether a register's channels belong to two segments at most, and not to whole ones."""
    return min(inputs, outputs) >= lanes(dtype) - 1 and max(inputs, outputs) > lanes(dtype)


def packed_shape(w: Shape, groups: int, dtype: Any) -> Shape:
    """(blocks, kh, inputs, kw, lanes)."""
    kh, kw, inputs, co = w
    return (-(-co // outputs_of_block(w, groups, dtype)), kh, inputs, kw, lanes(dtype))


def outputs_of_block(w: Shape, groups: int, dtype: Any) -> int:
    """Channels of y in a block."""
    inputs, outputs = w[2], w[3] // groups
    return lanes(dtype) if wide_segments(inputs, outputs, dtype) else lanes(dtype) // max(inputs, outputs) * outputs


def pack(w: np.ndarray, groups: int) -> np.ndarray:
    """The kernel, block by block."""
    packed = np.zeros(packed_shape(w.shape, groups, w.dtype), w.dtype)
    for part, of_w in blockwise(packed, w, groups):
        part[...] = of_w
    return packed


def blockwise(packed: np.ndarray, w: np.ndarray, groups: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Views of a packed kernel, and of the elements of w that belong there: the full blocks, then the last one."""
    kh, kw, inputs, co = w.shape
    width = outputs_of_block(w.shape, groups, w.dtype)
    full, rest = divmod(co, width)
    in_blocks = w[..., : full * width].reshape(kh, kw, inputs, full, width)
    yield packed[:full, ..., :width], in_blocks.transpose(3, 0, 2, 1, 4)
    if rest:
        yield packed[full, ..., :rest], w[..., full * width :].swapaxes(1, 2)


class Block(NamedTuple):
    """A block of outputs: how a pixel arrives at them (``member``), the first channel of x and of y, and how many
    channels of a vector exist from there on.
    """

    places: Any
    p: Any
    n_in: Any
    q: Any
    n: Any


@forceinline
def several(block, places, vector, ci, co, widths):
    """Whole segments; places: of all of them, by ``segments``."""
    inputs, outputs = widths
    together = vector // max(inputs, outputs)
    p, q = block * together * inputs, block * together * outputs
    return Block(places, p, min(vector, ci - p), q, min(together * outputs, co - q))


# Forward, and dx with stride 1, a convolution of dy with the kernel rotated and its inputs and outputs exchanged ------


def _forward_tiles(size, stride):
    """Outputs by tiles, for a square kernel and a stride known at compile time."""
    pixels = (COLUMNS - 1) * stride + size  # of x, under a row of the tile
    lines = (ROWS - 1) * stride + size  # rows of x under the tile
    ahead = COLUMNS * stride
    spacing = (stride, 1)

    @pasted
    def tile(x, line, column, w, y, i, j, at, epilogue, border):
        """Outputs y[i : i + 2, j : j + 10], channels from q on; x[line, column] lies under their first tap, or would.

        Rows of x that lie under the first row of outputs alone, under both, under the second alone: whose sums are not
        open takes no registers. The loop over the segment's channels is inside, for then the pixels stay in L1.
        """
        places, p, _, q, n = at
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
        places, vector = segments(y, widths[0], widths[1]), lanes(y.dtype)
        for i in range(0, y.shape[0], ROWS):
            for j in range(0, y.shape[1], COLUMNS):
                u, v = line + i * stride, column + j * stride
                whole = v >= 0 and v + pixels <= x.shape[1] and j + COLUMNS <= y.shape[1]
                for block in range(len(w)):  # innermost: its pixels lie beside those of the next, in a straight stream
                    at = several(block, places, vector, x.shape[2], y.shape[2], widths)
                    if whole and at.n_in == vector == at.n:
                        border = Border(None, None, None)
                        tile(x, u, v, w[block], y, i, j, at, epilogue, border)
                    else:
                        pixels_here = Inside(-v, x.shape[1] - v, at.n_in)
                        border = Border(pixels_here, None, Inside(0, y.shape[1] - j, at.n))
                        tile(x, u, v, w[block], y, i, j, at, epilogue, border)

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
        _, p, n_in, q, n = several(block, places, lanes(row.dtype), dy.shape[2], channels, widths)
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


TILES = {"3x3": (3, 1), "3x3 stride 2": (3, 2), "5x5": (5, 1), "5x5 stride 2": (5, 2)}
FORWARD = {window: _forward_kernel(*size) for window, size in TILES.items()}


def convolve(
    x: np.ndarray, packed: np.ndarray, y: np.ndarray, epilogue: Epilogue, stride: int, corner: Pair, widths: Pair
) -> None:
    """y = f(convolution + residual + bias); packed: by ``pack``.

    corner: padding above and to the left; widths: channels of a segment of x and of y.
    """
    FORWARD[window_of((packed.shape[1], packed.shape[3]), stride)](x, packed, y, epilogue, *corner, widths)


def convolution(x: np.ndarray, w: np.ndarray, y: np.ndarray, stride: int, corner: Pair, groups: int) -> None:
    """Write y."""
    convolve(x, pack(w, groups), y, sums_only(y, False), stride, corner, (w.shape[2], w.shape[3] // groups))


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
