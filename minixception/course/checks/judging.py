"""Compare a student's results with the right ones, and say what differs, or what was raised and where."""

from __future__ import annotations

import dis
import linecache
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numba.core.errors import NumbaError

from ...engine.op import Case, RandomDraw

UNWRITTEN = (
    "The array holds nan before your kernel begins. This cell was never written, or it was added to before it was set."
)
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the largest value: room for another order of summation
_DOES_NOTHING = {"RESUME", "NOP", "COPY_FREE_VARS", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}


def drawn(draw: Callable[[RandomDraw], Any], dtypes: Sequence[str], fixed: int) -> list[Any]:
    """What is drawn with as many fixed seeds, and with a fresh one, for each dtype."""
    fresh = int(np.random.default_rng().integers(2**32))
    return [draw(RandomDraw(seed, dtype)) for dtype in dtypes for seed in (*range(fixed), fresh)]


def call(function: Callable[..., Any], case: Case) -> Any:
    """What a function gives for a case, of which it gets copies."""
    with np.errstate(all="ignore"):
        return function(*[array.copy() for array in case.arrays], **case.params)


def shapes(case: Case) -> str:
    """A case in words, as in "2x4x4x2 and 3x3x2 float64, stride=1"."""
    arrays = " and ".join("x".join(map(str, array.shape)) or "a number" for array in case.arrays)
    params = "".join(f", {name}={value!r}" for name, value in case.params.items())
    return f"{arrays} {case.arrays[0].dtype}{params}"


def source(function: Any) -> Any:
    """The Python function behind a partial, a compiled function or a CUDA kernel; what has none, as it is."""
    for name in ("func", "py_func", "function", "__func__", "__wrapped__"):
        if hasattr(function, name):
            return source(getattr(function, name))
    return function


def is_compiled(function: Any) -> bool:
    """Whether Numba made it."""
    return is_compiled(function.func) if isinstance(function, partial) else type(function).__module__[:6] == "numba."


def is_empty_cell(error: BaseException) -> bool:
    """Whether this is what the empty cell of an exercise raises: there is nothing to judge yet."""
    return isinstance(error, NotImplementedError) and str(error) in ("", "your code here")


def does_nothing(function: Any) -> bool:
    """Whether a function's body is pass or an ellipsis: there is nothing to judge yet."""
    code = getattr(source(function), "__code__", None)
    if code is None:
        return False
    steps = list(dis.get_instructions(code))
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return {step.opname for step in steps} <= _DOES_NOTHING and constants in ([None], [...])


def raised(error: BaseException, answer: Any) -> str:
    """What was raised, in one line, and the student's line that it comes from."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith("Failed in ")]
    file = getattr(getattr(source(answer), "__code__", None), "co_filename", None)
    if isinstance(error, NumbaError):  # its cause, without the list of what would have been possible
        ends = (n for n, line in enumerate(lines) if line.startswith(("There are ", "During: ", "File ", "Enable ")))
        lines = lines[: next(ends, None)]
        loc = getattr(error, "loc", None)
        place = (loc.filename, loc.line) if loc else None
    else:
        lines = lines[:1]
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
        place = (frames[-1].filename, frames[-1].lineno) if frames else None
    said = f"It raised {type(error).__name__}: {' '.join(line for line in lines if line)}".rstrip(": .")
    text = linecache.getline(*place).strip() if place and place[1] else ""
    return f"{said}, in line {place[1]}: `{text}`" if place and text else said


def as_results(value: Any) -> tuple[Any, ...]:
    """One result or several as a tuple."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def near(got: Any, right: np.ndarray) -> bool:
    """Whether a result is right but for rounding; NaN where the other is NaN."""
    if not isinstance(got, np.ndarray | np.generic) or np.shape(got) != right.shape:
        return False
    scale = float(np.abs(right[np.isfinite(right)]).max(initial=0)) or 1.0
    return bool(np.allclose(got, right, rtol=0, atol=TOLERANCE[right.dtype.name] * scale, equal_nan=True))


def all_near(got: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """``near`` for several results."""
    return len(got) == len(other) and all(near(a, np.asarray(b)) for a, b in zip(got, other, strict=True))


def form_fault(name: str, got: Any, right: np.ndarray, contiguous: bool) -> tuple[str, str]:
    """What is wrong with a result apart from its values: (what was seen, hint), or two empty strings."""
    if not isinstance(got, np.ndarray | np.generic):
        return f"{name} should be an array, and is {type(got).__name__}.", ""
    if np.shape(got) != right.shape:
        return f"{name} should have shape {right.shape}, and has {np.shape(got)}.", ""
    if got.dtype != right.dtype:
        creeps = right.dtype == np.float32 and got.dtype == np.float64
        hint = "np.zeros, np.empty and Python's numbers make float64 creep in: give new arrays dtype=x.dtype."
        return f"{name} should be {right.dtype}, and is {got.dtype}.", hint if creeps else ""
    if contiguous and isinstance(got, np.ndarray) and not got.flags.c_contiguous:
        return f"{name} is not C-contiguous.", "A transpose or a slice is a view: np.ascontiguousarray copies it."
    return "", ""


def first_difference(got: np.ndarray, right: np.ndarray) -> tuple[int, ...]:
    """The index at which a result is furthest from right."""
    with np.errstate(all="ignore"):
        distance = np.abs(np.where(np.isfinite(got), got, np.inf) - right)
    return tuple(int(i) for i in np.unravel_index(np.argmax(distance), right.shape))


def beside(name: str, index: tuple[int, ...], got: Any, who: str, right: float) -> str:
    """Two values in words, with as many digits as it takes to tell them apart."""
    where = f"{name}[{', '.join(map(str, index))}]" if index else name
    digits = next((d for d in (6, 9, 12) if f"{got:.{d}g}" != f"{right:.{d}g}"), 17)
    return f"{where} is {got:.{digits}g}, and {who} {right:.{digits}g}."


def slope(
    forward: Callable[..., Any], inputs: Sequence[np.ndarray], which: int, index: tuple[int, ...], dy: np.ndarray
) -> float:
    """Central difference of sum(dy * forward(*inputs)) along one element of one input, float64."""
    step, values = 1e-6, []
    for sign in (1, -1):
        moved = [np.array(x) for x in inputs]
        moved[which][index] += sign * step
        values.append(float((dy * forward(*moved)).sum()))
    return (values[0] - values[1]) / (2 * step)
