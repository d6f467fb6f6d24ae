"""Runs the threads of a CUDA block on the processor, one at a time, in an order that is the same in every run.

Numba's simulator (gpu/simulator.py) and the recorder of ``mx.lab`` (analysis/recorder.py) both run kernels on it. Each
thread of the block is a Python thread. It runs until it waits for the others (``syncthreads``, ``syncwarp``, a shuffle)
or ends, and then passes the turn on; when all of them wait, ``warps.release`` decides who goes on.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from ..errors import KernelError
from .warps import ALL_LANES, WARP, Waiter, release

_SHUFFLED = ("int32", "uint32", "int64", "uint64", "float32", "float64")  # the dtypes that numba.cuda can shuffle


class _Over(BaseException):
    """Unwinds a Python thread whose block will not go on."""


class CudaThread(threading.Thread, Waiter):
    """One thread of the block that runs.

    phase, warp_phase: how many barriers of its block and of its warp it has passed.
    """

    def __init__(self, scheduler: Scheduler, number: int, place: SimpleNamespace) -> None:
        threading.Thread.__init__(self, daemon=True)
        Waiter.__init__(self, number)
        self.threadIdx, self.blockIdx = place, SimpleNamespace()
        self.phase = self.warp_phase = 0
        self.turn = threading.Lock()  # held by others while it is not this thread's turn
        self.turn.acquire()
        self._scheduler = scheduler

    def start_block(self, place: SimpleNamespace) -> None:
        """Forget the block before."""
        self.blockIdx, self.waits, self.phase, self.warp_phase = place, "", 0, 0

    def run(self) -> None:
        """The Python thread: the kernel once in each block."""
        while True:
            self.turn.acquire()
            try:
                self._scheduler.run_thread()
            except _Over:
                return
            self.waits = "ended"
            self._scheduler.pass_on()

    def wait(self, what: str, line: int, mask: int = 0, offer: Any = None, source: int = 0) -> Any:
        """Called in a kernel: pass the turn on until those are there that the thread waits for; what it takes."""
        self.waits, self.line, self.mask, self.offer, self.source = what, line, mask, offer, source
        self._scheduler.pass_on()
        self.turn.acquire()
        self._scheduler.refuse_if_over()
        self.phase += what == "block"
        self.warp_phase += what == "warp" and offer is None  # a shuffle orders no accesses to memory
        return self.taken

    def syncthreads(self) -> None:
        """A barrier that the kernel calls by way of the names it has for numba.cuda."""
        self.wait("block", sys._getframe(2).f_lineno)


class Scheduler:
    """The threads of one launch: ``with`` starts their Python threads and ends them; ``run_block`` runs a block."""

    def __init__(self, function: Callable[[], None], extent: tuple[int, int, int]) -> None:
        self.threads = [CudaThread(self, number, place) for number, place in enumerate(places(extent))]
        self._function = function
        self._queue: Iterator[CudaThread] = iter(())  # whose turn it is next
        self._back = threading.Lock()  # held by others while the launching thread waits
        self._failure: BaseException | None = None
        self._over = False

    def __enter__(self) -> Scheduler:
        self._back.acquire()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread in self.threads:
            thread.turn.release()
            thread.join()

    def run_block(self, place: SimpleNamespace) -> None:
        """All threads from their start to their end; raises what one of them raises."""
        for thread in self.threads:
            thread.start_block(place)
        released = list(self.threads)
        while released:
            self._queue = iter(released)
            self.pass_on()
            self._back.acquire()
            if self._failure is not None:
                raise self._failure
            released = release(self.threads)

    def run_thread(self) -> None:
        """The kernel for the thread whose turn it is."""
        self.refuse_if_over()
        try:
            self._function()
        except _Over:
            raise
        except BaseException as error:  # raised where the kernel was launched
            self._failure, self._queue = error, iter(())

    def refuse_if_over(self) -> None:
        """End the Python thread that asks, if its block will not go on."""
        if self._over:
            raise _Over

    def pass_on(self) -> None:
        """Give the turn to the next thread that can go on, or back to the launching one."""
        thread = next(self._queue, None)
        (self._back if thread is None else thread.turn).release()


def places(extent: tuple[int, int, int]) -> Iterator[SimpleNamespace]:
    """All places of a grid or a block, x fastest.

    >>> [(place.x, place.y) for place in places((2, 2, 1))]
    [(0, 0), (1, 0), (0, 1), (1, 1)]
    """
    x, y, _ = extent
    for i in range(math.prod(extent)):
        yield SimpleNamespace(x=i % x, y=i // x % y, z=i // (x * y))


def this_thread() -> CudaThread:
    """The thread whose turn it is, called in a kernel."""
    return cast(CudaThread, threading.current_thread())


class ThreadNames:
    """The names of numba.cuda by which threads of a block meet.

    Of a warp's functions, each waits for all lanes that ``mask`` names. As on a GPU, distances and lanes count modulo
    32, and a lane that asks beyond the warp's ends keeps its own value.
    """

    @property
    def laneid(self) -> int:
        """The index of the thread in its warp."""
        return this_thread().lane

    def syncthreads(self) -> None:
        """Wait for the block."""
        this_thread().syncthreads()

    def syncwarp(self, mask: int = ALL_LANES) -> None:
        """Wait for lanes of the warp."""
        self._meet(mask)

    def shfl_sync(self, mask: int, value: Any, lane: int) -> Any:
        """The value of one lane."""
        return self._meet(mask, value, lambda me: lane % WARP)

    def shfl_up_sync(self, mask: int, value: Any, delta: int) -> Any:
        """The value of the lane so many below."""
        return self._meet(mask, value, lambda me: me - delta % WARP)

    def shfl_down_sync(self, mask: int, value: Any, delta: int) -> Any:
        """The value of the lane so many above."""
        return self._meet(mask, value, lambda me: me + delta % WARP)

    def shfl_xor_sync(self, mask: int, value: Any, flip: int) -> Any:
        """The value of the lane whose index differs in the bits of ``flip``."""
        return self._meet(mask, value, lambda me: me ^ flip % WARP)

    def _meet(self, mask: int, value: Any = None, source: Callable[[int], int] = int) -> Any:
        line, me = sys._getframe(2).f_lineno, self.laneid
        mask = int(mask) & ALL_LANES
        if not mask >> me & 1:
            raise KernelError(f"lane {me} calls with the mask {mask:#x}, which does not name it")
        offer = None if value is None else np.asarray(value)[()]
        if offer is not None and offer.dtype.name not in _SHUFFLED:
            raise KernelError(f"a shuffle takes one of {', '.join(_SHUFFLED)}, got {offer.dtype.name}")
        wanted = source(me)
        return this_thread().wait("warp", line, mask, offer, wanted if 0 <= wanted < WARP else me)
