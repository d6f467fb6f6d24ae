"""Runs: neighbouring pixels of an image, or neighbouring taps of a kernel, as one value.

A run is a tuple of vectors that lie next to each other along the last axis but one: x[i, j, q:], x[i, j + 1, q:] and so
on, each one pixel's next channels. Arrays are C-contiguous here. At the border of an image ``inside`` says which pixels
of a run exist, and how many of their channels: the rest reads as zero, and is neither read from nor written to memory.
Where it is None all exist, and loads and stores are plain instructions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

from .registers import (
    INT64,
    ITEMSIZE,
    Choice,
    Vector,
    emit_fma,
    emit_mask,
    emit_masked_load,
    emit_masked_store,
    emit_maximum,
    emit_prefetch,
    emit_splat,
    emit_taken,
    emit_whole_load,
    emit_whole_store,
    lanes,
    vector_type,
)
from .vectors import load, splat


class Inside(NamedTuple):
    """Which pixels of a run exist: low <= v < high, counted from the run's first, and n channels of each."""

    low: Any
    high: Any
    n: Any


def _emit_flags(builder: ir.IRBuilder, dtype: types.Float, inside: Any, v: int) -> Any:
    """LLVM code: flags, on for the channels of pixel v that exist: on AVX-512 the bits of a mask register."""
    low, high, n = inside
    exists = builder.and_(builder.icmp_signed("<=", low, INT64(v)), builder.icmp_signed("<", INT64(v), high))
    count = builder.select(exists, n, INT64(0))
    bits = builder.sub(builder.shl(INT64(1), count), INT64(1))
    flags = ir.VectorType(ir.IntType(1), lanes(dtype))
    return builder.bitcast(builder.trunc(bits, ir.IntType(flags.count)), flags)


def _emit_existing(builder: ir.IRBuilder, dtype: types.Float, inside: Any, v: int, value: Any) -> Any:
    """LLVM code: the vector, 0 where pixel v or its channel does not exist."""
    return builder.select(_emit_flags(builder, dtype, inside, v), value, ir.Constant(vector_type(dtype), None))


class _Run:
    """LLVM code for the vectors of a run that begins at ``array[index]``."""

    def __init__(self, context, builder, array_type, array, index, inside_type=types.none, inside=None):
        self.builder, self.dtype = builder, array_type.dtype
        view = make_array(array_type)(context, builder, array)
        place = cgutils.unpack_tuple(builder, index)
        self.first = cgutils.get_item_pointer(context, builder, array_type, view, place)
        self.step = cgutils.unpack_tuple(builder, view.shape)[-1]
        self.inside: Any = () if isinstance(inside_type, types.NoneType) else cgutils.unpack_tuple(builder, inside)

    def pointer(self, v):
        return self.builder.gep(self.first, [self.builder.mul(self.step, INT64(v))])

    def flags(self, v):
        return _emit_flags(self.builder, self.dtype, self.inside, v)

    def load(self, v):
        if not self.inside:
            return emit_whole_load(self.builder, self.dtype, self.pointer(v))
        vector, align = vector_type(self.dtype), ITEMSIZE[self.dtype]
        return emit_masked_load(self.builder, vector, self.pointer(v), self.flags(v), align)

    def spread(self, v, first, step, split):
        """Channel ``first`` of pixel v in the lanes before split, channel first + step in the others."""
        builder, pointer = self.builder, self.pointer(v)
        if self.inside:  # in the place of a pixel that does not exist one is read that does
            low, high, _ = self.inside
            one = builder.select(builder.icmp_signed(">", low, INT64(0)), low, INT64(0))
            exists = builder.and_(builder.icmp_signed("<=", low, INT64(v)), builder.icmp_signed("<", INT64(v), high))
            pointer = builder.select(exists, pointer, builder.gep(self.first, [builder.mul(self.step, one)]))
        here, there = (builder.gep(pointer, [at]) for at in (first, builder.add(first, step)))
        mine, others = (emit_splat(builder, self.dtype, builder.load(place)) for place in (here, there))
        value = builder.select(emit_mask(builder, self.dtype, split), mine, others)
        return _emit_existing(builder, self.dtype, self.inside, v, value) if self.inside else value

    def arrived(self, v, how_type, how):
        """f of pixel v, whatever ``how`` says of f."""
        if _is_neighbours(how_type):
            return self.spread(v, *how)
        pixel = _emit_arrival(self.builder, self.load(v), how_type, how)
        changed = len(how) > 1 and self.inside  # a pixel that does not exist has become another than 0
        return _emit_existing(self.builder, self.dtype, self.inside, v, pixel) if changed else pixel

    def store(self, v, value):
        if not self.inside:
            emit_whole_store(self.builder, self.dtype, self.pointer(v), value)
        else:
            emit_masked_store(self.builder, self.pointer(v), value, self.flags(v), ITEMSIZE[self.dtype])


