"""Runs the threads of CUDA blocks one after the other, in an order that is always the same.

Each thread of a block is a Python thread, of which one at a time has the turn: it runs until it waits for the others
(``syncthreads``, ``syncwarp``, a shuffle) or ends. When all wait, they go on.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..gpu.warps import Waiter, release


@dataclass(eq=False)
class CudaThread(Waiter):
    """One thread of the block that runs."""

    place: SimpleNamespace = field(default_factory=SimpleNamespace)  # threadIdx
    turn: threading.Lock = field(default_factory=threading.Lock)  # held by others while it has not the turn
    phase: int = 0  # barriers of its block that it has passed
    warp_phase: int = 0  # barriers of its warp
    ordinals: dict[Any, int] = field(default_factory=dict)  # how often it has executed each instruction
    log: list[tuple[int, ...]] = field(default_factory=list)

    def start_block(self) -> None:
        """Forget the block before."""
        self.waits, self.phase, self.warp_phase, self.ordinals, self.log = "", 0, 0, {}, []


class _Over(BaseException):
    """Unwinds a Python thread whose block will not go on."""


class Turns:
    """The threads of one launch: ``with`` starts their Python threads and ends them; ``run_block`` runs a block."""

    def __init__(self, function: Callable[[], None], extent: tuple[int, int, int]) -> None:
        self.threads = [CudaThread(i, place=place) for i, place in enumerate(places(extent))]
        self.now = self.threads[0]  # whose turn it is
        self._function = function
        self._queue: Iterator[CudaThread] = iter(())  # who has it next
        self._back = threading.Lock()  # held by others while the launching thread waits
        self._failure: BaseException | None = None
        self._over = False

    def __enter__(self) -> Turns:
        self._back.acquire()
        self._workers = [threading.Thread(target=self._work, args=(t,), daemon=True) for t in self.threads]
        for thread, worker in zip(self.threads, self._workers, strict=True):
            thread.turn.acquire()
            worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        for thread, worker in zip(self.threads, self._workers, strict=True):
            thread.turn.release()
            worker.join()

    def _work(self, thread: CudaThread) -> None:
        """What a Python thread does: its CUDA thread in each block."""
        with np.errstate(all="ignore"):  # NaN and Inf are numbers like others on a GPU
            while True:
                thread.turn.acquire()
                if self._over:
                    return
                try:
                    self._function()
                except _Over:
                    return
                except BaseException as error:  # raised where the kernel was launched
                    self._failure, self._queue = error, iter(())
                thread.waits = "ended"
                self._pass_on()

    def run_block(self) -> None:
        """All threads from their start to their end."""
        for thread in self.threads:
            thread.start_block()
        released = list(self.threads)
        while released:
            self._queue = iter(released)
            self._pass_on()
            self._back.acquire()
            if self._failure is not None:
                raise self._failure
            released = release(self.threads)

    def _pass_on(self) -> None:
        """Give the turn to the next thread that can go on, or back to the launching one."""
        if (thread := next(self._queue, None)) is None:
            self._back.release()
        else:
            self.now = thread
            thread.turn.release()

    def wait(self, what: str, line: int, mask: int = 0, offer: Any = None, source: int = 0) -> Any:
        """Called in a kernel: pass the turn on until those are there that the thread waits for; what it takes."""
        thread = self.now
        thread.waits, thread.line, thread.mask, thread.offer, thread.source = what, line, mask, offer, source
        self._pass_on()
        thread.turn.acquire()
        if self._over:
            raise _Over
        thread.phase += what == "block"
        thread.warp_phase += what == "warp" and offer is None  # a shuffle orders no accesses to memory
        return thread.taken


def places(extent: tuple[int, int, int]) -> Iterator[SimpleNamespace]:
    """All places of a grid or a block, x fastest.

    >>> [(place.x, place.y) for place in places((2, 2, 1))]
    [(0, 0), (1, 0), (0, 1), (1, 1)]
    """
    x, y, _ = extent
    for number in range(math.prod(extent)):
        yield SimpleNamespace(x=number % x, y=number // x % y, z=number // (x * y))
