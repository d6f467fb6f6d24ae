"""Compare a student's results with the right ones, and say what differs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...engine.op import Case

UNWRITTEN = (
    "The array holds nan before your kernel begins. This cell was never written, or it was added to before it was set."
)
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # of the largest value: room for another order of summation


def call(function: Callable[..., Any], case: Case) -> Any:
    """What a function gives for a case, of which it gets copies."""
    return function(*[array.copy() for array in case.arrays], **case.params)


def shapes(case: Case) -> str:
    """A case in words, as in "2x4x4x2 and 3x3x2 float64, stride=1"."""
    arrays = " and ".join("x".join(map(str, array.shape)) or "a number" for array in case.arrays)
    params = "".join(f", {name}={value!r}" for name, value in case.params.items())
    return f"{arrays} {case.arrays[0].dtype}{params}"


def is_empty_cell(error: Exception) -> bool:
    """Whether this is what the empty cell of an exercise raises: there is nothing to judge yet."""
    return isinstance(error, NotImplementedError) and str(error) in ("", "your code here")


def as_results(value: Any) -> tuple[Any, ...]:
    """One result or several as a tuple."""
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def near(got: Any, right: np.ndarray) -> bool:
    """Whether a result is right but for rounding; NaN where the other is NaN."""
    if not isinstance(got, np.ndarray | np.generic) or np.shape(got) != right.shape:
        return False
    scale = float(np.abs(right[np.isfinite(right)]).max(initial=0)) or 1.0
    return bool(np.allclose(got, right, rtol=0, atol=TOLERANCE[right.dtype.name] * scale, equal_nan=True))


def form_fault(name: str, got: Any, right: np.ndarray) -> tuple[str, str]:
    """What is wrong with a result apart from its values: (what was seen, hint), or two empty strings."""
    if not isinstance(got, np.ndarray | np.generic):
        return f"{name} should be an array, and is {type(got).__name__}.", ""
    if np.shape(got) != right.shape:
        return f"{name} should have shape {right.shape}, and has {np.shape(got)}.", ""
    if got.dtype != right.dtype:
        creeps = right.dtype == np.float32 and got.dtype == np.float64
        hint = "np.zeros, np.empty and Python's numbers make float64 creep in: give new arrays dtype=x.dtype."
        return f"{name} should be {right.dtype}, and is {got.dtype}.", hint if creeps else ""
    if isinstance(got, np.ndarray) and not got.flags.c_contiguous:
        return f"{name} is not C-contiguous.", "A transpose or a slice is a view: np.ascontiguousarray copies it."
    return "", ""


def first_difference(name: str, got: np.ndarray, right: np.ndarray) -> tuple[tuple[int, ...], str]:
    """Where a result is furthest from right, as an index and in words."""
    distance = np.abs(np.where(np.isfinite(got), got, np.inf) - right)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(distance), right.shape))
    where = f"{name}[{', '.join(map(str, index))}]" if index else name
    return index, f"{where} is {got[index]:.6g}"


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
