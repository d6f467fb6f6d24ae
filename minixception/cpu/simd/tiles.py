"""Tiles: rows of vectors, a block of a matrix, as one value.

Its vectors stay in registers as long as there are enough of them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .registers import (
    INT32,
    INT64,
    Vector,
    address,
    emit_barrier_to_unrolling,
    emit_fma,
    emit_load,
    emit_splat,
    emit_store,
    emit_whole_load,
    index_type,
    lanes,
    vector_type,
)


class _Tile:
    """The vectors of a tile that lies at ``array[index]``: rows along the first axis, columns along the last."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array_type: types.Array, array: Any, index: Any) -> None:
        self.builder, self.width = builder, lanes(array_type.dtype)
        self.view, self.index = make_array(array_type)(context, builder, array), index
        self.first = address(context, builder, array_type, array, index)

    def pointer(self, i: int, j: int) -> Any:
        """Where vector j of row i begins."""
        row_bytes = self.builder.extract_value(self.view.strides, 0)
        row = cgutils.pointer_add(self.builder, self.first, self.builder.mul(row_bytes, INT64(i))) if i else self.first
        return self.builder.gep(row, [INT64(j * self.width)]) if j else row

    def lanes(self, vectors: int) -> list[Any]:
        """How many lanes of each vector count: all, and of the last one those before the end of the array's row."""
        last = len(self.index.type) - 1
        size, column = (self.builder.extract_value(value, last) for value in (self.view.shape, self.index))
        rest = self.builder.sub(self.builder.sub(size, column), INT64((vectors - 1) * self.width))
        narrow = self.builder.icmp_signed("<", rest, INT64(self.width))
        return [None] * (vectors - 1) + [self.builder.select(narrow, rest, INT64(self.width))]


def _tile_type(dtype: types.Float, rows: int, vectors: int) -> types.UniTuple:
    return types.UniTuple(types.UniTuple(Vector(dtype), vectors), rows)


def _make_tile(context: Any, builder: ir.IRBuilder, tile: types.UniTuple, rows: Any) -> Any:
    return context.make_tuple(builder, tile, [context.make_tuple(builder, tile.dtype, row) for row in rows])


@intrinsic(prefer_literal=True)
def zeros(typing_context, like, rows, vectors):
    """A tile of rows x vectors registers, all zero, for sums of the array's dtype; rows and vectors are literals.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def clear(y):
    ...     store_tile(y, (0, 0), zeros(y, 2, 1))
    >>> clear(y := np.ones((3, 2)))
    >>> y
    array([[0., 0.],
           [0., 0.],
           [1., 1.]])
    """
    tile = _tile_type(like.dtype, rows.literal_value, vectors.literal_value)

    def codegen(context, builder, signature, args):
        zero = ir.Constant(vector_type(like.dtype), [0.0] * lanes(like.dtype))
        return _make_tile(context, builder, tile, [[zero] * tile.dtype.count] * tile.count)

    return tile(like, rows, vectors), codegen


@intrinsic(prefer_literal=True)
def load_tile(typing_context, array, index, rows, vectors):
    """``array[index]`` and what lies below and to the right as a tile of rows x vectors registers, both literals.

    Rows run along the array's first axis, columns along its last, in which elements are neighbours. The last vector
    begins inside of the array's row and may reach past its end: what lies there is zero.

    >>> import numpy as np
    >>> from numba import njit
    >>> from minixception.cpu.simd import add
    >>> @njit
    ... def add_up(x, y):
    ...     store_tile(y, (0, 0), add(load_tile(x, (0, 0), 1, 1), load_tile(x, (1, 0), 1, 1)))
    >>> add_up(np.array([[1.0, 2.0], [3.0, 4.0]]), y := np.zeros((1, 2)))
    >>> y
    array([[4., 6.]])
    """
    tile = _tile_type(array.dtype, rows.literal_value, vectors.literal_value)

    def codegen(context, builder, signature, args):
        source = _Tile(context, builder, signature.args[0], *args[:2])
        counts = list(enumerate(source.lanes(tile.dtype.count)))
        rows = [
            [emit_load(builder, array.dtype, source.pointer(i, j), n) for j, n in counts] for i in range(tile.count)
        ]
        return _make_tile(context, builder, tile, rows)

    return tile(array, index_type(index), rows, vectors), codegen


