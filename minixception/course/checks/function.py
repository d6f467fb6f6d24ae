"""Exercises whose answer is a function on arrays: a forward pass, a backward pass, a Numba kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...analysis.prange_races import race
from ...engine.op import Case, RandomDraw
from ...errors import ArgumentError
from ...ops import OPERATORS
from ...tables import Table
from .exercise import Exercise
from .judging import UNWRITTEN, as_results, call, first_difference, form_fault, is_empty_cell, near, shapes, slope
from .verdict import Verdict

_SEEDS = range(6)


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: a function that makes it, called like the exercise's reference, and the hint for it."""

    wrong: Callable[..., Any]
    hint: str


RACE = (
    "The iterations of prange run at the same time, in any order. Let each own the cells it writes: a loop over "
    "outputs, not over what is added to them."
)
OUTSIDE = (
    "Compiled code does not notice: it takes what lies there, or overwrites it. At which border does the window leave "
    "the image, and who asks?"
)
UNSEARCHED = " No race was looked for: with explicit vectors it does not run as plain Python."
CHANGED = "x -= 1 changes the caller's array, and x = x - 1 makes a new one. So does x.copy()."


class ChangedInputsError(ValueError):
    """An answer has changed arrays that it was given."""


@dataclass(frozen=True, kw_only=True)
class Function(Exercise):
    """Fill in a function.

    reference: the right function, ``reference(*arrays, **params)`` -> an array or several. draw: RandomDraw -> Case,
    small and of random shape. results: the names of what it gives. mistakes: known wrong formulas; an answer that
    agrees with one in every case gets its hint.
    fills: the answer is called ``answer(*arrays, *params' values, *results)`` and fills the results, as a Numba kernel
    does, instead of returning them; its prange loops are then searched for races.
    forward: for a backward pass, ``reference(dy, *inputs, **params)`` -> the inputs' gradients: the pass it belongs to,
    ``forward(*inputs, **params)``, which finite differences are taken of.
    peers: (*arrays, **params) -> functions of the package to time beside the answer. timed: the Case they are timed on.
    """

    reference: Callable[..., Any]
    draw: Callable[[RandomDraw], Case]
    results: tuple[str, ...] = ("y",)
    mistakes: tuple[Mistake, ...] = ()
    fills: bool = False
    forward: Callable[..., Any] | None = None
    peers: Callable[..., Mapping[str, Callable[[], Any]]] | None = None
    timed: Callable[[], Case] | None = None
    kind = "fill in a function"

    def _judge(self, answer: Any, time: bool) -> Verdict:
        if not callable(answer):
            raise ArgumentError(f"{self.name}: the answer must be a function, got {type(answer).__name__}")
        cases = [self.draw(RandomDraw(seed, dtype)) for dtype in ("float64", "float32") for seed in _SEEDS]
        given = []
        for case in cases:
            try:
                got = self._run(answer, case)
            except ChangedInputsError:
                return self.verdict(
                    False, f"It changes its inputs, which belong to the caller ({shapes(case)}).", CHANGED
                )
            except Exception as error:
                if is_empty_cell(error):
                    return self.not_attempted()
                first = str(error).strip().partition("\n")[0]
                return self.verdict(False, f"It raised {type(error).__name__}: {first} ({shapes(case)}).")
            if all(one is None or one is ... for one in got):
                return self.not_attempted()
            given.append(got)
        fault, unsearched = None, ""
        if self.fills:  # first: with a race, any result is luck
            try:
                fault = self._race(answer, cases)
            except NotImplementedError:  # Numba's own: explicit vectors are there in compiled code only
                unsearched = UNSEARCHED
        fault = fault or self._fault(cases, given)
        if fault is not None:
            return self.verdict(False, *fault)
        timed = time and self.peers is not None
        return self.verdict(
            True,
            f"It equals the definition on {len(cases)} random cases, float64 and float32.{unsearched}",
            times=self._times(answer) if timed else None,
        )

    def _run(self, answer: Any, case: Case) -> tuple[Any, ...]:
        """The answer's results; ChangedInputsError if its inputs are no longer what they were."""
        arrays = tuple(array.copy() for array in case.arrays)
        run, filled = self._bound(answer, Case(arrays, case.params))
        results = as_results(run())
        if filled:
            results = (None,) if all(np.isnan(r).all() for r in filled) else filled
        if any(not np.array_equal(a, b) for a, b in zip(arrays, case.arrays, strict=True)):
            raise ChangedInputsError
        return results

    def _bound(self, answer: Any, case: Case) -> tuple[Callable[[], Any], tuple[np.ndarray, ...]]:
        """The bare call of the answer on a case, and the arrays that it fills, if any: all nan."""
        if not self.fills:
            return partial(answer, *case.arrays, **case.params), ()
        filled = tuple(np.full(np.shape(r), np.nan, r.dtype) for r in as_results(call(self.reference, case)))
        return partial(answer, *case.arrays, *case.params.values(), *filled), filled

    def _fault(self, cases: list[Case], given: list[tuple[Any, ...]]) -> tuple[str, str] | None:
        """What is wrong with the results, and the hint; None if they are right."""
        right = [as_results(call(self.reference, case)) for case in cases]
        for case, got, expected in zip(cases, given, right, strict=True):
            if len(got) != len(expected):
                return f"It should return {', '.join(self.results)}, and returns {len(got)} results.", ""
            for position, (one, wanted) in enumerate(zip(got, expected, strict=True)):
                seen, hint = form_fault(self.results[position], one, wanted)
                if not seen and not near(one, wanted):
                    seen = self._difference(case, position, one, wanted)
                if seen:
                    unwritten = UNWRITTEN if self.fills and np.isnan(one).any() else ""
                    return f"{seen} ({shapes(case)})", hint or unwritten or self._known(cases, given, right)
        return None

    def _difference(self, case: Case, position: int, got: np.ndarray, right: np.ndarray) -> str:
        """Where a result is furthest from right, beside the definition's value or a finite difference."""
        index, seen = first_difference(self.results[position], got, right)
        if self.forward is None:
            return f"{seen}, and the definition says {right[index]:.6g}."
        dy, *inputs = case.arrays
        numeric = slope(lambda *x: self._forward(*x, **case.params), inputs, position, index, dy)
        return f"{seen}, and finite differences say {numeric:.6g}."

    def _forward(self, *arrays: np.ndarray, **params: Any) -> Any:
        assert self.forward is not None
        return self.forward(*arrays, **params)

    def _known(self, cases: list[Case], given: list[tuple[Any, ...]], right: list[tuple[Any, ...]]) -> str:
        """The hint of the mistake that gives these results in all cases, if one does."""
        for mistake in self.mistakes:
            wrong = [as_results(call(mistake.wrong, case)) for case in cases]
            if all(map(_same, given, wrong)) and not all(map(_same, wrong, right)):
                return mistake.hint
        return ""

    def _race(self, answer: Any, cases: list[Case]) -> tuple[str, str] | None:
        for case in cases:
            results = as_results(call(self.reference, case))
            arguments = [*case.arrays, *case.params.values(), *results]
            first = len(arguments) - len(results)
            try:
                found = race(answer, arguments, range(first, len(arguments)))
            except IndexError as error:
                return f"It goes outside of an array: {error} ({shapes(case)}).", OUTSIDE
            if found:
                return f"There is a race: {found}.", RACE
        return None

    def _times(self, answer: Any) -> Table:
        """The answer's time beside its peers', all of them called on arrays that are there already."""
        from ...timing import interleaved

        assert self.peers is not None and self.timed is not None
        case = self.timed()
        functions = {"yours": self._bound(answer, case)[0], **call(self.peers, case)}
        times = interleaved(functions, repeats=5)
        yours = times["yours"].median
        rows = [(name, 1e3 * t.median, yours / t.median) for name, t in times.items()]
        return Table((f"{shapes(case)}", "ms", "times as fast as yours"), rows)


def rungs(operator: str, *arrays: np.ndarray, **params: Any) -> dict[str, Callable[[], Any]]:
    """The CPU kernels of an operator on these inputs, for ``Function.peers``."""
    known = OPERATORS[operator].rungs
    return {name: partial(known[name].forward, *arrays, **params) for name in ("loops", "cpu")}


def _same(got: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return len(got) == len(other) and all(near(a, np.asarray(b)) for a, b in zip(got, other, strict=True))
