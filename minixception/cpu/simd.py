"""The vocabulary of the fast kernels: vectors, tiles and runs as values, and what is done with them.

This is the only file of the CPU kernels that emits LLVM's intermediate representation, one small intrinsic after the
other. A kernel made of them is plain Numba: it can be read from top to bottom, and changed.

- A **vector** is one register full of neighbouring elements. A kernel that says ``acc = fma(load(x, i, n), load(w, j,
  n), acc)`` is vectorised because it is written so, not because the compiler found out. The width follows the CPU: a
  64-byte AVX-512 register holds 16 float32 (``lanes``), AVX2 8, NEON and plain SSE 4; float64 half of it. LLVM splits a
  vector that is wider than the machine's registers, so the same kernels run everywhere.
- A **tile** is rows of vectors, a block of a matrix: ``sums = rank_one(sums, a, i, b, j)`` is a matrix product's step.
- A **run** is vectors that lie one pixel apart, of an image or a kernel: ``sums = fma_rows(sums, x, ...)`` is a
  depthwise convolution's step.

Tiles and runs are tuples of vectors, immutable values that LLVM keeps in registers as long as there are enough.

The last vector of a row is often not full. ``n`` says how many lanes count: with ``n == lanes`` load and store are one
plain instruction, with fewer they are masked. Lanes past ``n`` read as zero and are never read from or written
to memory. Staying inside of an array is the caller's duty.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic, overload
from numba.np.arrayobj import make_array

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_ELEMENT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_ITEMSIZE = {types.float32: 4, types.float64: 8}


def _register_bytes() -> int:
    """Bytes in one vector register of the CPU that Numba compiles for."""
    if config.CPU_FEATURES is not None:
        features = set(config.CPU_FEATURES.split(","))
    elif config.CPU_NAME in (None, "host"):
        features = {"+" + name for name, present in llvm.get_host_cpu_features().items() if present}
    else:  # a CPU asked for by name: its x86-64 level
        avx512 = ("skylake-avx512", "icelake", "sapphirerapids", "znver4", "znver5", "cascadelake")
        avx2 = ("haswell", "broadwell", "skylake", "znver", "alderlake")
        features = {"+avx512f"} if config.CPU_NAME.startswith(avx512) else set()
        features |= {"+avx2"} if config.CPU_NAME.startswith(avx2) else set()
    return 64 if "+avx512f" in features else 32 if "+avx2" in features else 16


REGISTER_BYTES = _register_bytes()


def lanes(dtype: Any) -> int:
    """Elements of ``dtype`` (NumPy or Numba float) in one vector register.

    >>> import numpy as np
    >>> lanes(np.float32) == 2 * lanes(np.float64)
    True
    """
    itemsize = _ITEMSIZE.get(dtype)
    return REGISTER_BYTES // (itemsize if itemsize else _itemsize_of(dtype))


@overload(lanes)
def _lanes(dtype):  # in a kernel: a constant
    count = lanes(dtype.dtype)
    return lambda dtype: count


def _itemsize_of(dtype: Any) -> int:
    import numpy as np

    return np.dtype(dtype).itemsize


class Vector(types.Type):
    """The Numba type of one vector register of float32 or float64."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"vector({dtype}, {lanes(dtype)})")


@register_default(Vector)
class _VectorModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, vector_type(fe_type.dtype))


def vector_type(dtype: types.Float) -> ir.VectorType:
    """The LLVM type of one register."""
    return ir.VectorType(_ELEMENT[dtype], lanes(dtype))


def _emit_splat(builder: ir.IRBuilder, dtype: types.Float, scalar: Any) -> Any:
    """LLVM code: the scalar in every lane."""
    undefined = ir.Constant(vector_type(dtype), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    zeros = ir.Constant(ir.VectorType(_INT32, lanes(dtype)), [0] * lanes(dtype))
    return builder.shuffle_vector(first, undefined, zeros)


def _intrinsic_function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[Any]) -> Any:
    vectors = (t for t in (result, *arguments) if isinstance(t, ir.VectorType) and t.element != ir.IntType(1))
    vector = next(vectors, None)
    suffix = "" if vector is None else f"v{vector.count}{_name_of(vector.element)}"
    suffix += ".p0" if any(isinstance(t, ir.PointerType) for t in arguments) else ""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), f"{name}.{suffix}")


