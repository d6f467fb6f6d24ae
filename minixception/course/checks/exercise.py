"""What all exercises have in common, and the two kinds whose answer is a value: a number, and a choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import ArgumentError
from .verdict import Verdict


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

    def judge(self, answer: Any, time: bool) -> Verdict:
        """Right or wrong, and why; not attempted if there is no answer. time: also measure how fast a function is."""
        return self.not_attempted() if answer is None or answer is ... else self._judge(answer, time)

    @abstractmethod
    def _judge(self, answer: Any, time: bool) -> Verdict:
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

    def _judge(self, answer: Any, time: bool) -> Verdict:
        if not isinstance(answer, int | float | np.number):
            raise ArgumentError(f"{self.name}: the answer must be a number, got {type(answer).__name__}")
        given, right = float(answer), float(self.expected())
        if self._near(given, right):
            return self.verdict(True, self.why)
        for mistake in self.mistakes:
            if self._near(given, mistake.value):
                return self.verdict(False, f"{_plain(given)} is not it.", mistake.hint)
        side = "too small" if given < right else "too large"
        return self.verdict(False, f"{_plain(given)} is {side}.")

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

    def _judge(self, answer: Any, time: bool) -> Verdict:
        if not isinstance(answer, str) or answer not in {"", *self.options}:
            raise ArgumentError(f"{self.name}: the answer must be one of {', '.join(self.options)}, got {answer!r}")
        if not answer:
            return self.not_attempted()
        if answer == self.right:
            return self.verdict(True, self.why)
        return self.verdict(False, f"({answer}) is not it.", self.hints[answer])
