"""Find a race in a ``prange`` kernel: run it as plain Python and note which iteration writes which cell.

A race may give the right result a thousand times. It is found for certain where the kernel runs on arrays that remember
who wrote and who read each of their cells: two iterations of one ``prange`` may not write the same cell, nor may one
read what another writes, before or after. An array made by an iteration is its own: the next one may not use it.

Two things that look like races are none, and are documented by Numba: a reduction, ``total += row`` on a whole array,
of which each thread gets a copy (``total = total + row`` is none: it loses what the other threads add), and buffers
with a row for each thread, found by ``get_thread_id``.

The iterations run one after the other here. So it is enough to keep the first of each kind: whoever comes next and is
another one has found the race.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numba
import numpy as np

_NOBODY = -1
_MARKS = np.dtype([("written", int), ("read", int), ("summed", int)])  # of a cell: the first iteration that has done so
_MAKERS = (
    *("empty", "zeros", "ones", "full", "empty_like", "zeros_like", "ones_like", "full_like"),
    *("array", "asarray", "ascontiguousarray", "copy", "arange", "eye"),
)
_THREADS = 1024  # as if there were so many: each iteration is a thread of its own
_MADE = "an array made outside of the loop"
_REDUCTIONS = (np.add, np.subtract, np.multiply, np.true_divide)


class _Race(Exception):
    """Two iterations use one cell, and one of them writes it."""


class _Loop:
    """The ``prange`` that is running, if any, and its iteration."""

    def __init__(self) -> None:
        self.number = 0  # of the loop: there may be several, one after the other
        self.iteration = _NOBODY
        self.frame: types.FrameType | None = None  # of the function whose loop it is
        self.roots: dict[int, _Watched] = {}  # by the id of what owns their memory, which they keep alive

    @property
    def now(self) -> tuple[int, int] | None:
        """The iteration that runs, unlike any of another loop; None outside."""
        return None if self.iteration == _NOBODY else (self.number, self.iteration)

    def prange(self, *bounds: int) -> Iterator[int]:
        """In the place of Numba's."""
        if self.iteration != _NOBODY:  # inside of another: Numba runs it as a plain loop
            yield from range(*bounds)
            return
        self.number += 1  # the loop before has ended, and everybody waited for it
        self.frame = sys._getframe(1)
        try:
            for self.iteration in range(*bounds):
                yield self.iteration
        finally:
            self.iteration, self.frame = _NOBODY, None

    def thread_id(self) -> int:
        """In the place of Numba's ``get_thread_id``."""
        return max(self.iteration, 0) % _THREADS

    def watch(self, array: np.ndarray, label: str = _MADE) -> _Watched:
        """The array, watched from now on."""
        watched = array.view(_Watched)
        watched.loop, watched.label, watched.born = self, label, self.now
        self.roots.setdefault(id(_owner(array)), watched)
        return watched

    def watched(self, make: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        """np.zeros and its like, whose results are watched."""
        return lambda *arguments, **options: self.watch(make(*arguments, **options))


class _Watched(np.ndarray):
    """An array that knows which iterations wrote and read each of its cells. Views share its marks."""

    loop: _Loop
    label: str
    born: tuple[int, int] | None = None  # the iteration that made this array, or this view
    _marks: np.ndarray | None = None  # of its cells: a view of the marks of the array that owns them
    _marks_of = 0  # the loop that these marks are of

    def __array_finalize__(self, other: Any) -> None:
        if isinstance(other, _Watched) and hasattr(other, "loop"):
            self.loop, self.label, self.born = other.loop, other.label, other.loop.now

    # What is read and written --------------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        got = super().__getitem__(index)
        if not (isinstance(got, _Watched) and got._root() is self._root()):  # else a view: its use will show
            self._read(index)
        return got

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, _Watched):
            value._read(...)
        self._write(index)
        self.view(np.ndarray)[index] = _plain_array(value)

    def copy(self, order: Any = "C") -> Any:
        """A new array of what is read."""
        self._read(...)
        return self._new(super().copy(order))

    def astype(self, dtype: Any, *rest: Any, **options: Any) -> Any:
        """Likewise."""
        self._read(...)
        return self._new(super().astype(dtype, *rest, **options))

    def _new(self, array: Any) -> Any:
        array.label = _MADE
        return array

    def fill(self, value: Any) -> None:
        """All cells are written."""
        self[...] = value

    def dot(self, other: Any, out: Any = None) -> Any:
        """The product, by way of NumPy's function, which is noted."""
        return np.dot(self, other, out)

    @property
    def flat(self) -> Any:
        """All cells in a row."""
        return self.reshape(-1)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        """Arithmetic on whole rows: what it reads and, as in y[i] += 1, writes."""
        if self._is_reduction(ufunc, inputs, out, sys._getframe(1)):
            out[0]._sum()
            inputs = (np.asarray(inputs[0]), *inputs[1:])
        else:
            for array in _watched_in(inputs):
                array._read(...)
            for array in _watched_in(out):
                array._write(...)
        if out:
            options["out"] = tuple(map(_plain_array, out))
        result = getattr(ufunc, method)(*map(_plain_array, inputs), **options)
        return out[0] if out else self._kept(result)

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, options: Any) -> Any:
        """NumPy's other functions: they read their arrays, and write ``out`` or what copyto copies to."""
        result = function(*_each(_plain_array, arguments), **{k: _plain_array(v) for k, v in options.items()})
        used = _watched_in((*arguments, *options.values()))
        out = _watched_in([options.get("out"), *arguments[: function is np.copyto]])
        views = isinstance(result, np.ndarray) and any(np.may_share_memory(result, _plain_array(one)) for one in used)
        for array in used:
            if any(array is one for one in out):
                array._write(...)
            elif not views:  # of a view the use will show
                array._read(...)
        return self._kept(result)

    def _kept(self, result: Any) -> Any:
        """A new array is watched as well: what is made outside of the loop is shared by its iterations."""
        return self.loop.watch(result) if type(result) is np.ndarray and result.ndim else result

    # Marks ---------------------------------------------------------------------------------------------------------

    def _is_reduction(self, ufunc: np.ufunc, inputs: Any, out: Any, frame: types.FrameType) -> bool:
        """Whether this is ``total += row`` in the loop itself, on an array and not a view that the iteration made."""
        return (
            bool(out)
            and isinstance(out[0], _Watched)
            and inputs[0] is out[0]
            and ufunc in _REDUCTIONS
            and frame is self.loop.frame
            and out[0].born != self.loop.now
        )

    def _read(self, index: Any) -> None:
        self._note(index, "reads", "read", after=("written",))

    def _write(self, index: Any) -> None:
        self._note(index, "writes", "written", after=("written", "read"))

    def _sum(self) -> None:
        self._note(..., "adds to", "summed", after=("written", "read"))

    def _note(self, index: Any, does: str, done: str, after: tuple[str, ...]) -> None:
        """Mark what the iteration that runs has done with these cells; _Race if ``after`` another one has done that."""
        now = self.loop.iteration
        if now == _NOBODY:
            return
        root = self._root()
        if root.born and root.born[0] == self.loop.number:
            if root.born[1] != now:
                raise _Race(f"iteration {now} of prange {does} a cell of an array that iteration {root.born[1]} made")
            return
        marks = self._own_marks(root)
        for before in after:
            first = np.atleast_1d(marks[before][index])
            others = first[(first != _NOBODY) & (first != now)]
            if others.size:
                raise _Race(
                    f"iteration {now} of prange {does} a cell of {root.label} that iteration {others[0]} has {before}"
                )
        if done != "summed" and np.any(marks["summed"][index] != _NOBODY):
            raise _Race(f"iteration {now} of prange {does} a cell of {root.label} that is being summed")
        cells = marks[done]
        cells[index] = np.where(cells[index] == _NOBODY, now, cells[index])

    def _root(self) -> _Watched:
        """The watched array that this one is a view of, or itself."""
        owner = _owner(self)
        return owner if isinstance(owner, _Watched) else self.loop.roots.get(id(owner), self)

    def _own_marks(self, root: _Watched) -> np.ndarray:
        """The marks of these cells, which lie among the root's as the cells lie in its memory; new for each loop."""
        if self._marks is not None and self._marks_of == self.loop.number:
            return self._marks
        if self is root:
            marks: np.ndarray = np.full(self.shape, _NOBODY, np.int64).astype(_MARKS)
            marks = np.ndarray(self.shape, _MARKS, marks, strides=_scaled(self, _MARKS.itemsize))
        else:
            of_root = root._own_marks(root)
            offset = (_address(self) - _address(root)) // self.itemsize * _MARKS.itemsize
            strides = _scaled(self, _MARKS.itemsize)
            marks = np.ndarray(self.shape, _MARKS, _buffer(of_root), offset, strides)
        self._marks, self._marks_of = marks, self.loop.number
        return marks


