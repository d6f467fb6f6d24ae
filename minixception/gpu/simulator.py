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

from ..errors import KernelError
from .warps import Waiter, WarpNames, release


def _context() -> Any:
    """The simulator's module for the kernel that is running: it knows which thread asks."""
    from numba.cuda.simulator.kernel import _get_kernel_context

    return _get_kernel_context()


def _this_thread() -> Any:
    """Whose turn it is."""
    return threading.current_thread()


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


class SimulatedCuda(WarpNames):
    """``cuda``: shared arrays and what lanes of a warp do together are made here, the rest is the simulator's own."""

    shared = _Shared()

    @property
    def laneid(self) -> int:
        """The number of the thread in its warp."""
        return _this_thread().lane

    def wait_for_warp(self, line: int, mask: int, offer: Any, source: int) -> Any:
        """Wait for lanes of the warp."""
        return _this_thread().wait("warp", line, mask, offer, source)

    def __getattr__(self, name: str) -> Any:
        return getattr(_context(), name)


def take_turns() -> None:
    """Let the simulator's threads take turns."""
    from numba.cuda.simulator import kernel

    class Thread(kernel.BlockThread, Waiter):
        """A thread that runs when it is its turn."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            Waiter.__init__(self, self.thread_id)
            self.turn = threading.Lock()  # held by others while it has not the turn
            self.turn.acquire()

        def run(self) -> None:
            super().run()
            self.waits = "ended"
            self._manager.back.release()

        def wait(self, what: str, line: int, mask: int = 0, offer: Any = None, source: int = 0) -> Any:
            self.waits, self.line, self.mask, self.offer, self.source = what, line, mask, offer, source
            self._manager.back.release()
            self.turn.acquire()
            if self.abort:
                raise RuntimeError("another thread of the block has failed")
            return self.taken

        def syncthreads(self) -> None:
            self.wait("block", sys._getframe(2).f_lineno)  # called by the kernel by way of the simulator

    class Block(kernel.BlockManager):
        """A block whose threads go on one after the other."""

        def run(self, place: Any, *arguments: Any) -> None:
            self.back = threading.Lock()  # held by others until the turn comes back
            self.back.acquire()
            threads = [
                Thread(lambda: self._f(*arguments), self, place, number[::-1], self._debug)
                for number in np.ndindex(*self._block_dim[::-1])
            ]
            try:
                for thread in threads:
                    thread.start()
                    self._until_back(thread)
                while released := release(threads):
                    for thread in released:
                        thread.turn.release()
                        self._until_back(thread)
            except KernelError as error:
                raise KernelError(f"{self._f.__qualname__}, block {tuple(place)}: {error}") from error
            finally:  # after an error: end those that wait
                for thread in threads:
                    if thread.waits in ("block", "warp"):
                        thread.abort = True
                        thread.turn.release()
                        self.back.acquire()

        def _until_back(self, thread: Thread) -> None:
            self.back.acquire()
            if thread.exception:
                error, trace = thread.exception
                raise error.with_traceback(trace)

    kernel.BlockManager = Block
