"""Register tiles of a depthwise convolution: a block of neighbouring outputs at once.

A 3x3 convolution uses each input pixel nine times. One output after the other, each of these uses is a load from
the cache; the multiplications then wait for loads. Here 2 x 5 neighbouring outputs are held in registers, and each
pixel of the 4 x 7 under them is loaded once and multiplied into all sums that it touches: 28 loads of pixels and 9 of
weights feed 90 fused multiply-adds, instead of 180 loads.

1. **Two rows of outputs** share two of their three rows of input: L2 delivers two rows of input for each, not three.
2. **Blocks of channels** (``_BLOCK`` vectors) go down all rows of a task before the next block starts: the rows of x
   that consecutive tiles share are then still in L1, and each pixel's part of a block is a straight run of cache lines.
3. **Borders without branches**: beside the code for tiles inside of the image stands a second copy whose loads and
   stores are masked. What lies outside, and lanes past the last channel, reads as zero and is never touched. On
   AVX-512 a masked load costs no more than a plain one.

The gradient of the weights turns this around: the sums of all kernel taps stay in registers along a whole row.

A vector is one pixel's next 16 channels (float32, AVX-512); channels never mix. The code of a tile is written out
without loops, for each kernel size and stride.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import inline
from .simd import (
    element_pointer,
    emit_fma,
    emit_mask,
    emit_masked_load,
    emit_masked_store,
    emit_maximum,
    emit_prefetch,
    emit_splat,
    emit_whole_load,
    emit_whole_store,
    fma,
    lanes,
    load,
    maximum,
    splat,
    store,
    vector_type,
)


def _number(value):
    return ir.Constant(ir.IntType(64), value)


class _Columns:
    """Loads and stores the pixels v = 0, 1, ... of a row; with masks only those in [low, high), and n lanes of them."""

    def __init__(self, builder, dtype, columns, n, low, high, masked):
        self.builder, self.dtype = builder, dtype
        self.masks = [self._mask(v, n, low, high) for v in range(columns)] if masked else None

    def _mask(self, v, n, low, high):
        above, below = (self.builder.icmp_signed(sign, _number(v), end) for sign, end in ((">=", low), ("<", high)))
        valid = self.builder.select(self.builder.and_(above, below), n, _number(0))
        return emit_mask(self.builder, self.dtype, valid)

    def load(self, pointer, v):
        if self.masks is None:
            return emit_whole_load(self.builder, self.dtype, pointer)
        return emit_masked_load(self.builder, self.dtype, pointer, self.masks[v])

    def store(self, pointer, v, value):
        if self.masks is None:
            emit_whole_store(self.builder, self.dtype, pointer, value)
        else:
            emit_masked_store(self.builder, self.dtype, pointer, value, self.masks[v])


def _if_whole(builder, n, width, ranges, emit):
    """emit(masked=False) where all lanes count and all columns 0 .. m-1 of each (low, high, m) lie in [low, high)."""
    whole = builder.icmp_signed("==", n, _number(width))
    for low, high, columns in ranges:
        whole = builder.and_(whole, builder.icmp_signed("<=", low, _number(0)))
        whole = builder.and_(whole, builder.icmp_signed("<=", _number(columns), high))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            emit(masked=False)
        with otherwise:
            emit(masked=True)


def _if_between(builder, first, u, last):
    """A block of code for first <= u < last only."""
    inside = builder.and_(builder.icmp_signed("<=", first, _number(u)), builder.icmp_signed("<", _number(u), last))
    return builder.if_then(inside, likely=True)


def _pointer(builder, origin, row, pitch, column, step):
    """Where column ``column`` of row ``row`` lies: rows are pitch, columns step numbers apart."""
    return builder.gep(origin, [builder.add(builder.mul(pitch, _number(row)), builder.mul(step, _number(column)))])


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
        w_row = builder.mul(step_, _number(kernel))
        floors = emit_splat(builder, dtype, floor_)

        def emit(masked):
            for u in range(height * s):
                for v in range(across * s):
                    emit_prefetch(builder, _pointer(builder, x_origin, x_rows + u, x_row_, v, step_))
            for i in range(height):
                for j in range(across):
                    emit_prefetch(builder, _pointer(builder, y_origin, height + i, y_row_, j, step_), write=True)
            pixels = _Columns(builder, dtype, x_columns, n_, low_, high_, masked)
            weights = _Columns(builder, dtype, kernel, n_, _number(0), _number(kernel), masked)
            totals = _Columns(builder, dtype, across, n_, _number(0), count_, masked)
            sums = [_zeros(builder, dtype, across) for _ in range(height)]
            for u in range(x_rows):
                meetings = _meetings(u, height, kernel, s)  # (output row, kernel row) for which x[u] counts
                with _if_between(builder, first_, u, last_):
                    taps = {
                        (a, b): weights.load(_pointer(builder, w_origin, a, w_row, b, step_), b)
                        for _, a in meetings
                        for b in range(kernel)
                    }
                    for v in range(x_columns):
                        loaded = pixels.load(_pointer(builder, x_origin, u, x_row_, v, step_), v)
                        pixel = emit_maximum(builder, loaded, floors)
                        for j, b in _meetings(v, across, kernel, s):
                            for i, a in meetings:
                                total = sums[i][j]
                                builder.store(emit_fma(builder, pixel, taps[a, b], builder.load(total)), total)
            with builder.if_then(gated_):
                zero = ir.Constant(vector_type(dtype), [0.0] * width)
                for i in range(height):
                    for j in range(across):
                        allowing = totals.load(_pointer(builder, gate_origin, i, y_row_, j, step_), j)
                        open_ = builder.fcmp_ordered(">", allowing, zero)
                        builder.store(builder.select(open_, builder.load(sums[i][j]), zero), sums[i][j])
            for i in range(height):
                for j in range(across):
                    totals.store(_pointer(builder, y_origin, i, y_row_, j, step_), j, builder.load(sums[i][j]))

        _if_whole(builder, n_, width, [(low_, high_, x_columns), (_number(0), count_, across)], emit)
        return context.get_dummy_value()

    i = types.intp
    return types.void(
        rows, outputs, size, stride, x, i, i, i, i, i, i, x.dtype, w, i, y, i, i, *(gate, types.boolean), i, i, i
    ), codegen


@intrinsic(prefer_literal=True)
def correlate_row(
    typing_context,
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
    dy,
    dy_at,
    count,
    dw,
    dw_at,
    step,
    n,
):
    """dw[a, b] += sum over j < count of f(x[a, j * stride + b]) * dy[j], for first <= a < last, b < size; n channels.

    The size * size sums live in registers; dy is taken in steps of ``outputs`` pixels. Other arguments as for
    ``filter_tile``.
    """
    dtype, width = dw.dtype, lanes(dw.dtype)
    across, kernel, s = (literal.literal_value for literal in (outputs, size, stride))
    x_columns = (across - 1) * s + kernel

    def codegen(context, builder, signature, args):
        x_, x_at_, x_row_, first_, last_, low_, high_, floor_, dy_, dy_at_, count_, dw_, dw_at_, step_, n_ = args[3:]
        x_origin = element_pointer(context, builder, signature.args[3], x_, x_at_)
        dy_origin = element_pointer(context, builder, signature.args[11], dy_, dy_at_)
        dw_origin = element_pointer(context, builder, signature.args[14], dw_, dw_at_)
        floors = emit_splat(builder, dtype, floor_)
        sums = _zeros(builder, dtype, kernel**2)
        taps = _Columns(builder, dtype, kernel**2, n_, _number(0), _number(kernel**2), masked=True)
        for tap, total in enumerate(sums):
            builder.store(taps.load(_pointer(builder, dw_origin, 0, step_, tap, step_), tap), total)
        with cgutils.for_range_slice(builder, _number(0), count_, _number(across)) as (j0, _):
            column = builder.mul(j0, _number(s))
            x_low, x_high, rest = builder.sub(low_, column), builder.sub(high_, column), builder.sub(count_, j0)
            x_here = builder.gep(x_origin, [builder.mul(column, step_)])
            dy_here = builder.gep(dy_origin, [builder.mul(j0, step_)])

            def emit(masked):
                for v in range(across * s):
                    for u in range(s):
                        emit_prefetch(builder, _pointer(builder, x_here, kernel + u, x_row_, v, step_))
                for j in range(across):
                    emit_prefetch(
                        builder,
                        builder.gep(dy_here, [builder.add(builder.mul(count_, step_), builder.mul(step_, _number(j)))]),
                    )
                pixels = _Columns(builder, dtype, x_columns, n_, x_low, x_high, masked)
                arriving = _Columns(builder, dtype, across, n_, _number(0), rest, masked)
                gradients = [arriving.load(_pointer(builder, dy_here, 0, step_, j, step_), j) for j in range(across)]
                for a in range(kernel):
                    with _if_between(builder, first_, a, last_):
                        for v in range(x_columns):
                            loaded = pixels.load(_pointer(builder, x_here, a, x_row_, v, step_), v)
                            pixel = emit_maximum(builder, loaded, floors)
                            for j, b in _meetings(v, across, kernel, s):
                                total = sums[a * kernel + b]
                                builder.store(emit_fma(builder, pixel, gradients[j], builder.load(total)), total)

            _if_whole(builder, n_, width, [(x_low, x_high, x_columns), (_number(0), rest, across)], emit)
        for tap, total in enumerate(sums):
            taps.store(_pointer(builder, dw_origin, 0, step_, tap, step_), tap, builder.load(total))
        return context.get_dummy_value()

    i = types.intp
    return types.void(outputs, size, stride, x, i, i, i, i, i, i, x.dtype, dy, i, i, dw, i, i, i), codegen


def _zeros(builder, dtype, count):
    """Variables that LLVM keeps in registers, each a vector of zeros."""
    zero = ir.Constant(vector_type(dtype), [0.0] * lanes(dtype))
    variables = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
    for variable in variables:
        builder.store(zero, variable)
    return variables


def _meetings(v, outputs, kernel, stride):
    """The (output j, tap b) for which input v, along either axis, lies under tap b of output j."""
    pairs = [(j, v - j * stride) for j in range(outputs)]
    return [(j, b) for j, b in pairs if 0 <= b < kernel]


_ROWS = 2  # of outputs in a tile,
_OUTPUTS = 5  # and columns: the widths 10, 19, 37, 74 and 147 of Xception are just below its multiples
_BLOCK = 8  # vectors of channels that go down all rows together: 4 rows of 19 pixels take 38 KiB of L1
_ARRIVING = 4  # pixels of dy at a time in the gradient of the weights: 9 sums, 4 pixels of dy and one of x


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


def _correlate_tiles(size, stride):
    """What one row of dy adds to dw by tiles, for a square kernel and stride known at compile time."""

    @inline
    def run(x, x_at, wd, a0, a1, left, floor, dy, dy_at, wo, dw, dw_at, c, lanes):
        for q in range(0, c, lanes):
            correlate_row(
                _ARRIVING, size, stride, x, x_at - left * c + q, wd * c, a0, a1, left, wd + left,
                floor, dy, dy_at + q, wo, dw, dw_at + q, c, min(lanes, c - q),
            )  # fmt: skip

    return run


_correlate_3_1, _correlate_3_2, _correlate_5_1, _correlate_5_2 = (
    _correlate_tiles(size, s) for size in (3, 5) for s in (1, 2)
)


@inline
def correlate_outputs(x, x_at, wd, a0, a1, left, floor, dy, dy_at, wo, dw, dw_at, kh, kw, stride, c, lanes):
    """What one row of dy adds to dw, all channels: by tiles for the usual kernels, else one tap at a time.

    x_at: where the row of x under tap row 0 begins, or would; rows a0 .. a1-1 of the kernel lie inside of the image.
    """
    if kh == 3 and kw == 3 and stride == 1:
        _correlate_3_1(x, x_at, wd, a0, a1, left, floor, dy, dy_at, wo, dw, dw_at, c, lanes)
    elif kh == 3 and kw == 3 and stride == 2:
        _correlate_3_2(x, x_at, wd, a0, a1, left, floor, dy, dy_at, wo, dw, dw_at, c, lanes)
    elif kh == 5 and kw == 5 and stride == 1:
        _correlate_5_1(x, x_at, wd, a0, a1, left, floor, dy, dy_at, wo, dw, dw_at, c, lanes)
    elif kh == 5 and kw == 5 and stride == 2:
        _correlate_5_2(x, x_at, wd, a0, a1, left, floor, dy, dy_at, wo, dw, dw_at, c, lanes)
    else:
        for a in range(a0, a1):
            for b in range(kw):
                j0 = max(0, (left - b + stride - 1) // stride)
                j1 = min(wo, (wd + left - b + stride - 1) // stride)
                for q in range(0, c, lanes):
                    n = min(lanes, c - q)
                    at = dw_at + (a * kw + b) * c + q
                    total = load(dw, at, n)
                    for j in range(j0, j1):
                        loaded = load(x, x_at + (a * wd + j * stride + b - left) * c + q, n)
                        pixel = maximum(loaded, splat(x, floor))
                        total = fma(load(dy, dy_at + j * c + q, n), pixel, total)
                    store(dw, at, total, n)
