"""How CPU kernels are compiled.

``loops``: the plain rung: one thread, no liberties with the arithmetic.
``parallel``: the fast rung: ``prange`` over tasks that own their outputs; a multiply and an add may be contracted
into one fused instruction, but sums are never reordered and NaN and Inf are honoured.
``inline``, ``forceinline``, ``pasted``: helpers that kernels call.

Compiled code is cached on disk (cache.py); it is stale when any file of this folder has changed. Functions that a
factory makes get names of their own. What is linked into a kernel is made machine code of with it and not before
(linking.py). What threads and processes may do with parallel kernels is in launch.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import get_num_threads, njit, prange, set_num_threads
from numba.extending import overload

from .cache import make_careful, stamp_of
from .launch import guard
from .linking import make_code_once

__all__ = [
    "closure_name", "forceinline", "get_num_threads", "inline", "loops", "parallel", "pasted", "prange",
    "set_num_threads",
]  # fmt: skip


_STAMP = stamp_of(Path(__file__).parent.rglob("*.py"))
_ALWAYS = {
    "nogil": True,
    "error_model": "numpy",
    "no_cfunc_wrapper": True,  # for callers in C, which there are none of: one copy less of each kernel to optimise
}


NAMES: list[str] = []  # of all kernels; no two may be equal


def closure_name(function: Callable[..., Any]) -> str:
    """What tells functions apart that one factory has made: the names or values of what they close over.

    Compiled code is linked by name. Numba numbers functions of one name in the order in which a process compiles
    them, and keeps the number in the cache: two cached functions of one factory, compiled by two processes, can
    have the same number, and then the one that is loaded second runs the code of the first.
    """
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return "".join(f"_{getattr(value, '__qualname__', value)}" for value in cells)


def _compile(options: dict[str, Any]) -> Callable[[Callable[..., Any]], Any]:
    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ += closure_name(function)
        NAMES.append(f"{function.__module__}.{function.__qualname__}")
        try:
            dispatcher = njit(cache=True, **_ALWAYS, **options)(function)
        except RuntimeError:  # no folder that the cache could be written to
            dispatcher = njit(**_ALWAYS, **options)(function)
        else:
            make_careful(dispatcher, _STAMP)
        make_code_once(dispatcher)
        return guard(dispatcher) if "parallel" in options else dispatcher

    return decorate


loops = _compile({})


def _helper(options: dict[str, Any]) -> Callable[[Callable[..., Any]], Any]:
    """The decorator of a function that kernels call; for Python it stays the plain function.

    An overload and not a dispatcher: Numba then compiles no wrapper for callers in Python, and a literal argument, such
    as the rows of a tile, stays a literal.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        function.__qualname__ += closure_name(function)
        flags = {"fastmath": {"contract"}, **_ALWAYS, **options}
        overload(function, jit_options=flags, strict=False, prefer_literal=True)(lambda *arguments: function)
        vars(function)["py_func"] = function
        return function

    return decorate


inline = _helper({})  # LLVM decides whether the call stays a call
forceinline = _helper({"forceinline": True})  # it does not: the helper's vectors stay in registers
pasted = njit(inline="always", **_ALWAYS)  # Numba itself puts the body in place of the call, before LLVM sees it
parallel = _compile({"parallel": True, "fastmath": {"contract"}})
