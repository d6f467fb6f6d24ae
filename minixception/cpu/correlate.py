"""Register tiles of the gradient of a depthwise kernel: every tap meets every output once.

    dw[a, b] = sum over i, j of x[i * stride + a, j * stride + b] * dy[i, j]          (channel by channel)

The sums of all kernel taps stay in registers along a whole row of dy; dy is taken four pixels at a time, and each pixel
of x that lies under them is loaded once and multiplied into all sums that it touches. The rows below are asked
for meanwhile, as in cpu/filter.py.
"""

from __future__ import annotations

from numba import types
from numba.core import cgutils
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
)


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
        sums = zeros(builder, dtype, kernel**2)
        taps = Columns(builder, dtype, kernel**2, n_, number(0), number(kernel**2), masked=True)
        for tap, total in enumerate(sums):
            builder.store(taps.load(pixel_pointer(builder, dw_origin, 0, step_, tap, step_), tap), total)
        dy_row = builder.mul(count_, step_)
        with cgutils.for_range_slice(builder, number(0), count_, number(across)) as (j0, _):
            column = builder.mul(j0, number(s))
            x_low, x_high, rest = builder.sub(low_, column), builder.sub(high_, column), builder.sub(count_, j0)
            x_here = builder.gep(x_origin, [builder.mul(column, step_)])
            dy_here = builder.gep(dy_origin, [builder.mul(j0, step_)])

            def emit(masked):
                for v in range(across * s):
                    for u in range(s):
                        emit_prefetch(builder, pixel_pointer(builder, x_here, kernel + u, x_row_, v, step_))
                for j in range(across):  # the next row of dy begins where this one ends
                    emit_prefetch(builder, pixel_pointer(builder, dy_here, 1, dy_row, j, step_))
                pixels = Columns(builder, dtype, x_columns, n_, x_low, x_high, masked)
                arriving = Columns(builder, dtype, across, n_, number(0), rest, masked)
                gradients = [
                    arriving.load(pixel_pointer(builder, dy_here, 0, step_, j, step_), j) for j in range(across)
                ]
                for a in range(kernel):
                    with if_between(builder, first_, a, last_):
                        for v in range(x_columns):
                            loaded = pixels.load(pixel_pointer(builder, x_here, a, x_row_, v, step_), v)
                            pixel = emit_maximum(builder, loaded, floors)
                            for j, b in meetings(v, across, kernel, s):
                                total = sums[a * kernel + b]
                                builder.store(emit_fma(builder, pixel, gradients[j], builder.load(total)), total)

            if_whole(builder, n_, width, [(x_low, x_high, x_columns), (number(0), rest, across)], emit)
        for tap, total in enumerate(sums):
            taps.store(pixel_pointer(builder, dw_origin, 0, step_, tap, step_), tap, builder.load(total))
        return context.get_dummy_value()

    i = types.intp
    return types.void(outputs, size, stride, x, i, i, i, i, i, i, x.dtype, dy, i, i, dw, i, i, i), codegen


_ARRIVING = 4  # pixels of dy at a time in the gradient of the weights: 9 sums, 4 pixels of dy and one of x


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
