"""Show source code where the source is the lesson."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

from ..errors import ArgumentError
from ..ops import OPERATORS


class Source:
    """Python source that a notebook shows in colour and a terminal as it is."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __repr__(self) -> str:
        return self.code

    def _repr_markdown_(self) -> str:
        return f"```python\n{self.code}\n```"


def source(what: Any, rung: str = "cpu", direction: str = "forward") -> Source:
    """The source of a function, class, module or kernel; or of an operator's rung.

    what: such an object, or a name in ``mx.ops.OPERATORS``; then rung and direction ("forward" or "backward") say which
    of its functions. Raises ArgumentError for names that do not exist or objects without Python source.

    >>> print(source("relu", rung="numpy"))  # doctest: +ELLIPSIS
    def ...
    """
    if isinstance(what, str):
        what = _function_of(what, rung, direction)
    while hasattr(what, "func"):  # functools.partial
        what = what.func
    what = getattr(what, "py_func", getattr(what, "function", what))  # compiled by Numba, or a CUDA kernel
    try:
        code = inspect.getsource(what)
    except (TypeError, OSError):
        raise ArgumentError(f"no Python source is known of {what!r}") from None
    return Source(textwrap.dedent(code).rstrip())


def _function_of(operator: str, rung: str, direction: str) -> Any:
    if operator not in OPERATORS:
        raise ArgumentError(f"operator must be one of {', '.join(OPERATORS)}, got {operator!r}")
    rungs = OPERATORS[operator].rungs
    if rung not in rungs:
        raise ArgumentError(f"rung of {operator} must be one of {', '.join(rungs)}, got {rung!r}")
    if direction not in ("forward", "backward"):
        raise ArgumentError(f"direction must be forward or backward, got {direction!r}")
    return getattr(rungs[rung], direction)