def _indices(array):
    return types.UniTuple(types.intp, array.ndim)


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


class Normalised(NamedTuple):
    """Normalise and rectify what is loaded: f(x) = max((x + minus_mean) * scale + shift, floor), channel by channel.

    A batchnorm and a ReLU in front of a convolution need no pass of their own then, and what they would have written
    is never written.
    """

    minus_mean: Any  # (c,), like scale and shift
    scale: Any
    shift: Any
    floor: Any  # 0, or minus infinity without a ReLU


def vectors_of(incoming, like, q, n):
    """What f needs for the channels from q on, of which n count, as vectors: for ``arrived`` and ``fma_rows``.

    incoming says what f is: None for f(x) = x, a number for max(x, number), or ``Normalised``.
    """
    raise NotImplementedError("only kernels call it")


@overload(vectors_of, jit_options={"forceinline": True})
def _vectors_of(incoming, like, q, n):
    if isinstance(incoming, types.NoneType):
        return lambda incoming, like, q, n: None
    if isinstance(incoming, types.BaseTuple):
        return lambda incoming, like, q, n: (
            load(incoming.minus_mean, q, n),
            load(incoming.scale, q, n),
            load(incoming.shift, q, n),
            splat(like, incoming.floor),
        )
    return lambda incoming, like, q, n: (splat(like, incoming),)


class Neighbours(NamedTuple):
    """f for two segments of channels that share a vector: lanes before split take channel ``first`` of a pixel, counted
    from the one that a run's index names, and the others channel first + step. See ``member``.
    """

    first: Any
    step: Any
    split: Any


def _is_neighbours(how_type: Any) -> bool:
    return getattr(how_type, "instance_class", None) is Neighbours


def _emit_arrival(builder: ir.IRBuilder, pixel: Any, how_type: Any, how: list[Any]) -> Any:
    """LLVM code: f(pixel), with the vectors of ``vectors_of``; lanes that change places, with a choice of them."""
    if not how:
        return pixel
    if isinstance(how_type, Choice):
        return emit_taken(builder, how_type.dtype, pixel, how[0])
    if len(how) > 1:
        minus_mean, scale, shift = how[:3]
        pixel = emit_fma(builder, builder.fadd(pixel, minus_mean), scale, shift)
    return emit_maximum(builder, pixel, how[-1])


def _unpacked(builder: ir.IRBuilder, how_type: Any, how: Any) -> list[Any]:
    if isinstance(how_type, types.NoneType):
        return []
    return [how] if isinstance(how_type, Choice) else cgutils.unpack_tuple(builder, how)


