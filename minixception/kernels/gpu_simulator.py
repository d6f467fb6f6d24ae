"""Numba's simulator, with its threads taking turns.

The simulator starts a Python thread for each thread of a block, lets all run at once, and asks again and again who
waits at the barrier: with hundreds of threads most of the time goes into asking. And threads that may be interrupted
anywhere meet in it: it puts its own module in the place of ``cuda`` whenever a helper is called and the real one back
afterwards, and makes a shared array when the first thread asks for it. Here each thread runs until its barrier or its
end, then the next: the order is the same in every run. ``cuda`` is looked up anew at each use.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np


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


class SimulatedCuda:
    """``cuda``: everything but shared arrays is the simulator's own."""

    shared = _Shared()

    def __getattr__(self, name: str) -> Any:
        return getattr(_context(), name)


def take_turns() -> None:
    """Let the simulator's threads take turns."""
    from numba.cuda.simulator import kernel

    class Thread(kernel.BlockThread):
        """A thread that runs when it is its turn."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.turn = threading.Semaphore(0)
            self.waits = False

        def run(self) -> None:
            super().run()
            self._manager.back.release()

        def syncthreads(self) -> None:
            self.waits = True
            self._manager.back.release()
            self.turn.acquire()
            self.waits = False
            if self.abort:
                raise RuntimeError("another thread of the block has failed")

    class Block(kernel.BlockManager):
        """A block whose threads go on one after the other."""

        def run(self, place: Any, *arguments: Any) -> None:
            self.back = threading.Semaphore(0)  # the turn comes back
            alive = [
                Thread(lambda: self._f(*arguments), self, place, number, self._debug)
                for number in np.ndindex(*self._block_dim)
            ]
            for thread in alive:
                thread.start()
                self._until_back(thread, alive)
            while alive := [thread for thread in alive if thread.waits]:
                for thread in alive:
                    thread.turn.release()
                    self._until_back(thread, alive)

        def _until_back(self, thread: Thread, alive: list[Thread]) -> None:
            self.back.acquire()
            if thread.exception:
                for other in alive:
                    other.abort = True
                    other.turn.release()
                error, trace = thread.exception
                raise error.with_traceback(trace)

    kernel.BlockManager = Block
