"""Register tiles of a depthwise convolution: several neighbouring outputs of one row at once.

A convolution along a row uses each input pixel kw times. One output after the other, each of these uses is a load
from the cache; the multiplications then wait for loads. Here ``outputs`` neighbouring results are held in registers,
and each input pixel is loaded once and multiplied into all of them that it touches: with a 3-wide kernel and 5
outputs, 7 loads of pixels and 3 of weights feed 15 fused multiply-adds per row of the window, instead of 30 loads.

The gradient of the weights turns this around: the sums of all kernel taps stay in registers along a whole row.

A vector is one pixel's next 16 channels (float32, AVX-512); channels never mix. Code for each (outputs, kernel width,
stride) is written out without loops over columns; a second copy with checked, masked loads serves the borders of
the image and the last, partial vector of channels: what lies outside reads as zero and is never touched.
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
    emit_load,
    emit_maximum,
    emit_splat,
    emit_store,
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
    """Emits loads of pixels v = 0, 1, ... from a row; checked ones where pixels outside of [low, high) are zero."""

    def __init__(self, builder, dtype, step, n, low, high, checked):
        self.builder, self.dtype, self.step, self.n = builder, dtype, step, n
        self.low, self.high, self.checked = low, high, checked

    def _inside(self, v):
        return self.builder.and_(
            self.builder.icmp_signed("<=", self.low, _number(v)), self.builder.icmp_signed("<", _number(v), self.high)
        )

    def load(self, row, v):
        pointer = self.builder.gep(row, [self.builder.mul(self.step, _number(v))])
        if not self.checked:
            vector = vector_type(self.dtype)
            return self.builder.load(self.builder.bitcast(pointer, vector.as_pointer()), align=self.dtype.bitwidth // 8)
        valid = self.builder.select(self._inside(v), self.n, _number(0))
        return emit_load(self.builder, self.dtype, pointer, valid)

    def store(self, row, v, value):
        pointer = self.builder.gep(row, [self.builder.mul(self.step, _number(v))])
        valid = self.builder.select(self._inside(v), self.n, _number(0)) if self.checked else self.n
        emit_store(self.builder, self.dtype, pointer, value, valid)


def _if_whole(builder, n, width, ranges, emit):
    """emit(checked=False) where all lanes count and all columns 0 .. m-1 of each (low, high, m) lie in [low, high)."""
    whole = builder.icmp_signed("==", n, _number(width))
    for low, high, columns in ranges:
        whole = builder.and_(whole, builder.icmp_signed("<=", low, _number(0)))
        whole = builder.and_(whole, builder.icmp_signed("<=", _number(columns), high))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            emit(checked=False)
        with otherwise:
            emit(checked=True)


@intrinsic(prefer_literal=True)
def filter_row(
    typing_context, outputs, kw, stride, x, x_at, x_row, low, high, floor, w, w_at, rows, y, y_at, count, step, n
):
    """y[j] = sum over a < rows, b < kw of f(x[a, j * stride + b]) * w[a, b], for j < min(outputs, count), n channels.

    f(x) = max(x, floor): a floor of 0 is a ReLU on the way in, one of -inf nothing; it costs no extra pass.

    x_at, w_at, y_at: where x[0, 0], w[0, 0] and y[0] start in the flat arrays; x_row: from one row of x to the next;
    step: from one pixel to the next, in all three. Columns of x outside of [low, high) are zero. outputs, kw and
    stride are literals: 5 outputs and a 3-wide kernel take 5 sums, 3 weights and a pixel, 9 registers.
    """
    dtype, width = y.dtype, lanes(y.dtype)
    columns = (outputs.literal_value - 1) * stride.literal_value + kw.literal_value

    def codegen(context, builder, signature, args):
        x_, x_at_, x_row_, low_, high_, floor_, w_, w_at_, rows_, y_, y_at_, count_, step_, n_ = args[3:]
        x_first = element_pointer(context, builder, signature.args[3], x_, x_at_)
        w_first = element_pointer(context, builder, signature.args[9], w_, w_at_)
        y_first = element_pointer(context, builder, signature.args[12], y_, y_at_)

        floors = emit_splat(builder, dtype, floor_)

        def emit(checked):
            pixels = _Columns(builder, dtype, step_, n_, low_, high_, checked)
            weights = _Columns(builder, dtype, step_, n_, _number(0), _number(kw.literal_value), checked)
            results = _Columns(builder, dtype, step_, n_, _number(0), count_, checked)
            sums = _zeros(builder, dtype, outputs.literal_value)
            with cgutils.for_range(builder, rows_) as loop:
                x_here = builder.gep(x_first, [builder.mul(loop.index, x_row_)])
                w_here = builder.gep(w_first, [builder.mul(loop.index, builder.mul(step_, _number(kw.literal_value)))])
                taps = [weights.load(w_here, b) for b in range(kw.literal_value)]
                for v in range(columns):
                    pixel = emit_maximum(builder, pixels.load(x_here, v), floors)
                    for j, b in _meetings(v, outputs, kw, stride):
                        builder.store(emit_fma(builder, pixel, taps[b], builder.load(sums[j])), sums[j])
            for j, total in enumerate(sums):
                results.store(y_first, j, builder.load(total))

        ranges = [(low_, high_, columns), (_number(0), count_, outputs.literal_value)]
        _if_whole(builder, n_, width, ranges, emit)
        return context.get_dummy_value()

    i = types.intp
    return types.void(outputs, kw, stride, x, i, i, i, i, x.dtype, w, i, i, y, i, i, i, i), codegen


@intrinsic(prefer_literal=True)
def correlate_row(
    typing_context, outputs, kw, stride, x, x_at, x_row, first, last, low, high, dy, dy_at, count, dw, dw_at, step, n
):
    """dw[a, b] += sum over j < count of x[a, j * stride + b] * dy[j], for first <= a < last, b < kw; n channels of it.

    The kernel is square, its kw * kw sums live in registers; dy is taken in steps of ``outputs`` pixels. Other
    arguments as for ``filter_row``.
    """
    dtype, width = dw.dtype, lanes(dw.dtype)
    columns = (outputs.literal_value - 1) * stride.literal_value + kw.literal_value

    def codegen(context, builder, signature, args):
        x_, x_at_, x_row_, first_, last_, low_, high_, dy_, dy_at_, count_, dw_, dw_at_, step_, n_ = args[3:]
        x_first = element_pointer(context, builder, signature.args[3], x_, x_at_)
        dy_first = element_pointer(context, builder, signature.args[10], dy_, dy_at_)
        dw_first = element_pointer(context, builder, signature.args[13], dw_, dw_at_)
        taps = kw.literal_value**2
        sums = _zeros(builder, dtype, taps)
        kernel = _Columns(builder, dtype, step_, n_, _number(0), _number(taps), checked=True)
        for tap, total in enumerate(sums):
            builder.store(kernel.load(dw_first, tap), total)
        with cgutils.for_range_slice(builder, _number(0), count_, _number(outputs.literal_value)) as (j0, _):
            moved = builder.mul(builder.mul(j0, step_), _number(stride.literal_value))
            x_low = builder.sub(low_, builder.mul(j0, _number(stride.literal_value)))
            x_high = builder.sub(high_, builder.mul(j0, _number(stride.literal_value)))
            rest = builder.sub(count_, j0)

            def emit(checked):
                pixels = _Columns(builder, dtype, step_, n_, x_low, x_high, checked)
                arriving = _Columns(builder, dtype, step_, n_, _number(0), rest, checked)
                dy_here = builder.gep(dy_first, [builder.mul(j0, step_)])
                gradients = [arriving.load(dy_here, j) for j in range(outputs.literal_value)]
                for a in range(kw.literal_value):
                    inside = builder.and_(
                        builder.icmp_signed("<=", first_, _number(a)), builder.icmp_signed("<", _number(a), last_)
                    )
                    with builder.if_then(inside, likely=True):
                        x_here = builder.gep(x_first, [builder.add(moved, builder.mul(x_row_, _number(a)))])
                        for v in range(columns):
                            pixel = pixels.load(x_here, v)
                            for j, b in _meetings(v, outputs, kw, stride):
                                total = sums[a * kw.literal_value + b]
                                builder.store(emit_fma(builder, pixel, gradients[j], builder.load(total)), total)

            _if_whole(builder, n_, width, [(x_low, x_high, columns), (_number(0), rest, outputs.literal_value)], emit)
        for tap, total in enumerate(sums):
            kernel.store(dw_first, tap, builder.load(total))
        return context.get_dummy_value()

    i = types.intp
    return types.void(outputs, kw, stride, x, i, i, i, i, i, i, dy, i, i, dw, i, i, i), codegen


def _zeros(builder, dtype, count):
    """Variables that LLVM keeps in registers, each a vector of zeros."""
    zero = ir.Constant(vector_type(dtype), [0.0] * lanes(dtype))
    variables = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
    for variable in variables:
        builder.store(zero, variable)
    return variables


def _meetings(v, outputs, kw, stride):
    """The (output j, tap b) for which pixel v of the row lies under tap b of output j."""
    pairs = [(j, v - j * stride.literal_value) for j in range(outputs.literal_value)]
    return [(j, b) for j, b in pairs if 0 <= b < kw.literal_value]


_OUTPUTS = 5  # of a row tile: the widths 10, 19, 37, 74 and 147 of Xception are just below its multiples
_ARRIVING = 4  # pixels of dy at a time in the gradient of the weights: 9 sums, 4 pixels of dy and one of x


def _filter_tiles(kw, stride):
    """One row of outputs by tiles, for a kernel width and stride known at compile time."""

    @inline
    def run(x, x_at, wd, floor, w, w_at, rows, y, y_at, wo, left, c, lanes):
        for q in range(0, c, lanes):
            n = min(lanes, c - q)
            for j in range(0, wo, _OUTPUTS):
                column = j * stride - left  # of x, under the window's first tap
                filter_row(
                    _OUTPUTS, kw, stride, x, x_at + column * c + q, wd * c, -column, wd - column, floor,
                    w, w_at + q, rows, y, y_at + j * c + q, wo - j, c, n,
                )  # fmt: skip

    return run


_filter_3_1, _filter_3_2, _filter_5_1, _filter_5_2 = (_filter_tiles(kw, s) for kw in (3, 5) for s in (1, 2))


@inline
def filter_outputs(x, x_at, wd, floor, w, w_at, kw, rows, y, y_at, wo, stride, left, c, lanes):
    """wo outputs of one row, all channels: by tiles for the usual kernels, else one output and tap at a time.

    x_at: where the row of x under the window's first row begins; y_at: where the first output goes.
    """
    if kw == 3 and stride == 1:
        _filter_3_1(x, x_at, wd, floor, w, w_at, rows, y, y_at, wo, left, c, lanes)
    elif kw == 3 and stride == 2:
        _filter_3_2(x, x_at, wd, floor, w, w_at, rows, y, y_at, wo, left, c, lanes)
    elif kw == 5 and stride == 1:
        _filter_5_1(x, x_at, wd, floor, w, w_at, rows, y, y_at, wo, left, c, lanes)
    elif kw == 5 and stride == 2:
        _filter_5_2(x, x_at, wd, floor, w, w_at, rows, y, y_at, wo, left, c, lanes)
    else:
        for j in range(wo):
            column = j * stride - left
            for q in range(0, c, lanes):
                n = min(lanes, c - q)
                total = splat(y, y.dtype.type(0))
                for a in range(rows):
                    for b in range(max(0, -column), min(kw, wd - column)):
                        pixel = maximum(load(x, x_at + (a * wd + column + b) * c + q, n), splat(y, floor))
                        total = fma(pixel, load(w, w_at + (a * kw + b) * c + q, n), total)
                store(y, y_at + j * c + q, total, n)


def _correlate_tiles(kw, stride):
    """What one row of dy adds to dw by tiles, for a square kernel and stride known at compile time."""

    @inline
    def run(x, x_at, wd, a0, a1, left, dy, dy_at, wo, dw, dw_at, c, lanes):
        for q in range(0, c, lanes):
            correlate_row(
                _ARRIVING, kw, stride, x, x_at - left * c + q, wd * c, a0, a1, left, wd + left,
                dy, dy_at + q, wo, dw, dw_at + q, c, min(lanes, c - q),
            )  # fmt: skip

    return run


_correlate_3_1, _correlate_3_2, _correlate_5_1, _correlate_5_2 = (
    _correlate_tiles(kw, s) for kw in (3, 5) for s in (1, 2)
)


@inline
def correlate_outputs(x, x_at, wd, a0, a1, left, dy, dy_at, wo, dw, dw_at, kh, kw, stride, c, lanes):
    """What one row of dy adds to dw, all channels: by tiles for the usual kernels, else one tap at a time.

    x_at: where the row of x under tap row 0 begins, or would; rows a0 .. a1-1 of the kernel lie inside of the image.
    """
    if kh == 3 and kw == 3 and stride == 1:
        _correlate_3_1(x, x_at, wd, a0, a1, left, dy, dy_at, wo, dw, dw_at, c, lanes)
    elif kh == 3 and kw == 3 and stride == 2:
        _correlate_3_2(x, x_at, wd, a0, a1, left, dy, dy_at, wo, dw, dw_at, c, lanes)
    elif kh == 5 and kw == 5 and stride == 1:
        _correlate_5_1(x, x_at, wd, a0, a1, left, dy, dy_at, wo, dw, dw_at, c, lanes)
    elif kh == 5 and kw == 5 and stride == 2:
        _correlate_5_2(x, x_at, wd, a0, a1, left, dy, dy_at, wo, dw, dw_at, c, lanes)
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
                        pixel = load(x, x_at + (a * wd + j * stride + b - left) * c + q, n)
                        total = fma(load(dy, dy_at + j * c + q, n), pixel, total)
                    store(dw, at, total, n)