def _name_of(element: ir.Type) -> str:
    """As LLVM writes it: f32, f64, i8."""
    return f"i{element.width}" if isinstance(element, ir.IntType) else "f32" if element == ir.FloatType() else "f64"


def _emit_mask(builder: ir.IRBuilder, dtype: types.Float, n: Any) -> Any:
    """LLVM code: a vector of flags, of which the first n are on."""
    count = lanes(dtype)
    integers = ir.VectorType(n.type, count)
    undefined, zeros = ir.Constant(integers, ir.Undefined), ir.Constant(ir.VectorType(_INT32, count), [0] * count)
    first = builder.insert_element(undefined, n, ir.Constant(_INT32, 0))
    everywhere = builder.shuffle_vector(first, undefined, zeros)
    return builder.icmp_signed("<", ir.Constant(integers, list(range(count))), everywhere)


def _emit_whole_load(builder: ir.IRBuilder, dtype: types.Float, pointer: Any) -> Any:
    """LLVM code: a full vector from memory."""
    return builder.load(builder.bitcast(pointer, vector_type(dtype).as_pointer()), align=_ITEMSIZE[dtype])


def _emit_whole_store(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, value: Any) -> None:
    """LLVM code: a full vector to memory."""
    builder.store(value, builder.bitcast(pointer, vector_type(dtype).as_pointer()), align=_ITEMSIZE[dtype])


def _emit_masked_load(builder: ir.IRBuilder, vector: ir.VectorType, pointer: Any, mask: Any, align: int) -> Any:
    """LLVM code: the lanes whose flag is on from memory, the rest zero."""
    typed = builder.bitcast(pointer, vector.as_pointer())
    function = _intrinsic_function(builder, "llvm.masked.load", vector, [typed.type, _INT32, mask.type, vector])
    return builder.call(function, [typed, ir.Constant(_INT32, align), mask, ir.Constant(vector, None)])


def _emit_masked_store(builder: ir.IRBuilder, pointer: Any, value: Any, mask: Any, align: int) -> None:
    """LLVM code: the lanes whose flag is on to memory."""
    typed = builder.bitcast(pointer, value.type.as_pointer())
    signature = [value.type, typed.type, _INT32, mask.type]
    function = _intrinsic_function(builder, "llvm.masked.store", ir.VoidType(), signature)
    builder.call(function, [value, typed, ir.Constant(_INT32, align), mask])


def _emit_load(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, n: Any = None) -> Any:
    """LLVM code: the first n lanes from memory, the rest zero; all of them without n."""
    if n is None:
        return _emit_whole_load(builder, dtype, pointer)
    vector = vector_type(dtype)
    full = builder.icmp_signed("==", n, ir.Constant(n.type, vector.count))
    with builder.if_else(full, likely=True) as (then, otherwise):
        with then:
            whole = _emit_whole_load(builder, dtype, pointer)
            from_then = builder.block
        with otherwise:
            part = _emit_masked_load(builder, vector, pointer, _emit_mask(builder, dtype, n), _ITEMSIZE[dtype])
            from_otherwise = builder.block
    result = builder.phi(vector)
    result.add_incoming(whole, from_then)
    result.add_incoming(part, from_otherwise)
    return result


def _emit_store(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, value: Any, n: Any = None) -> None:
    """LLVM code: the first n lanes to memory; all of them without n."""
    if n is None:
        _emit_whole_store(builder, dtype, pointer, value)
        return
    full = builder.icmp_signed("==", n, ir.Constant(n.type, lanes(dtype)))
    with builder.if_else(full, likely=True) as (then, otherwise):
        with then:
            _emit_whole_store(builder, dtype, pointer, value)
        with otherwise:
            _emit_masked_store(builder, pointer, value, _emit_mask(builder, dtype, n), _ITEMSIZE[dtype])