def _owner(array: np.ndarray) -> np.ndarray:
    """The array that owns this one's memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _buffer(marks: np.ndarray) -> Any:
    """What owns the memory of marks."""
    return marks if marks.base is None else marks.base


def _scaled(array: np.ndarray, itemsize: int) -> tuple[int, ...]:
    """The strides of an array whose elements have another size."""
    return tuple(stride // array.itemsize * itemsize for stride in array.strides)


def _plain_array(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, _Watched) else value


def _each(function: Callable[[Any], Any], values: Any) -> list[Any]:
    """The function of each value, and of those in a list or tuple: np.concatenate takes several."""
    return [type(v)(map(function, v)) if type(v) in (list, tuple) else function(v) for v in values]


def _watched_in(values: Any) -> list[_Watched]:
    flat = [v for value in values for v in (value if type(value) in (list, tuple) else (value,))]
    return [value for value in flat if isinstance(value, _Watched)]


def race(kernel: Callable[..., Any], arguments: Sequence[Any], written: Sequence[int]) -> str:
    """Which iterations race for which cell, in words; empty if none do.

    kernel: a function compiled by Numba, or a plain one, perhaps with arguments bound to it. arguments: small ones;
    those at the positions ``written`` are arrays that it fills. Raises NotImplementedError for what does not run as
    plain Python, and whatever the kernel raises.
    """
    kernel, before, options = _unwrapped(kernel)
    loop = _Loop()
    plain = _plain(kernel, loop, {})
    names = plain.__code__.co_varnames[len(before) :]
    watched = [
        loop.watch(np.array(value), names[position] if position < len(names) else "an argument")
        if isinstance(value, np.ndarray)
        else value
        for position, value in enumerate(arguments)
    ]
    try:
        with np.errstate(all="ignore"):
            plain(*before, *watched, **options)
    except _Race as found:
        return str(found)
    return ""


def _unwrapped(kernel: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The function behind partials, methods and objects that can be called, and the arguments bound to it."""
    before: tuple[Any, ...] = ()
    options: dict[str, Any] = {}
    while isinstance(kernel, partial):
        before, options, kernel = (*kernel.args, *before), kernel.keywords | options, kernel.func
    if isinstance(kernel, types.MethodType):
        return kernel.__func__, (kernel.__self__, *before), options
    if isinstance(_source(kernel), types.FunctionType):
        return kernel, before, options
    call = type(kernel).__call__
    if not isinstance(call, types.FunctionType) or call.__module__.startswith("numba."):
        raise NotImplementedError(f"{type(kernel).__name__} does not show its source")
    return call, (kernel, *before), options


