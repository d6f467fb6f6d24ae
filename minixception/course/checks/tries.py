"""Wrong numbers and letters: after two of them the next answer waits, so that guessing takes longer than thinking.

A letter is one of four, and a number can be closed in upon where one is told which side it is on. Two tries are free;
what comes next is judged half a minute after the last wrong answer, then after a minute, and so on, and is told less.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from .exercise import Choice, Number
from .verdict import Verdict

FREE = 2
SECONDS = 30.0
LONGEST = 240.0


@dataclass
class Tries:
    """The wrong answers to one exercise since Python was started."""

    wrong: list[Any] = field(default_factory=list)
    last: float = 0.0

    def judge(self, exercise: Number | Choice, answer: Any) -> Verdict:
        """The verdict, or how long to wait for it. The same wrong answer again is not another one."""
        verdict = exercise.judge(answer, time=False)
        if verdict.passed is None or self._has(exercise, answer):
            return verdict
        if (wait := self._seconds() - (monotonic() - self.last)) > 0:
            return replace(verdict, passed=None, hint="", message=self._patience(wait))
        if verdict.passed is False:
            self.wrong.append(exercise.value(answer))
            self.last = monotonic()
            if len(self.wrong) > FREE and not verdict.hint:  # no more "too small": that would be a search
                verdict = replace(verdict, message="That is not it.")
        return verdict

    def _has(self, exercise: Number | Choice, answer: Any) -> bool:
        return exercise.value(answer) in self.wrong

    def _seconds(self) -> float:
        """From the last wrong answer to when the next one is judged."""
        over = len(self.wrong) - FREE
        return min(SECONDS * 2**over, LONGEST) if over >= 0 else 0.0

    def _patience(self, wait: float) -> str:
        return (
            f"{len(self.wrong)} answers were wrong. Write down how you come to the next one: it is judged in "
            f"{wait:.0f} s, when you run this cell again."
        )
