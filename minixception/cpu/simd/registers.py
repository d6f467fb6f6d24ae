"""One vector register: what it holds, its type for Numba, and the LLVM code of what is done with it.

Functions that begin with ``emit`` write LLVM's intermediate representation where the words of a kernel are compiled.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.extending import overload
from numba.np.arrayobj import make_array

INT32, INT64 = ir.IntType(32), ir.IntType(64)
_ELEMENT = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
ITEMSIZE = {types.float32: 4, types.float64: 8}


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
    itemsize = ITEMSIZE.get(dtype)
    return REGISTER_BYTES // (itemsize if itemsize else np.dtype(dtype).itemsize)


@overload(lanes)
def _lanes(dtype):  # in a kernel: a constant
    count = lanes(dtype.dtype)
    return lambda dtype: count


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


class Choice(types.Type):
    """The Numba type of a choice of lanes: for each lane of a vector of this dtype the number of the one it takes."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        super().__init__(name=f"choice({dtype}, {lanes(dtype)})")


@register_default(Choice)
class _ChoiceModel(PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Choice) -> None:
        super().__init__(dmm, fe_type, choice_type(fe_type.dtype))


def choice_type(dtype: types.Float) -> ir.VectorType:
    """The LLVM type of a choice: integers as wide as the elements."""
    return ir.VectorType(ir.IntType(8 * ITEMSIZE[dtype]), lanes(dtype))


