"""Four neighbouring elements by one instruction, for kernels: what CUDA C++ writes as float4.

A load of a warp moves up to 4 bytes for each thread, or up to 16 if its threads load vectors. The bytes are the same;
a quarter of the instructions is issued for them, and a quarter of the addresses computed. For float64 the compiler
makes two accesses of 16 bytes of each, as the hardware has none of 32.

    a, b, c, d = load4(x, at)
    store4(y, at, a, b, c, d)

``at`` counts elements, of a flat array or of one in shared memory, and must be a multiple of 4: an array of the device
begins at a multiple of 256 bytes, and a vector that does not begin at a multiple of 16 is an error of the hardware.

Numba has no such access. On a GPU these names are small pieces of LLVM code; in the simulator and everywhere else they
are the plain functions below; the recorder counts one access.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .kernel import Source, is_simulated

VECTOR = 4  # elements
VECTOR_BYTES = 16  # that one access moves, and what it is aligned to
_SHARED = 3  # LLVM's address space of shared memory


class Access(Source):
    """``load4`` or ``store4``: a name for kernels that on a GPU is an instruction, and a plain function elsewhere."""

    def made_for(self, dtype: Any) -> Any:
        """As for every helper of a kernel, but for the GPU."""
        return super().made_for(dtype) if is_simulated() else self.instruction()

    def instruction(self) -> Any:
        """What Numba compiles for a GPU; for all dtypes."""
        return _instructions()[self.function.__name__]


def access(function: Callable[..., Any]) -> Any:
    """Make such a name of the plain function."""
    return Access(function)


@access
def load4(array, at):
    """The element at ``at`` and the next three."""
    assert at % VECTOR == 0
    return array[at], array[at + 1], array[at + 2], array[at + 3]


@access
def store4(array, at, a, b, c, d):
    """Write four elements, at ``at`` and the next three places."""
    assert at % VECTOR == 0
    array[at], array[at + 1], array[at + 2], array[at + 3] = a, b, c, d


@cache
def _instructions() -> dict[str, Callable[..., Any]]:
    """``load4`` and ``store4`` for Numba; numba.cuda is imported by the first kernel, not by this module."""
    from llvmlite import ir
    from numba import types
    from numba.cuda.extending import intrinsic

    def vector_at(context: Any, builder: Any, array_type: Any, array: Any, at: Any) -> Any:
        """A pointer to the vector."""
        for variable in builder.module.global_values:  # shared arrays, which Numba aligns like one element
            if getattr(variable, "addrspace", 0) == _SHARED:
                variable.align = VECTOR_BYTES
        data = context.make_helper(builder, array_type, array).data
        vector = ir.VectorType(context.get_data_type(array_type.dtype), VECTOR)
        return builder.bitcast(builder.gep(data, [at]), ir.PointerType(vector))

    def lane(index: int) -> Any:
        return ir.Constant(ir.IntType(32), index)

    @intrinsic
    def load(typing_context, array, at):
        def generate(context, builder, signature, arguments):
            found = builder.load(vector_at(context, builder, signature.args[0], *arguments))
            found.align = VECTOR_BYTES
            values = [builder.extract_element(found, lane(i)) for i in range(VECTOR)]
            return context.make_tuple(builder, signature.return_type, values)

        return types.UniTuple(array.dtype, VECTOR)(array, at), generate

    @intrinsic
    def store(typing_context, array, at, a, b, c, d):
        def generate(context, builder, signature, arguments):
            place = vector_at(context, builder, signature.args[0], *arguments[:2])
            vector = ir.Constant(place.type.pointee, ir.Undefined)
            for i, value in enumerate(arguments[2:]):
                vector = builder.insert_element(vector, value, lane(i))
            builder.store(vector, place).align = VECTOR_BYTES
            return context.get_dummy_value()

        return types.void(array, at, *[array.dtype] * VECTOR), generate

    return {"load4": load, "store4": store}
