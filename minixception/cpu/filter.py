"""Register tiles of a depthwise convolution: a block of neighbouring outputs at once.

A 3x3 convolution uses each input pixel nine times. One output after the other, each of these uses is a load from
the cache; the multiplications then wait for loads. Here 2 x 5 neighbouring outputs are held in registers, and each
pixel of the 4 x 7 under them is loaded once and multiplied into all sums that it touches: 28 loads of pixels and 9 of
weights feed 90 fused multiply-adds, instead of 180 loads.

1. **Two rows of outputs** share two of their three rows of input: L2 delivers two rows of input for each, not three.
2. **Blocks of channels** (``_BLOCK`` vectors) go down all rows of a task before the next block starts: the rows of x
   that consecutive tiles share are then still in L1, and each pixel's part of a block is a straight run of cache lines.
3. **Prefetching**: a tile asks for the rows of x and y below it, which the next pair of rows reads and writes. The
   hardware's own prefetching follows straight streams, not tiles.

Borders are masked, not branched on: see cpu/columns.py. The code of a tile is written out without loops, for each
kernel size and stride.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .columns import Columns, if_between, if_whole, meetings, number, pixel_pointer, zeros
from .jit import inline
from .simd import (
    element_pointer,
    emit_fma,
    emit_maximum,
    emit_prefetch,
    emit_splat,
    fma,
    lanes,
    load,
    maximum,
    splat,
    store,
    vector_type,
)


@intrinsic(prefer_literal=True)
def filter_tile(
    typing_context,
    rows,
    outputs,
    size,
    stride,
    x,
    x_at,
    x_row,
    first,
    last,
    low,
    high,
    floor,
    w,
    w_at,
    y,
    y_at,
    y_row,
    gate,
    gated,
    count,
    step,
    n,
):
    """y[i, j] = sum over a, b < size of f(x[i * stride + a, j * stride + b]) * w[a, b], for i < rows, j < outputs.

    f(x) = max(x, floor): a floor of 0 is a ReLU on the way in, one of -inf nothing; it costs no extra pass. Of y the
    columns j < count are written, if gated then as 0 where gate, laid out like y, is not positive. Of x the rows
    outside of [first, last) and the columns outside of [low, high) are zero; n channels of each pixel count.

    x_at, w_at, y_at: where x[0, 0], w[0, 0] and y[0, 0] lie in the flat arrays; x_row, y_row: from one row to the next;
    step: from one pixel to the next, in all three. rows, outputs, size and stride are literals: 2 x 5 outputs of a 3x3
    kernel take 10 sums, 9 weights, a pixel and the floor, 21 registers.
    """
    dtype, width = y.dtype, lanes(y.dtype)
    height, across, kernel, s = (literal.literal_value for literal in (rows, outputs, size, stride))
    x_rows, x_columns = (height - 1) * s + kernel, (across - 1) * s + kernel

    def codegen(context, builder, signature, args):
        x_, x_at_, x_row_, first_, last_, low_, high_, floor_, w_, w_at_, *results = args[4:]
        y_, y_at_, y_row_, gate_, gated_, count_, step_, n_ = results
        x_origin = element_pointer(context, builder, signature.args[4], x_, x_at_)
        w_origin = element_pointer(context, builder, signature.args[12], w_, w_at_)
        y_origin = element_pointer(context, builder, signature.args[14], y_, y_at_)
        gate_origin = element_pointer(context, builder, signature.args[17], gate_, y_at_)
        w_row = builder.mul(step_, number(kernel))
        floors = emit_splat(builder, dtype, floor_)

        def emit(masked):
            for u in range(height * s):
                for v in range(across * s):
                    emit_prefetch(builder, pixel_pointer(builder, x_origin, x_rows + u, x_row_, v, step_))
            for i in range(height):
                for j in range(across):
                    emit_prefetch(builder, pixel_pointer(builder, y_origin, height + i, y_row_, j, step_), write=True)
            pixels = Columns(builder, dtype, x_columns, n_, low_, high_, masked)
            weights = Columns(builder, dtype, kernel, n_, number(0), number(kernel), masked)
            totals = Columns(builder, dtype, across, n_, number(0), count_, masked)
            sums = [zeros(builder, dtype, across) for _ in range(height)]
            for u in range(x_rows):
                pairs = meetings(u, height, kernel, s)  # (output row, kernel row) for which x[u] counts
                with if_between(builder, first_, u, last_):
                    taps = {
                        (a, b): weights.load(pixel_pointer(builder, w_origin, a, w_row, b, step_), b)
                        for _, a in pairs
                        for b in range(kernel)
                    }
                    for v in range(x_columns):
                        loaded = pixels.load(pixel_pointer(builder, x_origin, u, x_row_, v, step_), v)
                        pixel = emit_maximum(builder, loaded, floors)
                        for j, b in meetings(v, across, kernel, s):
                            for i, a in pairs:
                                total = sums[i][j]
                                builder.store(emit_fma(builder, pixel, taps[a, b], builder.load(total)), total)
            with builder.if_then(gated_):
                zero = ir.Constant(vector_type(dtype), [0.0] * width)
                for i in range(height):
                    for j in range(across):
                        allowing = totals.load(pixel_pointer(builder, gate_origin, i, y_row_, j, step_), j)
                        open_ = builder.fcmp_ordered(">", allowing, zero)
                        builder.store(builder.select(open_, builder.load(sums[i][j]), zero), sums[i][j])
            for i in range(height):
                for j in range(across):
                    totals.store(pixel_pointer(builder, y_origin, i, y_row_, j, step_), j, builder.load(sums[i][j]))

        if_whole(builder, n_, width, [(low_, high_, x_columns), (number(0), count_, across)], emit)
        return context.get_dummy_value()

    i = types.intp
    return types.void(
        rows, outputs, size, stride, x, i, i, i, i, i, i, x.dtype, w, i, y, i, i, *(gate, types.boolean), i, i, i
    ), codegen


_ROWS = 2  # of outputs in a tile,
_OUTPUTS = 5  # and columns: the widths 10, 19, 37, 74 and 147 of Xception are just below its multiples
_BLOCK = 8  # vectors of channels that go down all rows together: 4 rows of 19 pixels take 38 KiB of L1


def _filter_tiles(size, stride):
    """Outputs of one image by tiles, for a square kernel and a stride known at compile time."""

    @inline
    def run(x, x_at, h, wd, floor, w, y, y_at, gate, gated, i0, i1, j0, j1, wo, top, left, c, lanes):
        for block in range(0, c, _BLOCK * lanes):
            end = min(c, block + _BLOCK * lanes)
            for i in range(i0, i1, _ROWS):
                line = i * stride - top  # of x, under the first tap of the tile's first output
                for j in range(j0, j1, _OUTPUTS):
                    column = j * stride - left
                    low, high = -column, wd - column
                    x_tile = x_at + (line * wd + column) * c
                    y_tile = y_at + ((i - i0) * wo + j - j0) * c
                    for q in range(block, end, lanes):
                        if i + _ROWS <= i1:
                            filter_tile(
                                _ROWS, _OUTPUTS, size, stride, x, x_tile + q, wd * c, -line, h - line, low, high, floor,
                                w, q, y, y_tile + q, wo * c, gate, gated, j1 - j, c, min(lanes, c - q),
                            )  # fmt: skip
                        else:
                            filter_tile(
                                1, _OUTPUTS, size, stride, x, x_tile + q, wd * c, -line, h - line, low, high, floor,
                                w, q, y, y_tile + q, wo * c, gate, gated, j1 - j, c, min(lanes, c - q),
                            )  # fmt: skip

    return run


_filter_3_1, _filter_3_2, _filter_5_1, _filter_5_2 = (_filter_tiles(size, s) for size in (3, 5) for s in (1, 2))


@inline
def filter_outputs(
    x, x_at, h, wd, floor, w, kh, kw, y, y_at, gate, gated, i0, i1, j0, j1, wo, stride, top, left, c, lanes
):  # fmt: skip
    """Outputs i0 <= i < i1, j0 <= j < j1 of one image: by tiles for the usual kernels, else one output at a time.

    x_at: where the image (h, wd, c) begins; y_at: where output (i0, j0) goes, the rows of y are wo * c apart; gated: y
    is 0 where gate, laid out like y, is not positive (the gradient of a ReLU).
    """
    if kh == 3 and kw == 3 and stride == 1:
        _filter_3_1(x, x_at, h, wd, floor, w, y, y_at, gate, gated, i0, i1, j0, j1, wo, top, left, c, lanes)
    elif kh == 3 and kw == 3 and stride == 2:
        _filter_3_2(x, x_at, h, wd, floor, w, y, y_at, gate, gated, i0, i1, j0, j1, wo, top, left, c, lanes)
    elif kh == 5 and kw == 5 and stride == 1:
        _filter_5_1(x, x_at, h, wd, floor, w, y, y_at, gate, gated, i0, i1, j0, j1, wo, top, left, c, lanes)
    elif kh == 5 and kw == 5 and stride == 2:
        _filter_5_2(x, x_at, h, wd, floor, w, y, y_at, gate, gated, i0, i1, j0, j1, wo, top, left, c, lanes)
    else:
        for i in range(i0, i1):
            for j in range(j0, j1):
                line, column = i * stride - top, j * stride - left
                for q in range(0, c, lanes):
                    n = min(lanes, c - q)
                    total = splat(y, y.dtype.type(0))
                    for a in range(max(0, -line), min(kh, h - line)):
                        for b in range(max(0, -column), min(kw, wd - column)):
                            pixel = maximum(load(x, x_at + ((line + a) * wd + column + b) * c + q, n), splat(y, floor))
                            total = fma(pixel, load(w, (a * kw + b) * c + q, n), total)
                    at = y_at + ((i - i0) * wo + j - j0) * c + q
                    store(y, at, total, n)
                    if gated:
                        for p in range(at, at + n):
                            y[p] = y[p] if gate[p] > 0 else y.dtype.type(0)
