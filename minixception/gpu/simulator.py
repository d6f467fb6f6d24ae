"""Numba's simulator on our scheduler of threads.

The simulator starts a Python thread for each thread of a block, lets all run at once, and asks again and again who
waits at the barrier: with hundreds of threads most of the time goes into asking. And threads that may be interrupted
anywhere meet in it: it puts its own module in the place of ``cuda`` whenever a helper is called and the real one back
afterwards, and makes a shared array when the first thread asks for it. Here each thread runs until its barrier or its
end, then the next: the order is the same in every run. ``cuda`` is looked up anew at each use.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import KernelError
from .scheduler import Scheduler, ThreadNames, this_thread


def _context() -> Any:
    """The simulator's module for the kernel that is running: it knows which thread asks."""
    from numba.cuda.simulator.kernel import _get_kernel_context

    return _get_kernel_context()


class _Shared:
    """``cuda.shared``."""

    def array(self, shape: Any, dtype: Any) -> np.ndarray:
        """The shared array that is made in this line of the kernel: one for all threads of a block."""
        caller = sys._getframe(1)
        line = caller.f_code, caller.f_lineno
        arrays: dict[Any, np.ndarray] = _context().shared._allocations
        if line not in arrays:
            arrays[line] = np.empty(shape, dtype)
        return arrays[line]


class SimulatedCuda(ThreadNames):
    """``cuda``: shared arrays and what threads do together are made here, the rest is the simulator's own."""

    shared = _Shared()

    def __getattr__(self, name: str) -> Any:
        return getattr(_context(), name)


def take_turns() -> None:
    """Let the threads of the simulator's blocks take turns, on our scheduler."""
    from numba.cuda.simulator import kernel

    class Block(kernel.BlockManager):
        """A block whose threads go on one after the other."""

        def run(self, place: tuple[int, int, int], *arguments: Any) -> None:
            def thread() -> None:
                try:
                    self._f(*arguments)
                except Exception as error:  # with the place of the thread, in the simulator's own words
                    at = this_thread().threadIdx
                    where = f"tid={[at.x, at.y, at.z]} ctaid={list(place)}"
                    raise type(error)(f"{where}: {error}" if str(error) else where) from error

            try:
                with Scheduler(thread, self._block_dim) as block:
                    block.run_block(SimpleNamespace(**dict(zip("xyz", place, strict=True))))
            except KernelError as error:
                raise KernelError(f"{self._f.__qualname__}, block {tuple(place)}: {error}") from error

    kernel.BlockManager = Block
