"""The kinds of exercises, each of which judges an answer.

An exercise knows the right answer and the usual wrong ones. A function is compared with the definition on random shapes
in float32 and float64, its dtype and inputs are looked at, a ``prange`` kernel is searched for races, a CUDA kernel
runs on the recorder; a wrong result that agrees with a known mistake gets that mistake's hint. ``judge`` does all that
in a process of its own.
"""

from __future__ import annotations

from .apart import judge
from .cuda import CudaKernel, cuda_kernel
from .exercise import Choice, Exercise, Number, WrongNumber
from .function import Function, Mistake, rungs
from .verdict import Verdict

__all__ = [
    "Choice",
    "CudaKernel",
    "Exercise",
    "Function",
    "Mistake",
    "Number",
    "Verdict",
    "WrongNumber",
    "cuda_kernel",
    "judge",
    "rungs",
]
