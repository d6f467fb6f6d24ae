"""Explicit vectors for Numba kernels: one register full of neighbouring channels, as a value.

A kernel that says ``acc = fma(load(x, i, n), load(w, j, n), acc)`` is vectorised because it is written so, not because
the compiler found out. The width follows the CPU: a 64-byte AVX-512 register holds 16 float32 (``lanes``), AVX2 8,
NEON and plain SSE 4; float64 half of it. LLVM splits a vector that is wider than the machine's registers, so the
same kernels run everywhere.

The last vector of a row is often not full. ``n`` says how many lanes count: with ``n == lanes`` load and store are one
plain instruction, with fewer they are masked. Lanes past ``n`` read as zero and are never read from or written
to memory. Indices count elements from the array's first; staying inside is the caller's duty.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

_INT32 = ir.IntType(32)
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


def element_pointer(context: Any, builder: ir.IRBuilder, array_type: types.Array, array: Any, index: Any) -> Any:
    """LLVM pointer to ``array.flat[index]``."""
    return builder.gep(make_array(array_type)(context, builder, array).data, [index])


def emit_splat(builder: ir.IRBuilder, dtype: types.Float, scalar: Any) -> Any:
    """LLVM code: the scalar in every lane."""
    undefined = ir.Constant(vector_type(dtype), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT32, 0))
    zeros = ir.Constant(ir.VectorType(_INT32, lanes(dtype)), [0] * lanes(dtype))
    return builder.shuffle_vector(first, undefined, zeros)


def _intrinsic_function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[Any]) -> Any:
    suffix = (
        f"v{vector.count}{'f32' if isinstance(vector.element, ir.FloatType) else 'f64'}"
        if (
            vector := next(
                t for t in (result, *arguments) if isinstance(t, ir.VectorType) and t.element != ir.IntType(1)
            )
        )
        else ""
    )
    suffix += ".p0" if any(isinstance(t, ir.PointerType) for t in arguments) else ""
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), f"{name}.{suffix}")


def emit_mask(builder: ir.IRBuilder, dtype: types.Float, n: Any) -> Any:
    """LLVM code: a vector of flags, of which the first n are on."""
    count = lanes(dtype)
    numbers = ir.VectorType(n.type, count)
    undefined, zeros = ir.Constant(numbers, ir.Undefined), ir.Constant(ir.VectorType(_INT32, count), [0] * count)
    first = builder.insert_element(undefined, n, ir.Constant(_INT32, 0))
    everywhere = builder.shuffle_vector(first, undefined, zeros)
    return builder.icmp_signed("<", ir.Constant(numbers, list(range(count))), everywhere)


def emit_whole_load(builder: ir.IRBuilder, dtype: types.Float, pointer: Any) -> Any:
    """LLVM code: a full vector from memory."""
    return builder.load(builder.bitcast(pointer, vector_type(dtype).as_pointer()), align=_ITEMSIZE[dtype])


def emit_whole_store(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, value: Any) -> None:
    """LLVM code: a full vector to memory."""
    builder.store(value, builder.bitcast(pointer, vector_type(dtype).as_pointer()), align=_ITEMSIZE[dtype])


def emit_masked_load(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, mask: Any) -> Any:
    """LLVM code: the lanes whose flag is on from memory, the rest zero."""
    vector = vector_type(dtype)
    typed = builder.bitcast(pointer, vector.as_pointer())
    function = _intrinsic_function(builder, "llvm.masked.load", vector, [typed.type, _INT32, mask.type, vector])
    zero = ir.Constant(vector, [0.0] * vector.count)
    return builder.call(function, [typed, ir.Constant(_INT32, _ITEMSIZE[dtype]), mask, zero])


def emit_masked_store(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, value: Any, mask: Any) -> None:
    """LLVM code: the lanes whose flag is on to memory."""
    vector = vector_type(dtype)
    typed = builder.bitcast(pointer, vector.as_pointer())
    function = _intrinsic_function(builder, "llvm.masked.store", ir.VoidType(), [vector, typed.type, _INT32, mask.type])
    builder.call(function, [value, typed, ir.Constant(_INT32, _ITEMSIZE[dtype]), mask])


def emit_load(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, n: Any) -> Any:
    """LLVM code: the first n lanes from memory, the rest zero."""
    vector = vector_type(dtype)
    full = builder.icmp_signed("==", n, ir.Constant(n.type, vector.count))
    with builder.if_else(full, likely=True) as (then, otherwise):
        with then:
            whole = emit_whole_load(builder, dtype, pointer)
            from_then = builder.block
        with otherwise:
            part = emit_masked_load(builder, dtype, pointer, emit_mask(builder, dtype, n))
            from_otherwise = builder.block
    result = builder.phi(vector)
    result.add_incoming(whole, from_then)
    result.add_incoming(part, from_otherwise)
    return result


def emit_store(builder: ir.IRBuilder, dtype: types.Float, pointer: Any, value: Any, n: Any) -> None:
    """LLVM code: the first n lanes to memory."""
    full = builder.icmp_signed("==", n, ir.Constant(n.type, lanes(dtype)))
    with builder.if_else(full, likely=True) as (then, otherwise):
        with then:
            emit_whole_store(builder, dtype, pointer, value)
        with otherwise:
            emit_masked_store(builder, dtype, pointer, value, emit_mask(builder, dtype, n))


def emit_prefetch(builder: ir.IRBuilder, pointer: Any, write: bool = False) -> None:
    """LLVM code: ask for the cache line at pointer, so that it is near when it is read or written. Never faults."""
    line = builder.bitcast(pointer, ir.IntType(8).as_pointer())
    signature = ir.FunctionType(ir.VoidType(), [line.type, _INT32, _INT32, _INT32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    purpose, near, data = (ir.Constant(_INT32, number) for number in (int(write), 3, 1))
    builder.call(function, [line, purpose, near, data])


def emit_fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """LLVM code: a * b + c, fused where the CPU can."""
    return builder.call(_intrinsic_function(builder, "llvm.fmuladd", a.type, [a.type] * 3), [a, b, c])


def emit_maximum(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """LLVM code: the greater of a and b, a where a is NaN. Written so that x86 needs one instruction."""
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)


@intrinsic
def load(typing_context, array, index, n):
    """``array.flat[index : index + n]`` as a vector; lanes past n are zero."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1])
        return emit_load(builder, array.dtype, pointer, args[2])

    return Vector(array.dtype)(array, types.intp, types.intp), codegen


