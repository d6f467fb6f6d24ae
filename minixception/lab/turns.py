"""Runs the threads of CUDA blocks one after the other, in an order that is always the same.

Each thread of a block is a Python thread, of which one at a time has the turn: it runs until it waits for the others
(``syncthreads``, ``syncwarp``, a shuffle) or ends. When all wait, they go on.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import KernelError

WARP = 32
ALL_LANES = 0xFFFFFFFF


@dataclass(eq=False)
class CudaThread:
    """One thread of the block that runs."""

    number: int  # in its block, x fastest
    place: SimpleNamespace  # threadIdx
    turn: threading.Lock = field(default_factory=threading.Lock)  # held by others while it has not the turn
    waits: str = ""  # for its "block" or its "warp", or "ended"; empty: it can go on
    line: int = 0  # of the source, where it waits
    mask: int = 0  # which lanes of its warp it waits for
    offer: Any = None  # in a shuffle, what other lanes may take
    take: Callable[[Sequence[CudaThread]], Any] | None = None  # in a shuffle, what it takes, given all lanes
    taken: Any = None
    phase: int = 0  # barriers of its block that it has passed
    warp_phase: int = 0  # barriers of its warp
    ordinals: dict[Any, int] = field(default_factory=dict)  # how often it has executed each instruction
    log: list[tuple[int, ...]] = field(default_factory=list)

    @property
    def warp(self) -> int:
        """The warp's number in the block."""
        return self.number // WARP

    @property
    def lane(self) -> int:
        """The thread's number in its warp."""
        return self.number % WARP

    def start_block(self) -> None:
        """Forget the block before."""
        self.waits, self.phase, self.warp_phase, self.ordinals, self.log = "", 0, 0, {}, []


class _Over(BaseException):
    """Unwinds a Python thread whose block will not go on."""


class Turns:
    """The threads of one launch: ``with`` starts their Python threads and ends them; ``run_block`` runs a block."""

    def __init__(self, function: Callable[[], None], extent: tuple[int, int, int]) -> None:
        self.threads = [CudaThread(i, place) for i, place in enumerate(places(extent))]
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
        while alive := [t for t in self.threads if t.waits != "ended"]:
            self._queue = iter([t for t in alive if not t.waits])
            self._pass_on()
            self._back.acquire()
            if self._failure is not None:
                raise self._failure
            self._go_on([t for t in alive if t.waits != "ended"])

    def _pass_on(self) -> None:
        """Give the turn to the next thread that can go on, or back to the launching one."""
        if (thread := next(self._queue, None)) is None:
            self._back.release()
        else:
            self.now = thread
            thread.turn.release()

    def wait(self, what: str, mask: int = ALL_LANES, offer: Any = None, take: Any = None) -> Any:
        """Called in a kernel by way of one function: pass the turn on until the others are there."""
        thread = self.now
        thread.waits, thread.mask, thread.offer, thread.take = what, int(mask), offer, take
        thread.line = sys._getframe(2).f_lineno
        self._pass_on()
        thread.turn.acquire()
        if self._over:
            raise _Over
        return thread.taken

    def _go_on(self, waiting: list[CudaThread]) -> None:
        warps: dict[int, list[CudaThread]] = {}
        for t in waiting:
            warps.setdefault(t.warp, []).append(t)
        if not any([_release_warp(lanes) for lanes in warps.values()]):
            _release_block(waiting)


def _release_warp(lanes: list[CudaThread]) -> bool:
    """Let those go on that wait for their warp; whether there are any."""
    ready = [t for t in lanes if t.waits == "warp"]
    for t in ready:
        for other in lanes:
            if t.mask >> other.lane & 1 and other.waits != "warp":
                raise KernelError(
                    f"thread {t.number} waits for its warp at line {t.line}, and thread {other.number} for its block "
                    f"at line {other.line}"
                )
    for t in ready:
        t.taken = t.take(lanes) if t.take is not None else None
    for t in ready:
        t.waits = ""
        t.warp_phase += t.take is None  # a shuffle orders no accesses to memory
    return bool(ready)


def _release_block(waiting: list[CudaThread]) -> None:
    """Let all go on. A barrier on another line is another barrier; threads that have ended are not waited for."""
    for t in waiting:
        if t.line != waiting[0].line:
            raise KernelError(
                f"thread {waiting[0].number} waits for its block at line {waiting[0].line}, and thread {t.number} at "
                f"line {t.line}"
            )
        t.waits = ""
        t.phase += 1


def places(extent: tuple[int, int, int]) -> Iterator[SimpleNamespace]:
    """All places of a grid or a block, x fastest.

    >>> [(place.x, place.y) for place in places((2, 2, 1))]
    [(0, 0), (1, 0), (0, 1), (1, 1)]
    """
    x, y, _ = extent
    for number in range(math.prod(extent)):
        yield SimpleNamespace(x=number % x, y=number // x % y, z=number // (x * y))
