"""Runs of vectors: neighbouring pixels of an image, or neighbouring taps of a kernel, as one value.

A vector is one pixel's next 16 channels (float32, AVX-512). A run is a tuple of vectors that lie next to each other
along the last axis but one: x[i, j, q:], x[i, j + 1, q:] and so on. In a kernel it is a value like any other, and as
long as there are registers enough it never is in memory. ``load_run``, ``fma_rows`` and ``store_run`` are most of what
a kernel needs.

Arrays are C-contiguous. An index has one integer for each axis, and nobody checks that it lies inside. At the border of
an image ``inside`` says which pixels of a run exist, and how many of their channels: the rest reads as zero, and is
neither read from nor written to memory. Where it is None all exist, and loads and stores are plain instructions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

from .simd import (
    Vector,
    emit_fma,
    emit_masked_load,
    emit_masked_store,
    emit_maximum,
    emit_prefetch,
    emit_splat,
    emit_whole_load,
    emit_whole_store,
    lanes,
)

_INDEX = ir.IntType(64)


class Inside(NamedTuple):
    """Which pixels of a run exist: low <= v < high, counted from the run's first, and n channels of each."""

    low: Any
    high: Any
    n: Any


@overload(lanes)
def _lanes(dtype):  # in a kernel: a constant
    count = lanes(dtype.dtype)
    return lambda dtype: count


class _Run:
    """LLVM code for the vectors of a run that begins at ``array[index]``."""

    def __init__(self, context, builder, array_type, array, index, inside_type=types.none, inside=None):
        self.builder, self.dtype = builder, array_type.dtype
        view = make_array(array_type)(context, builder, array)
        place = cgutils.unpack_tuple(builder, index)
        self.first = cgutils.get_item_pointer(context, builder, array_type, view, place)
        self.step = cgutils.unpack_tuple(builder, view.shape)[-1]
        self.inside: Any = None if isinstance(inside_type, types.NoneType) else cgutils.unpack_tuple(builder, inside)

    def pointer(self, v):
        return self.builder.gep(self.first, [self.builder.mul(self.step, _INDEX(v))])

    def flags(self, v):
        """A vector of flags, on for the channels of pixel v that exist: on AVX-512 the bits of a mask register."""
        builder, (low, high, n) = self.builder, self.inside
        exists = builder.and_(builder.icmp_signed("<=", low, _INDEX(v)), builder.icmp_signed("<", _INDEX(v), high))
        count = builder.select(exists, n, _INDEX(0))
        bits = builder.sub(builder.shl(_INDEX(1), count), _INDEX(1))
        flags = ir.VectorType(ir.IntType(1), lanes(self.dtype))
        return builder.bitcast(builder.trunc(bits, ir.IntType(flags.count)), flags)

    def load(self, v):
        if self.inside is None:
            return emit_whole_load(self.builder, self.dtype, self.pointer(v))
        return emit_masked_load(self.builder, self.dtype, self.pointer(v), self.flags(v))

    def store(self, v, value):
        if self.inside is None:
            emit_whole_store(self.builder, self.dtype, self.pointer(v), value)
        else:
            emit_masked_store(self.builder, self.dtype, self.pointer(v), value, self.flags(v))


def _indices(array):
    return types.UniTuple(types.intp, array.ndim)


@intrinsic(prefer_literal=True)
def zeros(typing_context, like, rows, vectors):
    """rows x vectors registers, all zero, for sums of the array's dtype; rows and vectors are literals.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def clear(y):
    ...     store_run(y, (0, 0), zeros(y, 1, 2)[0], Inside(0, 2, 1))
    >>> clear(y := np.ones((2, 1)))
    >>> y.ravel()
    array([0., 0.])
    """
    run = types.UniTuple(Vector(like.dtype), vectors.literal_value)
    tile = types.UniTuple(run, rows.literal_value)

    def codegen(context, builder, signature, args):
        zero = ir.Constant(context.get_value_type(run.dtype), [0.0] * lanes(like.dtype))
        return context.make_tuple(builder, tile, [context.make_tuple(builder, run, [zero] * run.count)] * tile.count)

    return tile(like, rows, vectors), codegen


@intrinsic(prefer_literal=True)
def load_run(typing_context, array, index, count, inside):
    """count vectors, from ``array[index]`` and its neighbours along the last axis but one; count is a literal.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def copy(x, y):
    ...     run = load_run(x, (-1, 0), 3, Inside(1, 3, 2))  # pixels -1, 0 and 1, of which the first is outside
    ...     store_run(y, (0, 0), run, Inside(0, 3, 2))
    >>> copy(np.array([[1.0, 2.0], [3.0, 4.0]]), y := np.ones((3, 2)))
    >>> y
    array([[0., 0.],
           [1., 2.],
           [3., 4.]])
    """
    run = types.UniTuple(Vector(array.dtype), count.literal_value)

    def codegen(context, builder, signature, args):
        vectors = _Run(context, builder, array, args[0], args[1], inside, args[3])
        return context.make_tuple(builder, run, [vectors.load(v) for v in range(run.count)])

    return run(array, _indices(array), count, inside), codegen


@intrinsic
def store_run(typing_context, array, index, run, inside):
    """Write the vectors of a run to ``array[index]`` and its neighbours; see ``load_run``."""

    def codegen(context, builder, signature, args):
        vectors = _Run(context, builder, array, args[0], args[1], inside, args[3])
        for v, value in enumerate(cgutils.unpack_tuple(builder, args[2])):
            vectors.store(v, value)
        return context.get_dummy_value()

    return types.void(array, _indices(array), run, inside), codegen


