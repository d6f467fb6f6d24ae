"""A launch on a GPU: what the processor does so that a kernel runs.

A training step of Xception is some 900 launches. numba.cuda takes 15 to 100 microseconds for one: it asks for the type
of each argument, looks for the kernel that was compiled for these types, and makes an object of each number that the
kernel takes. The GPU may be done sooner, and then waits. Here nothing is asked twice: an array knows what kind of
argument it is and which numbers stand for it (array.py), and the same kinds get the same compiled kernel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any

from .array import GpuArray

Grid = tuple[Any, Any]  # blocks, threads of a block: integers or tuples of up to three


class Launcher:
    """Launches one kernel; compile(arguments) is asked for the driver's kernel once for each kind of arguments."""

    def __init__(self, compile: Callable[[Sequence[Any]], Any]) -> None:
        self._compile = compile
        self._compiled: dict[Any, Any] = {}

    def __call__(self, grid: Grid, stream: Any, arguments: Sequence[Any]) -> None:
        """Queue it on arrays of the GPU, scalars and tuples of integers."""
        kinds: list[Any] = []
        words: list[Any] = []
        for argument in arguments:
            if type(argument) is GpuArray:
                kinds.append(argument.kind)
                words += argument.words
            elif type(argument) is tuple:
                kinds.append(tuple(map(type, argument)))
                words += argument
            else:
                kinds.append(type(argument))
                words.append(argument)
        compiled = self._compiled.get(key := tuple(kinds))
        if compiled is None:
            compiled = self._compiled[key] = self._compile(arguments)
        _launch()(core_stream(stream), _extent(*grid), compiled, *words)


@lru_cache(maxsize=1 << 14)
def _extent(blocks: Any, threads: Any) -> Any:
    from cuda.core import LaunchConfig

    return LaunchConfig(grid=blocks, block=threads)


@cache
def core_stream(stream: Any) -> Any:
    """A stream of numba.cuda's as the library that launches knows it."""
    from cuda.core import Stream

    return Stream.from_handle(int(stream))


_of_thread = threading.local()


def _launch() -> Any:
    """The function that launches, in a thread for which the GPU's context is current."""
    try:
        return _of_thread.launch
    except AttributeError:
        from cuda.core import launch
        from numba import cuda

        cuda.current_context()  # makes it current
        _of_thread.launch = launch
        return launch