def _emit_prefetch(builder: ir.IRBuilder, pointer: Any, write: bool = False) -> None:
    """LLVM code: ask for the cache line at pointer, so that it is near when it is read or written. Never faults."""
    line = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [line.type, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    purpose, near, data = (ir.Constant(_INT32, value) for value in (int(write), 3, 1))
    builder.call(function, [line, purpose, near, data])


def _emit_barrier_to_unrolling(builder: ir.IRBuilder) -> None:
    """LLVM code: no instruction, but one that LLVM cannot see through; it does not unroll a loop around it."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)


def _emit_fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """LLVM code: a * b + c, fused where the CPU can."""
    return builder.call(_intrinsic_function(builder, "llvm.fmuladd", a.type, [a.type] * 3), [a, b, c])


def _emit_maximum(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """LLVM code: the greater of a and b, a where a is NaN. Written so that x86 needs one instruction."""
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def _emit_beats(builder: ir.IRBuilder, value: Any, best: Any) -> Any:
    """LLVM code: flags, on where value is greater than best, or the first NaN."""
    return builder.and_(builder.fcmp_unordered(">", value, best), builder.fcmp_ordered("ord", best, best))


# The words that kernels use ------------------------------------------------------------------------------------------
# An index is an integer, which counts elements from the array's first, or a tuple with one integer for each axis. It is
# not negative, and nobody checks that it lies inside: an index as Python knows it, which may count from the end, costs
# a comparison and a register, and in the innermost loop of a matrix product there is none to spare.


def _index_type(index: Any) -> types.Type:
    return types.intp if isinstance(index, types.Integer) else types.UniTuple(types.intp, len(index))


def _address(context: Any, builder: ir.IRBuilder, array_type: types.Array, array: Any, index: Any) -> Any:
    """LLVM code: a pointer to the element."""
    view = make_array(array_type)(context, builder, array)
    if isinstance(index.type, ir.IntType):
        return builder.gep(view.data, [index])
    return cgutils.get_item_pointer(context, builder, array_type, view, cgutils.unpack_tuple(builder, index))


# Vectors


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
        return _emit_load(builder, array.dtype, _address(context, builder, signature.args[0], *args[:2]), args[2])

    return Vector(array.dtype)(array, _index_type(index), types.intp), codegen


@intrinsic
def store(typing_context, array, index, value, n):
    """Write the first n lanes of the vector to ``array[index]`` and its neighbours; see ``load``."""

    def codegen(context, builder, signature, args):
        _emit_store(builder, array.dtype, _address(context, builder, signature.args[0], *args[:2]), *args[2:])
        return context.get_dummy_value()

    return types.void(array, _index_type(index), value, types.intp), codegen


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
        return _emit_splat(builder, like.dtype, args[1])

    return Vector(like.dtype)(like, like.dtype), codegen


def _prefetch(array: types.Array, index: Any, write: bool) -> Any:
    def codegen(context, builder, signature, args):
        _emit_prefetch(builder, _address(context, builder, signature.args[0], *args), write)
        return context.get_dummy_value()

    return types.void(array, _index_type(index)), codegen


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


# Arithmetic, of vectors and of tiles


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
    >>> @njit
    ... def double_plus_one(y):
    ...     two, one = splat(y, 2), splat(y, 1)
    ...     store_tile(y, (0, 0), fma(load_tile(y, (0, 0), 2, 1), two, one))
    >>> double_plus_one(y := np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> y
    array([[3., 5.],
           [7., 9.]])
    """
    return _lanewise(_emit_fma, a, b, c)


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
    return _lanewise(_emit_maximum, a, b)


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

    return _lanewise(lambda builder, a, b: builder.select(_emit_beats(builder, b, a), b, a), best, value)


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
        return builder.select(_emit_beats(builder, b, a), after, before)

    return _lanewise(emit, best, value, defender, challenger)


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
        pointer = _address(context, builder, signature.args[0], *args[:2])
        integers = ir.VectorType(context.get_value_type(array.dtype), lanes(value.dtype))
        mask = _emit_mask(builder, value.dtype, args[3])
        _emit_masked_store(builder, pointer, builder.fptoui(args[2], integers), mask, array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, _index_type(index), value, types.intp), codegen


# Tiles: rows of vectors, as one value. Its vectors stay in registers as long as there are enough of them.


class _Tile:
    """The vectors of a tile that lies at ``array[index]``: rows along the first axis, columns along the last."""

    def __init__(self, context: Any, builder: ir.IRBuilder, array_type: types.Array, array: Any, index: Any) -> None:
        self.builder, self.width = builder, lanes(array_type.dtype)
        self.view, self.index = make_array(array_type)(context, builder, array), index
        self.first = _address(context, builder, array_type, array, index)

    def pointer(self, i: int, j: int) -> Any:
        """Where vector j of row i begins."""
        row_bytes = self.builder.extract_value(self.view.strides, 0)
        row = cgutils.pointer_add(self.builder, self.first, self.builder.mul(row_bytes, _INT64(i))) if i else self.first
        return self.builder.gep(row, [_INT64(j * self.width)]) if j else row

    def lanes(self, vectors: int) -> list[Any]:
        """How many lanes of each vector count: all, and of the last one those before the end of the array's row."""
        last = len(self.index.type) - 1
        size, column = (self.builder.extract_value(value, last) for value in (self.view.shape, self.index))
        rest = self.builder.sub(self.builder.sub(size, column), _INT64((vectors - 1) * self.width))
        narrow = self.builder.icmp_signed("<", rest, _INT64(self.width))
        return [None] * (vectors - 1) + [self.builder.select(narrow, rest, _INT64(self.width))]


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
            [_emit_load(builder, array.dtype, source.pointer(i, j), n) for j, n in counts] for i in range(tile.count)
        ]
        return _make_tile(context, builder, tile, rows)

    return tile(array, _index_type(index), rows, vectors), codegen


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
        rows = [_emit_whole_load(builder, array.dtype, source.pointer(i, 0)) for i in range(size)]
        step = 1
        while step < size:
            upper = [k if k & step == 0 else size + k - step for k in range(size)]
            lower = [k + step if k & step == 0 else size + k for k in range(size)]
            for i in (i for i in range(size) if i & step == 0):
                a, b = rows[i], rows[i + step]
                for j, lanes_of_both in ((i, upper), (i + step, lower)):
                    choice = ir.Constant(ir.VectorType(_INT32, size), lanes_of_both)
                    rows[j] = builder.shuffle_vector(a, b, choice)
            step *= 2
        return _make_tile(context, builder, tile, [[row] for row in rows])

    return tile(array, _index_type(index)), codegen


