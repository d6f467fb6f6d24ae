"""Runs the threads of a CUDA block on the processor, one at a time, in an order that is the same in every run.

Numba's simulator (gpu/simulator.py) and the recorder of ``mx.lab`` (analysis/recorder.py) both run kernels on it. A
thread runs until it ends or waits for the others (``syncthreads``, ``syncwarp``, a shuffle), and then passes the turn
on; when all of them wait, ``warps.release`` decides who goes on. One Python thread runs them in turn; one that waits
keeps its Python thread, and another goes on with the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import numpy as np

from ..errors import KernelError
from .warps import ALL_LANES, WARP, Waiter, release

_SHUFFLED = ("int32", "uint32", "int64", "uint64", "float32", "float64")  # the dtypes that numba.cuda can shuffle


class _Over(BaseException):
    """Unwinds a thread whose block will not go on."""


class CudaThread(Waiter):
    """One thread of the block that runs.

    phase, warp_phase: how many barriers of its block and of its warp it has passed.
    """

    def __init__(self, scheduler: Scheduler, number: int, place: SimpleNamespace) -> None:
        super().__init__(number)
        self.threadIdx, self.blockIdx = place, SimpleNamespace()
        self.phase = self.warp_phase = 0
        self.parked: threading.Lock | None = None  # what its Python thread sleeps on while it waits
        self._scheduler = scheduler

    def start_block(self, place: SimpleNamespace) -> None:
        """Forget the block before."""
        self.blockIdx, self.waits, self.phase, self.warp_phase = place, "", 0, 0

    def wait(self, what: str, line: int, mask: int = 0, offer: Any = None, source: int = 0) -> Any:
        """Called in a kernel: pass the turn on until those are there that the thread waits for; what it takes."""
        self.waits, self.line, self.mask, self.offer, self.source = what, line, mask, offer, source
        self.parked = _this_carrier().turn
        self._scheduler.pass_on()
        self.parked.acquire()
        self.parked = None
        self._scheduler.refuse_if_over()
        self.phase += what == "block"
        self.warp_phase += what == "warp" and offer is None  # a shuffle orders no accesses to memory
        return self.taken


class _Carrier(threading.Thread):
    """A Python thread that runs threads of a block one after the other, until one of them has to wait.

    Starting a Python thread takes longer than most threads of a block do. So there are only as many as threads wait at
    the same time, and they are kept for the next block.
    """

    idle: ClassVar[list[_Carrier]] = []

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.turn = threading.Lock()  # held by others while it is not this Python thread's turn
        self.turn.acquire()
        self.scheduler: Scheduler | None = None
        self.thread: CudaThread | None = None  # which it runs
        self.start()

    def run(self) -> None:
        """Whenever it has the turn: threads that have not begun."""
        while True:
            self.turn.acquire()
            next_turn = self._run_threads()
            self.idle.append(self)
            next_turn.release()

    def _run_threads(self) -> threading.Lock:
        """Run one after the other; whose turn it is after that."""
        scheduler = self.scheduler
        assert scheduler is not None
        next_turn = scheduler.back
        with contextlib.suppress(_Over):
            while (thread := scheduler.next_thread()) is not None:
                if thread.parked is not None:  # it has begun, in another Python thread
                    next_turn = thread.parked
                    break
                self.thread = thread
                scheduler.run_thread()
                thread.waits = "ended"
        self.scheduler = self.thread = None  # and with them the kernel's arrays
        return next_turn

    @property
    def threadIdx(self) -> SimpleNamespace:
        """Asked for by Numba's simulator."""
        return this_thread().threadIdx

    @property
    def blockIdx(self) -> SimpleNamespace:
        """Asked for by Numba's simulator."""
        return this_thread().blockIdx


class Scheduler:
    """The threads of one launch; on leaving ``with``, those end that a mistake left waiting."""

    def __init__(self, function: Callable[[], None], extent: tuple[int, int, int]) -> None:
        self.threads = [CudaThread(self, number, place) for number, place in enumerate(places(extent))]
        self.back = threading.Lock()  # held by others while the launching thread waits
        self._function = function
        self._queue: Iterator[CudaThread] = iter(())  # whose turn it is next
        self._failure: BaseException | None = None
        self._over = False

    def __enter__(self) -> Scheduler:
        self.back.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread in self.threads:
            if thread.parked is not None:
                thread.parked.release()
                self.back.acquire()
        self.threads.clear()  # they know the scheduler and it them: the kernel's arrays would stay

    def run_block(self, place: SimpleNamespace) -> None:
        """All threads from their start to their end; raises what one of them raises."""
        for thread in self.threads:
            thread.start_block(place)
        released = list(self.threads)
        while released:
            self._queue = iter(released)
            self.pass_on()
            self.back.acquire()
            if self._failure is not None:
                raise self._failure
            released = release(self.threads)

    def next_thread(self) -> CudaThread | None:
        """Whose turn it is next; None: that of the launching thread."""
        return next(self._queue, None)

    def pass_on(self) -> None:
        """Let the next thread go on while this one waits: in its Python thread, or in a free one if it has none."""
        thread = self.next_thread()
        if thread is None:
            self.back.release()
        elif thread.parked is not None:
            thread.parked.release()
        else:
            self._queue = itertools.chain((thread,), self._queue)
            carrier = _Carrier.idle.pop() if _Carrier.idle else _Carrier()
            carrier.scheduler = self
            carrier.turn.release()

    def run_thread(self) -> None:
        """The kernel for the thread whose turn it is."""
        try:
            self._function()
        except _Over:
            raise
        except BaseException as error:  # raised where the kernel was launched
            self._failure, self._queue = error, iter(())

    def refuse_if_over(self) -> None:
        """End the thread that asks, if its block will not go on."""
        if self._over:
            raise _Over


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
    return cast(CudaThread, _this_carrier().thread)


def _this_carrier() -> _Carrier:
    return cast(_Carrier, threading.current_thread())


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
        this_thread().wait("block", sys._getframe(1).f_lineno)

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
