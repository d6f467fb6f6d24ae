"""What ``mx.lab.check`` answers: right, wrong with a hint, or not tried yet."""

from __future__ import annotations

import html
from dataclasses import dataclass

from ...tables import Table

_WORDS = {True: "right", False: "not yet", None: "not attempted"}


@dataclass(frozen=True, repr=False)
class Verdict:
    """The judgement of one answer; prints as text, shows as HTML in a notebook.

    passed: None if there was nothing to judge. message: what was seen, as in "dw[0, 2, 5] is 1.2, and finite
    differences say 0.4". hint: what usually leads there; empty if the mistake is not a known one. times: the answer
    beside the package's own kernels.
    """

    exercise: str
    passed: bool | None
    message: str
    hint: str = ""
    times: Table | None = None

    def __bool__(self) -> bool:
        return self.passed is True

    def __str__(self) -> str:
        lines = [f"{self.exercise}: {_WORDS[self.passed]}. {self.message}"]
        if self.hint:
            lines.append(f"Hint: {self.hint}")
        if self.times is not None:
            lines += ["", str(self.times)]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = f"<b>{html.escape(self.exercise)}: {_WORDS[self.passed]}.</b> {html.escape(self.message)}"
        hint = f"<br><b>Hint:</b> {html.escape(self.hint)}" if self.hint else ""
        times = self.times._repr_html_() if self.times is not None else ""
        return f"<div><p>{head}{hint}</p>{times}</div>"