@intrinsic
def store(typing_context, array, index, value, n):
    """Write the first n lanes of the vector to ``array.flat[index : index + n]``."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1])
        emit_store(builder, array.dtype, pointer, args[2], args[3])
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), codegen


def _prefetch(write: bool, doc: str) -> Any:
    def operation(typing_context, array, index):
        def codegen(context, builder, signature, args):
            emit_prefetch(builder, element_pointer(context, builder, signature.args[0], *args), write)
            return context.get_dummy_value()

        return types.void(array, types.intp), codegen

    operation.__doc__ = doc
    return intrinsic(operation)


prefetch = _prefetch(False, "Ask for the cache line of ``array.flat[index]``, to read it soon. Any index will do.")
prefetch_write = _prefetch(
    True, "Ask for the cache line of ``array.flat[index]``, to write it soon. Any index will do."
)


@intrinsic
def splat(typing_context, array, scalar):
    """The scalar in every lane of a vector of the array's dtype."""

    def codegen(context, builder, signature, args):
        return emit_splat(builder, array.dtype, args[1])

    return Vector(array.dtype)(array, array.dtype), codegen


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, lane by lane, in one instruction where the CPU has it."""

    def codegen(context, builder, signature, args):
        return emit_fma(builder, *args)

    return a(a, a, a), codegen


def _lanewise(emit: Callable[[ir.IRBuilder, Any, Any], Any], doc: str) -> Any:
    def operation(typing_context, a, b):
        def codegen(context, builder, signature, args):
            return emit(builder, *args)

        return a(a, a), codegen

    operation.__doc__ = doc
    return intrinsic(operation)


add = _lanewise(lambda builder, a, b: builder.fadd(a, b), "a + b, lane by lane.")
multiply = _lanewise(lambda builder, a, b: builder.fmul(a, b), "a * b, lane by lane.")
maximum = _lanewise(emit_maximum, "The greater of a and b, lane by lane; a if a is NaN.")