def emit_splat(builder: ir.IRBuilder, dtype: types.Float, scalar: Any) -> Any:
    """LLVM code: the scalar, a float or an integer, in every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes(dtype)), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    zeros = ir.Constant(ir.VectorType(INT32, lanes(dtype)), [0] * lanes(dtype))
    return builder.shuffle_vector(first, undefined, zeros)


def emit_taken(builder: ir.IRBuilder, dtype: types.Float, vector: Any, choice: Any) -> Any:
    """LLVM code: each lane takes the lane of the vector that it chose: one instruction on x86, else lane by lane."""
    if REGISTER_BYTES == 64:
        name = f"llvm.x86.avx512.permvar.{'sf' if dtype == types.float32 else 'df'}.512"
    elif REGISTER_BYTES == 32 and dtype == types.float32:
        name = "llvm.x86.avx2.permps"
    else:
        result = vector
        for lane in (ir.Constant(INT32, lane) for lane in range(lanes(dtype))):
            taken = builder.extract_element(vector, builder.extract_element(choice, lane))
            result = builder.insert_element(result, taken, lane)
        return result
    signature = ir.FunctionType(vector.type, [vector.type, choice.type])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [vector, choice])


def _intrinsic_function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[Any]) -> Any:
    vectors = (t for t in (result, *arguments) if isinstance(t, ir.VectorType) and t.element != ir.IntType(1))
    vector = next(vectors, None)
    suffix = "" if vector is None else f"v{vector.count}{_name_of(vector.element)}"
    suffix += ".p0" if any(isinstance(t, ir.PointerType) for t in arguments) else ""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), f"{name}.{suffix}")


def _name_of(element: ir.Type) -> str:
    """As LLVM writes it: f32, f64, i8."""
    return f"i{element.width}" if isinstance(element, ir.IntType) else "f32" if element == ir.FloatType() else "f64"


def emit_mask(builder: ir.IRBuilder, dtype: types.Float, n: Any) -> Any:
    """LLVM code: a vector of flags, of which the first n are on."""
    numbers = ir.Constant(ir.VectorType(n.type, lanes(dtype)), list(range(lanes(dtype))))
    return builder.icmp_signed("<", numbers, emit_splat(builder, dtype, n))


def emit_whole_load(builder: ir.IRBuilder, dtype: types.Float, pointer: Any) -> Any:
    """LLVM code: a full vector from memory."""
    return builder.load(builder.bitcast(pointer, vector_type(dtype).as_pointer()), align=ITEMSIZE[dtype])


def emit_whole_store(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, value: Any) -> None:
    """LLVM code: a full vector to memory."""
    builder.store(value, builder.bitcast(pointer, vector_type(dtype).as_pointer()), align=ITEMSIZE[dtype])


def emit_masked_load(builder: ir.IRBuilder, vector: ir.VectorType, pointer: Any, mask: Any, align: int) -> Any:
    """LLVM code: the lanes whose flag is on from memory, the rest zero."""
    typed = builder.bitcast(pointer, vector.as_pointer())
    function = _intrinsic_function(builder, "llvm.masked.load", vector, [typed.type, INT32, mask.type, vector])
    return builder.call(function, [typed, ir.Constant(INT32, align), mask, ir.Constant(vector, None)])


def emit_masked_store(builder: ir.IRBuilder, pointer: Any, value: Any, mask: Any, align: int) -> None:
    """LLVM code: the lanes whose flag is on to memory."""
    typed = builder.bitcast(pointer, value.type.as_pointer())
    signature = [value.type, typed.type, INT32, mask.type]
    function = _intrinsic_function(builder, "llvm.masked.store", ir.VoidType(), signature)
    builder.call(function, [value, typed, ir.Constant(INT32, align), mask])


def emit_load(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, n: Any = None) -> Any:
    """LLVM code: the first n lanes from memory, the rest zero; all of them without n."""
    if n is None:
        return emit_whole_load(builder, dtype, pointer)
    vector = vector_type(dtype)
    full = builder.icmp_signed("==", n, ir.Constant(n.type, vector.count))
    with builder.if_else(full, likely=True) as (then, otherwise):
        with then:
            whole = emit_whole_load(builder, dtype, pointer)
            from_then = builder.block
        with otherwise:
            part = emit_masked_load(builder, vector, pointer, emit_mask(builder, dtype, n), ITEMSIZE[dtype])
            from_otherwise = builder.block
    result = builder.phi(vector)
    result.add_incoming(whole, from_then)
    result.add_incoming(part, from_otherwise)
    return result


def emit_store(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, value: Any, n: Any = None) -> None:
    """LLVM code: the first n lanes to memory; all of them without n."""
    if n is None:
        emit_whole_store(builder, dtype, pointer, value)
        return
    full = builder.icmp_signed("==", n, ir.Constant(n.type, lanes(dtype)))
    with builder.if_else(full, likely=True) as (then, otherwise):
        with then:
            emit_whole_store(builder, dtype, pointer, value)
        with otherwise:
            emit_masked_store(builder, pointer, value, emit_mask(builder, dtype, n), ITEMSIZE[dtype])


def emit_prefetch(builder: ir.IRBuilder, pointer: Any, write: bool = False) -> None:
    """LLVM code: ask for the cache line at pointer, so that it is near when it is read or written. Never faults."""
    line = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [line.type, INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    purpose, near, data = (ir.Constant(INT32, value) for value in (int(write), 3, 1))
    builder.call(function, [line, purpose, near, data])


def emit_barrier_to_unrolling(builder: ir.IRBuilder) -> None:
    """LLVM code: no instruction, but one that LLVM cannot see through; it does not unroll a loop around it."""
    builder.asm(ir.FunctionType(ir.VoidType(), []), "", "", [], side_effect=True)


def emit_fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """LLVM code: a * b + c, fused where the CPU can."""
    return builder.call(_intrinsic_function(builder, "llvm.fmuladd", a.type, [a.type] * 3), [a, b, c])


def emit_maximum(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """LLVM code: the greater of a and b, a where a is NaN. Written so that x86 needs one instruction."""
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


def emit_beats(builder: ir.IRBuilder, value: Any, best: Any) -> Any:
    """LLVM code: flags, on where value is greater than best, or the first NaN."""
    return builder.and_(builder.fcmp_unordered(">", value, best), builder.fcmp_ordered("ord", best, best))


# An index is an integer, which counts elements from the array's first, or a tuple with one integer for each axis. It is
# not negative, and nobody checks that it lies inside: an index as Python knows it, which may count from the end, costs
# a comparison and a register, and in the innermost loop of a matrix product there is none to spare.


def index_type(index: Any) -> types.Type:
    """What Numba is to make of an index: an integer, or one for each axis."""
    return types.intp if isinstance(index, types.Integer) else types.UniTuple(types.intp, len(index))


def address(context: Any, builder: ir.IRBuilder, array_type: types.Array, array: Any, index: Any) -> Any:
    """LLVM code: a pointer to the element."""
    view = make_array(array_type)(context, builder, array)
    if isinstance(index.type, ir.IntType):
        return builder.gep(view.data, [index])
    return cgutils.get_item_pointer(context, builder, array_type, view, cgutils.unpack_tuple(builder, index))
