"""What a kernel tells the compiler, because the compiler cannot know it."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from .registers import INT64


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
        return builder.asm(ir.FunctionType(INT64, [INT64]), "", "=r,0", args, side_effect=False)

    return types.intp(types.intp), codegen
