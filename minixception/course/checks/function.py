"""Exercises whose answer is a function on arrays: a forward pass, a backward pass, a Numba kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...analysis.prange_races import race
from ...engine.op import Case, Observer, Op, RandomDraw, observe
from ...engine.tensor import Tensor
from ...errors import ArgumentError
from ...ops import OPERATORS
from ...tables import Table
from .exercise import Exercise, Report
from .judging import (
    UNWRITTEN,
    all_near,
    as_results,
    beside,
    call,
    does_nothing,
    drawn,
    first_difference,
    form_fault,
    is_compiled,
    is_empty_cell,
    near,
    raised,
    shapes,
    slope,
)
from .verdict import Verdict

_SEEDS = 6
_DTYPES = ("float64", "float32")


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
UNSEARCHED = " It was not searched for races: it does not run as plain Python."
CHANGED = "x -= 1 changes the caller's array, and x = x - 1 makes a new one. So does x.copy()."
REBOUND = "{0} = ... gives the name {0} to a new array; {0}[...] = ... writes into the one that was handed in."
NO_RETURN = "What a function computes is lost at its end, unless a `return` hands it out."
REMEMBERS = "Does it keep something from one call to the next: a buffer, a default argument, a global?"
OWN = "The exercise is to write it with NumPy, Numba, or what its text allows."
UNCOMPILED = " With @njit(parallel=True) above it, it will be timed, too."


class Fault(Exception):
    """What is wrong with an answer: what was seen, and a hint."""

    def __init__(self, seen: str, hint: str = "") -> None:
        super().__init__(seen)
        self.seen, self.hint = seen, hint


class _Forbids(Observer):
    """Fault when an operator is called that is not allowed."""

    def __init__(self, allows: Callable[[str, dict[str, Any]], bool]) -> None:
        self._allows = allows

    def on_op(self, op: Op, tensors: Sequence[Tensor], params: dict[str, Any], output: Tensor) -> None:
        if not self._allows(op.name, params):
            given = "".join(f", {name}={value!r}" for name, value in params.items())
            raise Fault(f"It calls the package's operator {op.name}{given}: that is somebody else's work.", OWN)


@dataclass(frozen=True, kw_only=True)
class Function(Exercise):
    """Fill in a function.

    reference: the right function, ``reference(*arrays, **params)`` -> an array or several. draw: RandomDraw -> Case,
    small and of random shape. corners: RandomDraw -> cases that a function may fail at which is right elsewhere, such
    as a single channel, or more than a register has lanes. results: the names of what it gives. mistakes: known wrong
    formulas; an answer that agrees with one in every case gets its hint.
    fills: the answer is called ``answer(*arrays, *params' values, *results)`` and fills the results, as a Numba kernel
    does, instead of returning them; its prange loops are then searched for races. contiguous: whether what it returns
    must be C-contiguous, where the layout is what the exercise is about.
    forward: for a backward pass, ``reference(dy, *inputs, **params)`` -> the inputs' gradients: the pass it belongs to,
    ``forward(*inputs, **params)``, which finite differences are taken of. allows: (name, params) -> whether the answer
    may call this operator of the package; it is to do the work itself.
    peers: (*arrays, **params) -> functions of the package to time beside the answer. timed: the Case they are timed on.
    bound: the seconds that the machine needs for it at least, on one thread: times are then shares of that.
    """

    reference: Callable[..., Any]
    draw: Callable[[RandomDraw], Case]
    corners: Callable[[RandomDraw], Iterable[Case]] = lambda draw: ()
    results: tuple[str, ...] = ("y",)
    mistakes: tuple[Mistake, ...] = ()
    fills: bool = False
    contiguous: bool = False
    forward: Callable[..., Any] | None = None
    allows: Callable[[str, dict[str, Any]], bool] = lambda name, params: False
    peers: Callable[..., Mapping[str, Callable[[], Any]]] | None = None
    timed: Callable[[], Case] | None = None
    bound: Callable[[], float] | None = None
    kind = "fill in a function"
    runs_code = True

    def _judge(self, answer: Any, time: bool, report: Report) -> Verdict:
        if not callable(answer):
            raise ArgumentError(f"{self.name}: the answer must be a function, got {type(answer).__name__}")
        if does_nothing(answer):
            return self.not_attempted()
        cases = drawn(self.draw, _DTYPES, _SEEDS)
        corners = [case for dtype in _DTYPES for case in self.corners(RandomDraw(0, dtype))]
        try:
            searched = not self.fills or self._search(answer, cases[: _SEEDS + 1], report)
            for some in (cases, corners):
                self._compare(answer, some, report)
            self._call_again(answer, cases[0], report)
            said = f"It equals the definition on {len(cases) + len(corners)} cases, float64 and float32."
            verdict = self.verdict(True, said + ("" if searched else UNSEARCHED))
            if not time or self.peers is None:
                return verdict
            if self.fills and not is_compiled(answer):  # each of its steps is one of Python's interpreter
                return self.verdict(True, verdict.message + UNCOMPILED)
            report("timed", verdict)
            return self.verdict(True, verdict.message, times=self._times(answer))
        except Fault as fault:
            return self.verdict(False, fault.seen, fault.hint)
        except NotImplementedError as error:
            if is_empty_cell(error):
                return self.not_attempted()
            raise

    # Running it ----------------------------------------------------------------------------------------------------

    def _search(self, answer: Any, cases: list[Case], report: Report) -> bool:
        """Fault if its loops race or leave an array; whether it could be searched for that."""
        for case in cases:
            report(f"run as plain Python on {shapes(case)}")
            results = [np.full_like(r, np.nan) for r in as_results(call(self.reference, case))]
            arguments = [*case.arrays, *case.params.values(), *results]
            first = len(arguments) - len(results)
            try:
                found = race(answer, arguments, range(first, len(arguments)))
            except IndexError as error:
                raise Fault(f"It goes outside of an array: {error} ({shapes(case)}).", OUTSIDE) from error
            except (
                Exception,
                SystemExit,
            ):  # what else it raises, it raises when it runs as it is; or only compiled code can run
                return False
            if found:
                raise Fault(f"There is a race: {found}.", RACE)
        return True

    def _run(self, answer: Any, case: Case) -> tuple[Any, ...]:
        """The answer's results; Fault if it raises, gives nothing, or changes its inputs."""
        arrays = tuple(array.copy() for array in case.arrays)
        run, filled = self._bound(answer, Case(arrays, case.params))
        try:
            with observe(_Forbids(self.allows)), np.errstate(all="ignore"):
                returned = run()
        except Fault:
            raise
        except (Exception, SystemExit) as error:
            if is_empty_cell(error):
                raise
            raise Fault(f"{raised(error, answer)} ({shapes(case)}).") from error
        if any(not np.array_equal(a, b) for a, b in zip(arrays, case.arrays, strict=True)):
            raise Fault(f"It changes its inputs, which belong to the caller ({shapes(case)}).", CHANGED)
        if not filled:
            if returned is None:
                raise Fault(f"It returns None ({shapes(case)}).", NO_RETURN)
            return as_results(returned)
        for name, result in zip(self.results, filled, strict=True):
            if np.isnan(result).all():
                seen = f"{name} is nan everywhere, as it was before the call ({shapes(case)})."
                raise Fault(seen, f"{UNWRITTEN} {REBOUND.format(name)}")
        return filled

    def _bound(self, answer: Any, case: Case) -> tuple[Callable[[], Any], tuple[np.ndarray, ...]]:
        """The bare call of the answer on a case, and the arrays that it fills, if any: all nan."""
        if not self.fills:
            return partial(answer, *case.arrays, **case.params), ()
        filled = tuple(np.full(np.shape(r), np.nan, r.dtype) for r in as_results(call(self.reference, case)))
        return partial(answer, *case.arrays, *case.params.values(), *filled), filled

    # Comparing -----------------------------------------------------------------------------------------------------

    def _compare(self, answer: Any, cases: list[Case], report: Report) -> None:
        """Fault if its results differ from the definition's, with the hint of a mistake that gives them all."""
        given = []
        for case in cases:
            report(f"run on {shapes(case)}")
            given.append(self._run(answer, case))
        right = [as_results(call(self.reference, case)) for case in cases]
        for case, got, expected in zip(cases, given, right, strict=True):
            if len(got) != len(expected):
                raise Fault(f"It should return {', '.join(self.results)}, and returns {len(got)} results.")
            for position, (one, wanted) in enumerate(zip(got, expected, strict=True)):
                seen, hint = form_fault(self.results[position], one, wanted, self.contiguous)
                if not seen and not near(one, wanted):
                    seen = self._difference(case, position, one, wanted)
                if seen:
                    unwritten = UNWRITTEN if self.fills and np.isnan(one).any() else ""
                    raise Fault(f"{seen} ({shapes(case)})", hint or unwritten or self._known(cases, given, right))

    def _call_again(self, answer: Any, case: Case, report: Report) -> None:
        """Fault if the same arrays give something else the second time."""
        report(f"run again on {shapes(case)}")
        if not all_near(self._run(answer, case), as_results(call(self.reference, case))):
            raise Fault(f"Called again on the same arrays, it gives something else ({shapes(case)}).", REMEMBERS)

    def _difference(self, case: Case, position: int, got: np.ndarray, right: np.ndarray) -> str:
        """Where a result is furthest from right, beside the definition's value or a finite difference."""
        name, index = self.results[position], first_difference(got, right)
        forward = self.forward
        if forward is None:
            return beside(name, index, got[index], "the definition says", right[index])
        dy, *inputs = case.arrays
        numeric = slope(lambda *x: forward(*x, **case.params), inputs, position, index, dy)
        return beside(name, index, got[index], "finite differences say", numeric)

    def _known(self, cases: list[Case], given: list[tuple[Any, ...]], right: list[tuple[Any, ...]]) -> str:
        """The hint of the mistake that gives these results in all cases, if one does."""
        for mistake in self.mistakes:
            wrong = [as_results(call(mistake.wrong, case)) for case in cases]
            if all(map(all_near, given, wrong)) and not all(map(all_near, wrong, right)):
                return mistake.hint
        return ""

    # Timing --------------------------------------------------------------------------------------------------------

    def _times(self, answer: Any) -> Table:
        """The answer's time beside its peers', all of them called on arrays that are there already.

        Fault if it is wrong there, on more than it was compared on before.
        """
        from ...bench.threads import numba_threads  # late: importing the package brings no measurement
        from ...timing import interleaved

        assert self.peers is not None and self.timed is not None
        case = self.timed()
        got, right = self._run(answer, case), as_results(call(self.reference, case))
        for position, (one, wanted) in enumerate(zip(got, right, strict=True)):
            if not near(one, wanted):
                name, index = self.results[position], first_difference(one, wanted)
                seen = beside(name, index, one[index], "the definition says", wanted[index])
                raise Fault(f"{seen} ({shapes(case)}, the shape that is timed)")
        functions = {"yours": self._bound(answer, case)[0], **call(self.peers, case)}
        with nullcontext() if self.bound is None else numba_threads(1):
            times = interleaved(functions, repeats=5)
        if self.bound is None:
            heads, shares = (shapes(case), "times as fast as yours"), times["yours"].median
        else:
            heads, shares = (f"{shapes(case)}, 1 thread", "% of the limit"), 100 * self.bound()
        rows = [(name, 1e3 * t.median, shares / t.median) for name, t in times.items()]
        return Table((heads[0], "ms", heads[1]), rows)


def rungs(
    operator: str, *arrays: np.ndarray, names: Sequence[str] = ("loops", "cpu"), **params: Any
) -> dict[str, Callable[[], Any]]:
    """The CPU kernels of an operator on these inputs, for ``Function.peers``."""
    known = OPERATORS[operator].rungs
    return {name: partial(known[name].forward, *arrays, **params) for name in names}
