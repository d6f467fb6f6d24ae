"""What the depthwise tiles share: pixels of a row as vectors, borders, and which output meets which pixel.

A vector is one pixel's next 16 channels (float32, AVX-512); channels never mix. A tile has two copies of its code. One
is for the inside of the image. In the other, loads and stores are masked: what lies outside, and lanes past the last
channel, reads as zero and is never touched. There are no branches in it, and on AVX-512 a masked load costs no
more than a plain one.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from .simd import emit_mask, emit_masked_load, emit_masked_store, emit_whole_load, emit_whole_store, lanes, vector_type


def number(value):
    """An integer as a constant of LLVM code."""
    return ir.Constant(ir.IntType(64), value)


class Columns:
    """Loads and stores the pixels v = 0, 1, ... of a row; with masks only those in [low, high), and n lanes of them."""

    def __init__(self, builder, dtype, columns, n, low, high, masked):
        self.builder, self.dtype = builder, dtype
        self.masks = [self._mask(v, n, low, high) for v in range(columns)] if masked else None

    def _mask(self, v, n, low, high):
        above, below = (self.builder.icmp_signed(sign, number(v), end) for sign, end in ((">=", low), ("<", high)))
        valid = self.builder.select(self.builder.and_(above, below), n, number(0))
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


def if_whole(builder, n, width, ranges, emit):
    """emit(masked=False) where all lanes count and all columns 0 .. m-1 of each (low, high, m) lie in [low, high)."""
    whole = builder.icmp_signed("==", n, number(width))
    for low, high, columns in ranges:
        whole = builder.and_(whole, builder.icmp_signed("<=", low, number(0)))
        whole = builder.and_(whole, builder.icmp_signed("<=", number(columns), high))
    with builder.if_else(whole, likely=True) as (then, otherwise):
        with then:
            emit(masked=False)
        with otherwise:
            emit(masked=True)


def if_between(builder, first, u, last):
    """A block of code for first <= u < last only."""
    inside = builder.and_(builder.icmp_signed("<=", first, number(u)), builder.icmp_signed("<", number(u), last))
    return builder.if_then(inside, likely=True)


def pixel_pointer(builder, origin, row, pitch, column, step):
    """Where column ``column`` of row ``row`` lies: rows are pitch, columns step numbers apart."""
    return builder.gep(origin, [builder.add(builder.mul(pitch, number(row)), builder.mul(step, number(column)))])


def zeros(builder, dtype, count):
    """Variables that LLVM keeps in registers, each a vector of zeros."""
    zero = ir.Constant(vector_type(dtype), [0.0] * lanes(dtype))
    variables = [cgutils.alloca_once_value(builder, zero) for _ in range(count)]
    for variable in variables:
        builder.store(zero, variable)
    return variables


def meetings(v, outputs, kernel, stride):
    """The (output j, tap b) for which input v, along either axis, lies under tap b of output j."""
    pairs = [(j, v - j * stride) for j in range(outputs)]
    return [(j, b) for j, b in pairs if 0 <= b < kernel]
