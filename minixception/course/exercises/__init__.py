"""The exercises of the course, a file for each notebook, and ``check``, which judges an answer to one of them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from ...errors import ArgumentError
from ..checks import Choice, Exercise, Number, Verdict, judge, progress
from ..checks.tries import Tries
from . import n00, n01, n02, n03, n04, n05, n06, n07, n08, n09, n10, n11, n12, n13

_MODULES = (n00, n01, n02, n03, n04, n05, n06, n07, n08, n09, n10, n11, n12, n13)

EXERCISES: dict[str, Exercise] = {e.name: e for module in _MODULES for e in module.EXERCISES}
_tries: defaultdict[str, Tries] = defaultdict(Tries)


def check(name: str, answer: Any = None, time: bool = True) -> Verdict:
    """Judge the answer to an exercise of the course; never raises for a wrong one.

    name: of an exercise, a key of ``mx.lab.EXERCISES``. answer: what it asks for: a function, a number or a letter.
    time: place a right function beside the package's own kernels, where the exercise has them; takes a second.
    A function is called in a process of its own, which it may crash, and has a minute for each of its steps; what it
    prints is printed here. After two wrong numbers or letters the next one is judged half a minute later.
    A solved exercise is noted in the current folder if ``minixception course`` made it. Raises ArgumentError for a name
    that does not exist, and for an answer that is not of the kind that the exercise asks for, or that uses what cannot
    be taken to another process.

    >>> print(check("xception-trainable", 22_855_951))
    xception-trainable: not yet. 22,855,951 is too small.
    """
    if not isinstance(name, str) or name not in EXERCISES:
        raise ArgumentError(f"the exercise must be one of {', '.join(EXERCISES)}; got {name!r}")
    exercise, tries = EXERCISES[name], _tries[name]
    before = len(tries.wrong)
    verdict = tries.judge(exercise, answer) if isinstance(exercise, Number | Choice) else judge(exercise, answer, time)
    if verdict or len(tries.wrong) > before:
        progress.note(name, wrong=len(tries.wrong) - before)
    return verdict
