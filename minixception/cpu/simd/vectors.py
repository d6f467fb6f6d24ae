"""Vectors: one register full of neighbouring elements from memory, to memory, and arithmetic lane by lane."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .registers import (
    Choice,
    Vector,
    address,
    choice_type,
    emit_beats,
    emit_fma,
    emit_load,
    emit_mask,
    emit_masked_store,
    emit_maximum,
    emit_prefetch,
    emit_splat,
    emit_store,
    emit_taken,
    index_type,
    lanes,
)


@intrinsic
def load(typing_context, array, index, n):
    """n neighbouring elements from ``array[index]`` on as a vector; the lanes past n are zero.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def copy(x, y, n):
    ...     store(y, 0, load(x, 0, n), n)
    >>> copy(np.array([1.0, 2.0, 3.0]), y := np.zeros(3), 2)
    >>> y
    array([1., 2., 0.])
    """

    def codegen(context, builder, signature, args):
        return emit_load(builder, array.dtype, address(context, builder, signature.args[0], *args[:2]), args[2])

    return Vector(array.dtype)(array, index_type(index), types.intp), codegen


@intrinsic
def store(typing_context, array, index, value, n):
    """Write the first n lanes of the vector to ``array[index]`` and its neighbours; see ``load``."""

    def codegen(context, builder, signature, args):
        emit_store(builder, array.dtype, address(context, builder, signature.args[0], *args[:2]), *args[2:])
        return context.get_dummy_value()

    return types.void(array, index_type(index), value, types.intp), codegen


@intrinsic
def splat(typing_context, like, scalar):
    """The scalar in every lane of a vector of the array's dtype.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def fill(y):
    ...     store(y, 0, splat(y, 7), 2)
    >>> fill(y := np.zeros(3))
    >>> y
    array([7., 7., 0.])
    """

    def codegen(context, builder, signature, args):
        return emit_splat(builder, like.dtype, args[1])

    return Vector(like.dtype)(like, like.dtype), codegen


@intrinsic
def store_numbers(typing_context, array, index, value, n):
    """Write the first n lanes of the vector, small whole numbers, as unsigned integers of the array's dtype.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def fill(x, like):
    ...     store_numbers(x, 0, splat(like, 200), 2)
    >>> fill(x := np.zeros(3, np.uint8), np.zeros(1))
    >>> x
    array([200, 200,   0], dtype=uint8)
    """

    def codegen(context, builder, signature, args):
        pointer = address(context, builder, signature.args[0], *args[:2])
        integers = ir.VectorType(context.get_value_type(array.dtype), lanes(value.dtype))
        mask = emit_mask(builder, value.dtype, args[3])
        emit_masked_store(builder, pointer, builder.fptoui(args[2], integers), mask, array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index_type(index), value, types.intp), codegen


@intrinsic
def segments(typing_context, like, inputs, outputs):
    """A choice for grouped convolution, with ``inputs`` channels of x and ``outputs`` of y in each segment.

    Lane o of y belongs to segment o // outputs, whose first channel is lane o // outputs * inputs of x; see ``member``.
    """

    def codegen(context, builder, signature, args):
        numbers = choice_type(like.dtype)
        inputs_, outputs_ = (_everywhere(builder, like.dtype, width) for width in args[1:])
        own = ir.Constant(numbers, list(range(numbers.count)))
        return builder.mul(builder.udiv(own, outputs_), inputs_)

    return Choice(like.dtype)(like, types.intp, types.intp), codegen


def _everywhere(builder: ir.IRBuilder, dtype: types.Float, number: Any) -> Any:
    """LLVM code: the integer in every lane of a choice."""
    narrow = choice_type(dtype).element
    return emit_splat(builder, dtype, number if number.type == narrow else builder.trunc(number, narrow))


@intrinsic
def member(typing_context, choice, c):
    """The choice of lanes, or ``Neighbours``, c further on: channel c of each segment. See ``segments``, ``taken``."""

    def shifted(context, builder, signature, args):
        first, *rest = cgutils.unpack_tuple(builder, args[0])
        return context.make_tuple(builder, choice, [builder.add(first, args[1]), *rest])

    def codegen(context, builder, signature, args):
        numbers = choice_type(choice.dtype)
        further = builder.add(args[0], _everywhere(builder, choice.dtype, args[1]))
        return builder.and_(further, ir.Constant(numbers, [numbers.count - 1] * numbers.count))  # any, for spare lanes

    return choice(choice, types.intp), codegen if isinstance(choice, Choice) else shifted


@intrinsic
def taken(typing_context, vector, choice):
    """Each lane of the result is the lane of the vector that the choice names.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def second_of_each_pair(x, y):
    ...     store(y, 0, taken(load(x, 0, 2), member(segments(y, 2, 2), 1)), 2)
    >>> second_of_each_pair(np.array([3.0, 4.0]), y := np.zeros(2))
    >>> y
    array([4., 4.])
    """

    def codegen(context, builder, signature, args):
        return emit_taken(builder, choice.dtype, *args)

    return vector(vector, choice), codegen


def _prefetch(array: types.Array, index: Any, write: bool) -> Any:
    def codegen(context, builder, signature, args):
        emit_prefetch(builder, address(context, builder, signature.args[0], *args), write)
        return context.get_dummy_value()

    return types.void(array, index_type(index)), codegen


@intrinsic
def prefetch(typing_context, array, index):
    """Ask for the cache line of ``array[index]``, to read it soon. Any index will do, even one outside of the array.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def total(x, ahead):
    ...     s = 0.0
    ...     for i in range(x.size):
    ...         prefetch(x, i + ahead)
    ...         s += x[i]
    ...     return s
    >>> total(np.ones(1000), 64)
    1000.0
    """
    return _prefetch(array, index, write=False)


@intrinsic
def prefetch_write(typing_context, array, index):
    """Ask for the cache line of ``array[index]``, to write it soon; see ``prefetch``."""
    return _prefetch(array, index, write=True)


# Arithmetic, of vectors and of tiles (tiles.py)


def _depth(operand: Any) -> int:
    return 0 if isinstance(operand, Vector) else 1 + _depth(operand.dtype)


def _broadcast(context: Any, builder: ir.IRBuilder, emit: Any, operands: Any, values: Any) -> Any:
    """LLVM code: emit for each vector; an operand of fewer axes than another meets all that the other has there."""
    result = max(operands, key=_depth)
    if isinstance(result, Vector):
        return emit(builder, *values)
    deep = [_depth(operand) == _depth(result) for operand in operands]
    inner = [operand.dtype if d else operand for operand, d in zip(operands, deep, strict=True)]
    elements = []
    for k in range(result.count):
        parts = [builder.extract_value(value, k) if d else value for value, d in zip(values, deep, strict=True)]
        elements.append(_broadcast(context, builder, emit, inner, parts))
    return context.make_tuple(builder, result, elements)


def _lanewise(emit: Any, *operands: Any) -> Any:
    def codegen(context, builder, signature, args):
        return _broadcast(context, builder, emit, operands, args)

    return max(operands, key=_depth)(*operands), codegen


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, lane by lane, rounded once, in one instruction where the CPU has it.

    Operands may be tiles, or rows of tiles. As in NumPy a vector meets every vector of a row, and a row every row.

    >>> import numpy as np
    >>> from numba import njit
    >>> from minixception.cpu.simd import load_tile, store_tile
    >>> @njit
    ... def double_plus_one(y):
    ...     two, one = splat(y, 2), splat(y, 1)
    ...     store_tile(y, (0, 0), fma(load_tile(y, (0, 0), 2, 1), two, one))
    >>> double_plus_one(y := np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> y
    array([[3., 5.],
           [7., 9.]])
    """
    return _lanewise(emit_fma, a, b, c)