@intrinsic
def load_transposed(typing_context, array, index):
    """The square block that begins at ``array[index]``, ``lanes`` rows and columns, with its columns as a tile's rows.

    All of the block must exist. Blocks of 1 element, then of 2, 4 and so on, change places with their mirror images,
    each stage one instruction for each vector: log2(lanes) for every vector, and each cache line is read whole.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def transpose(x, y):
    ...     store_tile(y, (0, 0), load_transposed(x, (0, 0)))
    >>> size = lanes(np.float64)
    >>> x = np.arange(size * size * 1.0).reshape(size, size)
    >>> transpose(x, y := np.zeros((size, size)))
    >>> bool((y == x.T).all())
    True
    """
    size = lanes(array.dtype)
    tile = _tile_type(array.dtype, size, 1)

    def codegen(context, builder, signature, args):
        source = _Tile(context, builder, signature.args[0], *args)
        rows = [emit_whole_load(builder, array.dtype, source.pointer(i, 0)) for i in range(size)]
        step = 1
        while step < size:
            upper = [k if k & step == 0 else size + k - step for k in range(size)]
            lower = [k + step if k & step == 0 else size + k for k in range(size)]
            for i in (i for i in range(size) if i & step == 0):
                a, b = rows[i], rows[i + step]
                for j, lanes_of_both in ((i, upper), (i + step, lower)):
                    choice = ir.Constant(ir.VectorType(INT32, size), lanes_of_both)
                    rows[j] = builder.shuffle_vector(a, b, choice)
            step *= 2
        return _make_tile(context, builder, tile, [[row] for row in rows])

    return tile(array, index_type(index)), codegen


@intrinsic
def store_tile(typing_context, array, index, tile):
    """Write the tile to where ``load_tile`` would read it; what reaches past the end of the array's row is left out."""

    def codegen(context, builder, signature, args):
        target = _Tile(context, builder, signature.args[0], *args[:2])
        counts = target.lanes(tile.dtype.count)
        for i, row in enumerate(cgutils.unpack_tuple(builder, args[2])):
            for j, vector in enumerate(cgutils.unpack_tuple(builder, row)):
                emit_store(builder, array.dtype, target.pointer(i, j), vector, counts[j])
        return context.get_dummy_value()

    return types.void(array, index_type(index), tile), codegen


@intrinsic
def rank_one(typing_context, sums, a, a_index, b, b_index):
    """sums plus the product of a column of a and a row of b: one step of a matrix product, a matrix of rank one.

    The column begins at ``a[a_index]`` and runs down the first axis, as long as the tile has rows; the row begins at
    ``b[b_index]`` and runs along the last axis, as long as the tile has columns, all of which must exist.

    Each vector of the row is loaded once. Each element of the column is loaded and spread over a vector (one
    instruction on x86) just before its row of sums is multiplied: that vector is free again for the next element, so
    that rows x vectors sums take only vectors + 1 registers more.

    >>> import numpy as np
    >>> from numba import njit
    >>> @njit
    ... def product(a, b, c):
    ...     sums = zeros(c, 2, 1)
    ...     for p in range(len(b)):
    ...         sums = rank_one(sums, a, (0, p), b, (p, 0))
    ...     store_tile(c, (0, 0), sums)
    >>> a, b = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.ones((3, 2 * lanes(np.float64)))
    >>> product(a, b, c := np.zeros((2, 2)))
    >>> c
    array([[ 6.,  6.],
           [15., 15.]])
    """
    dtype = a.dtype

    def codegen(context, builder, signature, args):
        sums_, a_, a_index_, b_, b_index_ = args
        column = _Tile(context, builder, signature.args[1], a_, a_index_)
        row = _Tile(context, builder, signature.args[3], b_, b_index_)
        emit_barrier_to_unrolling(builder)
        vectors = [emit_whole_load(builder, dtype, row.pointer(0, j)) for j in range(sums.dtype.count)]
        rows = []
        for i, totals in enumerate(cgutils.unpack_tuple(builder, sums_)):
            element = emit_splat(builder, dtype, builder.load(column.pointer(i, 0)))
            pairs = zip(vectors, cgutils.unpack_tuple(builder, totals), strict=True)
            rows.append([emit_fma(builder, element, vector, total) for vector, total in pairs])
        return _make_tile(context, builder, sums, rows)

    return sums(sums, a, index_type(a_index), b, index_type(b_index)), codegen
