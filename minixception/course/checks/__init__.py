"""Exercises that check themselves: ``mx.lab.check(name, answer)``.

An exercise knows the right answer and the usual wrong ones. A function is held to the definition on random shapes in
float32 and float64, its dtype, layout and inputs are looked at, a ``prange`` kernel is searched for races, a CUDA
kernel runs on the recorder; a wrong result that agrees with a known mistake gets that mistake's hint.
"""

from __future__ import annotations

from typing import Any

from ...errors import ArgumentError
from . import progress
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
    "check",
    "cuda_kernel",
    "rungs",
]


def check(name: str, answer: Any = None, time: bool = True) -> Verdict:
    """Judge the answer to an exercise of the course; never raises for a wrong one.

    name: of an exercise, a key of ``mx.lab.EXERCISES``. answer: what it asks for: a function, a number or a letter.
    time: place a right function beside the package's own kernels, where the exercise has them; takes a second.
    A solved exercise is noted in the current folder if ``minixception course`` made it. Raises ArgumentError for a name
    that does not exist, and for an answer that is not of the kind that the exercise asks for.

    >>> print(check("xception-trainable", 22_855_951))
    xception-trainable: not yet. 22,855,951 is too small.
    """
    from ..exercises import EXERCISES

    if not isinstance(name, str) or name not in EXERCISES:
        raise ArgumentError(f"the exercise must be one of {', '.join(EXERCISES)}; got {name!r}")
    verdict = EXERCISES[name].judge(answer, time)
    if verdict:
        progress.note(name)
    return verdict