@intrinsic
def add(typing_context, a, b):
    """a + b, lane by lane, of vectors or tiles; see ``fma``."""
    return _lanewise(lambda builder, x, y: builder.fadd(x, y), a, b)


@intrinsic
def multiply(typing_context, a, b):
    """a * b, lane by lane, of vectors or tiles; see ``fma``."""
    return _lanewise(lambda builder, x, y: builder.fmul(x, y), a, b)


@intrinsic
def maximum(typing_context, a, b):
    """The greater of a and b, lane by lane, of vectors or tiles; a where a is NaN. See ``fma``."""
    return _lanewise(emit_maximum, a, b)


@intrinsic
def greatest(typing_context, best, value):
    """The greater of best and value, lane by lane, of vectors or tiles; NaN where either is, the first of two.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def top(x, y):
    ...     store(y, 0, greatest(load(x, 0, 2), load(x, 2, 2)), 2)
    >>> top(np.array([1.0, np.nan, 3.0, 4.0]), y := np.zeros(2))
    >>> y
    array([ 3., nan])
    """

    return _lanewise(lambda builder, a, b: builder.select(emit_beats(builder, b, a), b, a), best, value)


@intrinsic
def holder(typing_context, best, value, defender, challenger):
    """Where ``greatest(best, value)`` takes value the lanes of challenger, elsewhere those of defender.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def where_greatest(x, y):
    ...     store(y, 0, holder(load(x, 0, 2), load(x, 2, 2), splat(y, 0), splat(y, 1)), 2)
    >>> where_greatest(np.array([1.0, np.nan, 3.0, 4.0]), y := np.zeros(2))
    >>> y
    array([1., 0.])
    """

    def emit(builder, a, b, before, after):
        return builder.select(emit_beats(builder, b, a), after, before)

    return _lanewise(emit, best, value, defender, challenger)