@intrinsic(prefer_literal=True)
def prefetch_run(typing_context, array, index, count, write):
    """Ask for count pixels from ``array[index]`` on, a cache line of each, to read or to write them soon.

    count and write are literals. Any index will do, even one outside of the array.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def ask(x, i):
    ...     prefetch_run(x, (i, 0), 4, False)
    >>> ask(np.zeros((2, 3)), 1000)
    """
    pixels, to_write = count.literal_value, bool(write.literal_value)

    def codegen(context, builder, signature, args):
        lines = _Run(context, builder, array, args[0], args[1])
        for v in range(pixels):
            emit_prefetch(builder, lines.pointer(v), to_write)
        return context.get_dummy_value()

    return types.void(array, _indices(array), count, write), codegen


@intrinsic(prefer_literal=True)
def fma_rows(typing_context, sums, x, index, taps, spacing, floor, inside):
    """sums[r][j] + sum over b of f(x[.., first + j * s + b * t, ..]) * taps[r][b], for each row r of sums.

    first is where index points to along the last axis but one, and spacing is the literal pair (s, t): neighbouring
    sums are s pixels of x apart, and neighbouring taps t. f(x) = max(x, floor), or x where floor is None. Each pixel is
    loaded once, just before it is used, and multiplied into every sum that it touches.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def differences(x, taps, y):
    ...     n = Inside(0, 8, 1)
    ...     sums = fma_rows(zeros(y, 1, 3), x, (0, 0), (load_run(taps, (0, 0), 2, n),), (1, 1), None, n)
    ...     store_run(y, (0, 0), sums[0], n)
    >>> differences(np.array([[1.0], [4.0], [9.0], [16.0]]), np.array([[-1.0], [1.0]]), y := np.zeros((3, 1)))
    >>> y.ravel()
    array([3., 5., 7.])
    """
    outputs, size = sums.dtype.count, taps.dtype.count
    s, t = (literal.literal_value for literal in spacing)
    meet = [(j * s + b * t, j, b) for j in range(outputs) for b in range(size)]  # pixel, sum, tap

    def codegen(context, builder, signature, args):
        pixels = _Run(context, builder, x, args[1], args[2], inside, args[6])
        rows = [cgutils.unpack_tuple(builder, row) for row in cgutils.unpack_tuple(builder, args[0])]
        weights = [cgutils.unpack_tuple(builder, row) for row in cgutils.unpack_tuple(builder, args[3])]
        for v in sorted({v for v, _, _ in meet}):
            pixel = pixels.load(v)
            if not isinstance(floor, types.NoneType):
                pixel = emit_maximum(builder, pixel, emit_splat(builder, x.dtype, args[5]))
            for _, j, b in (pair for pair in meet if pair[0] == v):
                for row, tap in zip(rows, weights, strict=True):
                    row[j] = emit_fma(builder, pixel, tap[b], row[j])
        return context.make_tuple(builder, sums, [context.make_tuple(builder, sums.dtype, row) for row in rows])

    return sums(sums, x, _indices(x), taps, spacing, floor, inside), codegen


@intrinsic
def where_positive(typing_context, gates, run):
    """The vectors of run, zero in the lanes in which those of gates are not positive: the gradient of a ReLU.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def gradient(x, dy):
    ...     n = Inside(0, 3, 1)
    ...     store_run(dy, (0, 0), where_positive(load_run(x, (0, 0), 3, n), load_run(dy, (0, 0), 3, n)), n)
    >>> gradient(np.array([[1.0], [0.0], [-1.0]]), dy := np.full((3, 1), 5.0))
    >>> dy.ravel()
    array([5., 0., 0.])
    """

    def codegen(context, builder, signature, args):
        zero = ir.Constant(context.get_value_type(run.dtype), [0.0] * lanes(run.dtype.dtype))
        pairs = zip(*(cgutils.unpack_tuple(builder, values) for values in args), strict=True)
        kept = [builder.select(builder.fcmp_ordered(">", gate, zero), value, zero) for gate, value in pairs]
        return context.make_tuple(builder, run, kept)

    return run(gates, run), codegen


@intrinsic
def borrowed(typing_context, array):
    """The same array, of which nobody counts the references.

    Numba counts who uses an array by calls of functions, which spill all vectors, and it cannot always prove that it
    may leave them out. A kernel owns none of its arrays: it borrows them.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def total(x):
    ...     return borrowed(x).sum()
    >>> total(np.ones(3))
    3.0
    """

    def codegen(context, builder, signature, args):
        view = make_array(array)(context, builder, args[0])
        view.meminfo = ir.Constant(view.meminfo.type, None)
        return view._getvalue()

    return array(array), codegen


@intrinsic
def opaque(typing_context, index):
    """The same integer, of which the compiler does not know where it comes from.

    Of a loop's variable it knows too much: it keeps an address for every single load of the loop's body, adds to all of
    them in each step, and holds them on the stack. It is faster to compute them from one.

    >>> from numba import njit
    >>> @njit
    ... def same(i):
    ...     return opaque(i)
    >>> same(7)
    7
    """

    def codegen(context, builder, signature, args):
        return builder.asm(ir.FunctionType(_INDEX, [_INDEX]), "", "=r,0", args, side_effect=False)

    return types.intp(types.intp), codegen
