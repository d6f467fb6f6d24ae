"""Find a race in a ``prange`` kernel: run it as plain Python and note which iteration writes which cell.

A race may give the right result a thousand times. It is found for certain where the kernel runs on arrays that remember
who wrote and who read each of their cells: two iterations of one ``prange`` may not write the same cell, nor may one
read what another writes, before or after.

The iterations run one after the other here. So it is enough to keep the first of each kind: whoever comes next and is
another one has found the race.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

_NOBODY = -1
_MARKS = np.dtype([("written", int), ("read", int)])  # of a cell: the first iteration that has done so
_MAKERS = ("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like")


class _Race(Exception):
    """Two iterations use one cell, and one of them writes it."""


class _Loop:
    """The ``prange`` that is running, if any, and its iteration."""

    def __init__(self) -> None:
        self.iteration = _NOBODY
        self.marks: list[np.ndarray] = []  # of all arrays that are watched

    def prange(self, *bounds: int) -> Iterator[int]:
        if self.iteration != _NOBODY:  # inside of another: Numba runs it as a plain loop
            yield from range(*bounds)
            return
        for marks in self.marks:
            marks[...] = _NOBODY  # the loop before has ended, and everybody waited for it
        try:
            for self.iteration in range(*bounds):
                yield self.iteration
        finally:
            self.iteration = _NOBODY

    def watch(self, array: np.ndarray, label: str) -> _Watched:
        """The array, watched from now on."""
        watched = array.view(_Watched)
        watched.loop, watched.label, watched.marks = self, label, np.full(array.shape, _NOBODY, _MARKS)
        self.marks.append(watched.marks)
        return watched

    def maker(self, make: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """np.zeros and its like: what is made outside of prange is shared by its iterations."""

        def made(*arguments: Any, **options: Any) -> np.ndarray:
            array = make(*arguments, **options)
            return array if self.iteration != _NOBODY else self.watch(array, "an array made outside of the loop")

        return made


class _Watched(np.ndarray):
    """An array that knows which iterations wrote and read each of its cells. Views share its marks."""

    loop: _Loop
    marks: np.ndarray | None = None
    label: str

    def __getitem__(self, index: Any) -> Any:
        got = super().__getitem__(index)
        if self.marks is None:
            return got
        if isinstance(got, _Watched) and np.may_share_memory(got, self):
            got.loop, got.label, got.marks = self.loop, self.label, self.marks[index]
            return got  # a view: what is done with it will show
        self._read(index)
        return got

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        """Arithmetic on whole rows: what it reads and, as in y[i] += 1, writes."""
        for array in inputs:
            if isinstance(array, _Watched):
                array._read(...)
        for array in out:
            if isinstance(array, _Watched):
                array._write(...)
        plain = [np.asarray(x) if isinstance(x, _Watched) else x for x in inputs]
        if out:
            options["out"] = tuple(np.asarray(x) if isinstance(x, _Watched) else x for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        return out[0] if out else result

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, _Watched):
            value._read(...)
        self._write(index)
        super().__setitem__(index, value)

    def _read(self, index: Any) -> None:
        self._note(index, "reads", "read", after=("written",))

    def _write(self, index: Any) -> None:
        self._note(index, "writes", "written", after=("written", "read"))

    def _note(self, index: Any, does: str, done: str, after: tuple[str, ...]) -> None:
        """Mark what the iteration that runs has done with these cells; _Race if ``after`` another one has done that."""
        now = self.loop.iteration
        if self.marks is None or now == _NOBODY:
            return
        for before in after:
            first = np.atleast_1d(self.marks[before][index])
            others = first[(first != _NOBODY) & (first != now)]
            if others.size:
                raise _Race(
                    f"iteration {now} of prange {does} a cell of {self.label} that iteration {others[0]} has {before}"
                )
        marks = self.marks[done]
        marks[index] = np.where(marks[index] == _NOBODY, now, marks[index])


def race(kernel: Callable[..., Any], arguments: Sequence[Any], written: Sequence[int]) -> str:
    """Which iterations race for which cell, in words; empty if none do.

    kernel: a function compiled by Numba, or a plain one. arguments: small ones; those at the positions ``written`` are
    arrays that it fills.
    """
    loop = _Loop()
    watched = list(arguments)
    plain = _plain(kernel, loop, {})
    names = plain.__code__.co_varnames
    for position in written:
        watched[position] = loop.watch(np.array(arguments[position]), names[position])
    try:
        with np.errstate(all="ignore"):
            plain(*watched)
    except _Race as found:
        return str(found)
    return ""


def _plain(function: Any, loop: _Loop, made: dict[Any, Any]) -> types.FunctionType:
    """The Python function behind a compiled one, its prange replaced; its compiled helpers likewise."""
    function = getattr(function, "py_func", function)
    if function in made:
        return made[function]
    names = dict(function.__globals__)
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made[function] = copy
    for name in function.__code__.co_names:
        value = names.get(name)
        if name == "prange":
            names[name] = loop.prange
        elif isinstance(value, types.ModuleType) and hasattr(value, "prange"):
            names[name] = types.SimpleNamespace(**vars(value) | {"prange": loop.prange})
        elif value is np:
            names[name] = types.SimpleNamespace(**vars(np) | {m: loop.maker(getattr(np, m)) for m in _MAKERS})
        elif hasattr(value, "py_func"):
            names[name] = _plain(value, loop, made)
    return copy