@intrinsic
def store_tile(typing_context, array, index, tile):
    """Write the tile to where ``load_tile`` would read it; what reaches past the end of the array's row is left out."""

    def codegen(context, builder, signature, args):
        target = _Tile(context, builder, signature.args[0], *args[:2])
        counts = target.lanes(tile.dtype.count)
        for i, row in enumerate(cgutils.unpack_tuple(builder, args[2])):
            for j, vector in enumerate(cgutils.unpack_tuple(builder, row)):
                _emit_store(builder, array.dtype, target.pointer(i, j), vector, counts[j])
        return context.get_dummy_value()

    return types.void(array, _index_type(index), tile), codegen


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
        _emit_barrier_to_unrolling(builder)
        vectors = [_emit_whole_load(builder, dtype, row.pointer(0, j)) for j in range(sums.dtype.count)]
        rows = []
        for i, totals in enumerate(cgutils.unpack_tuple(builder, sums_)):
            element = _emit_splat(builder, dtype, builder.load(column.pointer(i, 0)))
            pairs = zip(vectors, cgutils.unpack_tuple(builder, totals), strict=True)
            rows.append([_emit_fma(builder, element, vector, total) for vector, total in pairs])
        return _make_tile(context, builder, sums, rows)

    return sums(sums, a, _index_type(a_index), b, _index_type(b_index)), codegen


# Runs: neighbouring pixels of an image, or neighbouring taps of a kernel, as one value. A run is a tuple of vectors
# that lie next to each other along the last axis but one: x[i, j, q:], x[i, j + 1, q:] and so on, each one pixel's next
# channels. Arrays are C-contiguous here. At the border of an image ``inside`` says which pixels of a run exist, and how
# many of their channels: the rest reads as zero, and is neither read from nor written to memory. Where it is None all
# exist, and loads and stores are plain instructions.