@intrinsic
def arrived(typing_context, run, how, inside):
    """f of each vector of a run; of pixels and channels that are not ``inside`` it stays 0. See ``vectors_of``.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def standardise(x, mean, y):
    ...     n = Inside(0, 2, 1)
    ...     how = vectors_of(Normalised(-mean, np.array([0.5]), np.array([1.0]), 0.0), x, 0, 1)
    ...     store_run(y, (0, 0), arrived(load_run(x, (0, 0), 2, n), how, n), n)
    >>> standardise(np.array([[5.0], [9.0]]), np.array([8.0]), y := np.zeros((2, 1)))
    >>> y.ravel()
    array([0. , 1.5])
    """

    def codegen(context, builder, signature, args):
        vectors = _unpacked(builder, how, args[1])
        values = [_emit_arrival(builder, pixel, how, vectors) for pixel in cgutils.unpack_tuple(builder, args[0])]
        if len(vectors) > 1 and not isinstance(inside, types.NoneType):
            limits = cgutils.unpack_tuple(builder, args[2])
            values = [_emit_existing(builder, run.dtype.dtype, limits, v, value) for v, value in enumerate(values)]
        return context.make_tuple(builder, run, values)

    return run(run, how, inside), codegen


@intrinsic(prefer_literal=True)
def load_arrived(typing_context, array, index, count, how, inside):
    """f of the vectors that ``load_run`` loads; how as for ``fma_rows``.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def first_of_each(x, y):
    ...     store_run(y, (0, 0), load_arrived(x, (0, 0), 2, Neighbours(0, 2, 1), None), Inside(0, 2, 2))
    >>> first_of_each(np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]), y := np.zeros((2, 2)))
    >>> y
    array([[1., 3.],
           [5., 7.]])
    """
    run = types.UniTuple(Vector(array.dtype), count.literal_value)

    def codegen(context, builder, signature, args):
        pixels = _Run(context, builder, array, args[0], args[1], inside, args[4])
        vectors = _unpacked(builder, how, args[3])
        return context.make_tuple(builder, run, [pixels.arrived(v, how, vectors) for v in range(run.count)])

    return run(array, _indices(array), count, how, inside), codegen


@intrinsic(prefer_literal=True)
def fma_rows(typing_context, sums, x, index, taps, spacing, how, inside):
    """sums[r][j] + sum over b of f(x[.., first + j * s + b * t, ..]) * taps[r][b], for each row r of sums.

    first is where index points to along the last axis but one, and spacing is the literal pair (s, t): neighbouring
    sums are s pixels of x apart, and neighbouring taps t. how: the vectors of f, by ``vectors_of``, or a choice of
    lanes or ``Neighbours``, by ``member``. Each pixel is loaded once, just before it is used, and multiplied into every
    sum that it touches.

    >>> import numpy as np
    >>> from numba import njit
    >>> from minixception.cpu.simd import zeros
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
        vectors = _unpacked(builder, how, args[5])
        rows = [cgutils.unpack_tuple(builder, row) for row in cgutils.unpack_tuple(builder, args[0])]
        weights = [cgutils.unpack_tuple(builder, row) for row in cgutils.unpack_tuple(builder, args[3])]
        for v in sorted({v for v, _, _ in meet}):
            pixel = pixels.arrived(v, how, vectors)
            for _, j, b in (pair for pair in meet if pair[0] == v):
                for row, tap in zip(rows, weights, strict=True):
                    row[j] = emit_fma(builder, pixel, tap[b], row[j])
        return context.make_tuple(builder, sums, [context.make_tuple(builder, sums.dtype, row) for row in rows])

    return sums(sums, x, _indices(x), taps, spacing, how, inside), codegen


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
def total(typing_context, run):
    """The sum of a run's vectors, a vector: pixel by pixel, from the first on.

    >>> import numpy as np
    >>> from numba import njit
    >>> from minixception.cpu.simd import store
    >>> @njit
    ... def add_up(x, y):
    ...     store(y, 0, total(load_run(x, (0, 0), 3, Inside(0, 3, 2))), 2)
    >>> add_up(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), y := np.zeros(2))
    >>> y
    array([ 9., 12.])
    """

    def codegen(context, builder, signature, args):
        result, *rest = cgutils.unpack_tuple(builder, args[0])
        for vector in rest:
            result = builder.fadd(result, vector)
        return result

    return run.dtype(run), codegen
