"""What all exercises have in common, and the two kinds whose answer is a value: a number, and a choice."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any, Protocol

import numpy as np

from ...errors import ArgumentError
from .verdict import Verdict


class Report(Protocol):
    """Is told what a check does next, and what it has found so far: a check of student's code may never come back."""

    def __call__(self, doing: str, so_far: Verdict | None = None) -> None:
        """doing: as in "run on 2x3 float64". so_far: the verdict if what comes next cannot change it."""


def unheard(doing: str, so_far: Verdict | None = None) -> None:
    """The report of a check that nobody waits for in another process."""


@dataclass(frozen=True, kw_only=True)
class Exercise(ABC):
    """One exercise of the course.

    name: unique, as in "depthwise-forward". notebook: the number of the notebook it stands in. title: one line for the
    table of progress.
    """

    name: str
    notebook: int
    title: str
    kind = ""
    runs_code = False  # of the student: then it is judged in a process of its own

    def judge(self, answer: Any, time: bool, report: Report = unheard) -> Verdict:
        """Right or wrong, and why; not attempted if there is no answer. time: also measure how fast a function is."""
        return self.not_attempted() if answer is None or answer is ... else self._judge(answer, time, report)

    @abstractmethod
    def _judge(self, answer: Any, time: bool, report: Report) -> Verdict:
        """``judge`` for an answer that is there."""

    def verdict(self, passed: bool | None, message: str, hint: str = "", **more: Any) -> Verdict:
        """A judgement of this exercise."""
        return Verdict(self.name, passed, message, hint, **more)

    def not_attempted(self) -> Verdict:
        """The judgement of an empty answer."""
        return self.verdict(None, "Fill in your answer and run this cell again.")


@dataclass(frozen=True)
class WrongNumber:
    """A number that a usual mistake leads to, and the hint for it."""

    value: float
    hint: str


@dataclass(frozen=True, kw_only=True)
class Number(Exercise):
    """Predict a number before it is measured or counted.

    expected: the number. within: how far an answer may be off, as a share of it; 0 for counts. why: one sentence that
    a right answer is rewarded with.
    """

    expected: Callable[[], float]
    why: str
    within: float = 0.0
    mistakes: tuple[WrongNumber, ...] = ()
    kind = "predict a number"

    def _judge(self, answer: Any, time: bool, report: Report) -> Verdict:
        given = self.value(answer)
        if math.isnan(given):
            return self.verdict(False, "nan is not a number.")
        right = float(self.expected())
        if self._near(given, right):
            return self.verdict(True, self.why)
        for mistake in self.mistakes:
            if self._near(given, mistake.value):
                return self.verdict(False, f"{_plain(given)} is not it.", mistake.hint)
        side = "too small" if given < right else "too large"
        return self.verdict(False, f"{_plain(given)} is {side}.")

    def value(self, answer: Any) -> float:
        """The answer as a float; ArgumentError if it is none."""
        if isinstance(answer, np.ndarray) and answer.ndim == 0:
            answer = answer[()]
        if not isinstance(answer, Real | Decimal):
            raise ArgumentError(f"{self.name}: the answer must be a number, got {type(answer).__name__}")
        return float(answer)

    def _near(self, given: float, value: float) -> bool:
        return abs(given - value) <= max(self.within, 1e-9) * abs(value)


def _plain(number: float) -> str:
    """A number as a person writes it: 22,855,952 and 0.125."""
    return f"{number:,.0f}" if number.is_integer() else f"{number:,.6g}"


@dataclass(frozen=True, kw_only=True)
class Choice(Exercise):
    """Explain a plot: which of several statements says why it looks as it does.

    options: letter to statement. right: the letter. why: one sentence that a right answer is rewarded with. hints: for
    each wrong letter, what to look at.
    """

    options: Mapping[str, str]
    right: str
    why: str
    hints: Mapping[str, str] = field(default_factory=dict)
    kind = "explain a plot"

    def __post_init__(self) -> None:
        assert {*self.hints, self.right} == set(self.options), f"{self.name}: a hint for each wrong option"

    def _judge(self, answer: Any, time: bool, report: Report) -> Verdict:
        letter = self.value(answer)
        if not letter:
            return self.not_attempted()
        if letter == self.right:
            return self.verdict(True, self.why)
        return self.verdict(False, f"({letter}) is not it.", self.hints[letter])

    def value(self, answer: Any) -> str:
        """The letter that is meant, as in "C", "c" and "(C)."; ArgumentError if there is none such."""
        letters = {letter.casefold(): letter for letter in self.options} | {"": ""}
        meant = answer.strip(" .:()[]").casefold() if isinstance(answer, str) else None
        if meant not in letters:
            raise ArgumentError(f"{self.name}: the answer must be one of {', '.join(self.options)}, got {answer!r}")
        return letters[meant]