class Inside(NamedTuple):
    """Which pixels of a run exist: low <= v < high, counted from the run's first, and n channels of each."""

    low: Any
    high: Any
    n: Any


def _emit_flags(builder: ir.IRBuilder, dtype: types.Float, inside: Any, v: int) -> Any:
    """LLVM code: flags, on for the channels of pixel v that exist: on AVX-512 the bits of a mask register."""
    low, high, n = inside
    exists = builder.and_(builder.icmp_signed("<=", low, _INT64(v)), builder.icmp_signed("<", _INT64(v), high))
    count = builder.select(exists, n, _INT64(0))
    bits = builder.sub(builder.shl(_INT64(1), count), _INT64(1))
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
        return self.builder.gep(self.first, [self.builder.mul(self.step, _INT64(v))])

    def flags(self, v):
        return _emit_flags(self.builder, self.dtype, self.inside, v)

    def load(self, v):
        if not self.inside:
            return _emit_whole_load(self.builder, self.dtype, self.pointer(v))
        vector, align = vector_type(self.dtype), _ITEMSIZE[self.dtype]
        return _emit_masked_load(self.builder, vector, self.pointer(v), self.flags(v), align)

    def store(self, v, value):
        if not self.inside:
            _emit_whole_store(self.builder, self.dtype, self.pointer(v), value)
        else:
            _emit_masked_store(self.builder, self.pointer(v), value, self.flags(v), _ITEMSIZE[self.dtype])


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
            _emit_prefetch(builder, lines.pointer(v), to_write)
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


def _emit_arrival(builder: ir.IRBuilder, pixel: Any, how: list[Any]) -> Any:
    """LLVM code: f(pixel), with the vectors of ``vectors_of``."""
    if not how:
        return pixel
    if len(how) > 1:
        minus_mean, scale, shift = how[:3]
        pixel = _emit_fma(builder, builder.fadd(pixel, minus_mean), scale, shift)
    return _emit_maximum(builder, pixel, how[-1])


def _unpacked(builder: ir.IRBuilder, how_type: Any, how: Any) -> list[Any]:
    return [] if isinstance(how_type, types.NoneType) else cgutils.unpack_tuple(builder, how)


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
        values = [_emit_arrival(builder, pixel, vectors) for pixel in cgutils.unpack_tuple(builder, args[0])]
        if len(vectors) > 1 and not isinstance(inside, types.NoneType):
            limits = cgutils.unpack_tuple(builder, args[2])
            values = [_emit_existing(builder, run.dtype.dtype, limits, v, value) for v, value in enumerate(values)]
        return context.make_tuple(builder, run, values)

    return run(run, how, inside), codegen


@intrinsic(prefer_literal=True)
def fma_rows(typing_context, sums, x, index, taps, spacing, how, inside):
    """sums[r][j] + sum over b of f(x[.., first + j * s + b * t, ..]) * taps[r][b], for each row r of sums.

    first is where index points to along the last axis but one, and spacing is the literal pair (s, t): neighbouring
    sums are s pixels of x apart, and neighbouring taps t. how: the vectors of f, by ``vectors_of``. Each pixel is
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
        vectors = _unpacked(builder, how, args[5])
        rows = [cgutils.unpack_tuple(builder, row) for row in cgutils.unpack_tuple(builder, args[0])]
        weights = [cgutils.unpack_tuple(builder, row) for row in cgutils.unpack_tuple(builder, args[3])]
        for v in sorted({v for v, _, _ in meet}):
            pixel = _emit_arrival(builder, pixels.load(v), vectors)
            if len(vectors) > 1 and pixels.inside:
                pixel = _emit_existing(builder, x.dtype, pixels.inside, v, pixel)
            for _, j, b in (pair for pair in meet if pair[0] == v):
                for row, tap in zip(rows, weights, strict=True):
                    row[j] = _emit_fma(builder, pixel, tap[b], row[j])
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


# What a kernel tells the compiler


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
        return builder.asm(ir.FunctionType(_INT64, [_INT64]), "", "=r,0", args, side_effect=False)

    return types.intp(types.intp), codegen