def _source(function: Any) -> Any:
    """The Python function behind a compiled one."""
    return getattr(function, "py_func", function)


def _plain(function: Any, loop: _Loop, made: dict[Any, Any]) -> types.FunctionType:
    """The Python function behind a compiled one, its prange replaced; its compiled helpers likewise."""
    function = _source(function)
    if function in made:
        return made[function]
    replaced = {
        id(numba.prange): loop.prange,
        id(numba.get_thread_id): loop.thread_id,
        id(numba.get_num_threads): lambda: _THREADS,
    } | {id(getattr(np, name)): loop.watched(getattr(np, name)) for name in _MAKERS}
    names = dict(function.__globals__)

    def plain(value: Any) -> Any:
        if id(value) in replaced:
            return replaced[id(value)]
        if isinstance(value, types.ModuleType) and value in (np, numba):
            inside = {name: replaced.get(id(one), one) for name, one in vars(value).items()}
            return types.SimpleNamespace(**inside)
        ours = isinstance(value, types.FunctionType) and value.__globals__ is function.__globals__
        return _plain(value, loop, made) if ours or hasattr(value, "py_func") else value

    cells = tuple(map(types.CellType, (cell.cell_contents for cell in function.__closure__ or ())))
    copy = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    made[function] = copy
    for cell in cells:
        cell.cell_contents = plain(cell.cell_contents)
    for name in _names(function.__code__) & names.keys():
        names[name] = plain(names[name])
    return copy


def _names(code: types.CodeType) -> set[str]:
    """The global names that a function uses, and those that functions defined in it use."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))
