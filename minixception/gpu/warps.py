"""The rules of barriers and shuffles: which threads of a block may go on, and what the lanes of a warp exchange.

gpu/scheduler.py runs one thread at a time, until it waits or ends; when all of them wait, it asks ``release`` who may
go on. A warp is 32 consecutive threads of a block, counted with x fastest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import KernelError

WARP = 32
ALL_LANES = 0xFFFFFFFF


@dataclass(eq=False)
class Waiter:
    """A thread of a block: what it waits for, and in a shuffle what it gives and takes."""

    number: int  # its index in the block, x fastest
    waits: str = ""  # for its "block" or its "warp", or "ended"; empty: it can go on
    line: int = 0  # of the source, where it waits
    mask: int = 0  # the lanes of its warp that it waits for, a bit for each
    offer: Any = None  # the value it gives in a shuffle; None at a barrier
    source: int = 0  # the lane whose value it takes
    taken: Any = None

    @property
    def warp(self) -> int:
        """The index of its warp in the block."""
        return self.number // WARP

    @property
    def lane(self) -> int:
        """Its index in the warp."""
        return self.number % WARP


T = TypeVar("T", bound=Waiter)


def release(threads: Sequence[T]) -> list[T]:
    """Let those go on whose barrier is complete, when all threads of a block wait or have ended; who they are.

    The lanes that a mask names go on together, once all of them wait at one line with this mask. The block goes on when
    all that have not ended wait for it at one line. KernelError if nobody can go on, saying who waits for whom.
    """
    waiting = [t for t in threads if t.waits != "ended"]
    groups: dict[tuple[int, int, int], list[T]] = {}
    for t in waiting:
        if t.waits == "warp":
            groups.setdefault((t.warp, t.line, t.mask), []).append(t)
    complete = [lanes for (_, _, mask), lanes in groups.items() if sum(1 << t.lane for t in lanes) == mask]
    for lanes in complete:
        _shuffle(lanes)
    released = [t for lanes in complete for t in lanes]
    if not released:
        for t in waiting:
            if t.waits == "warp":
                raise KernelError(f"thread {t.number} waits for its warp at line {t.line}, {_missing(t, threads)}")
            if t.line != waiting[0].line:
                raise KernelError(
                    f"thread {waiting[0].number} waits for its block at line {waiting[0].line}, and thread {t.number} "
                    f"at line {t.line}"
                )
        released = waiting
    for t in released:
        t.waits = ""
    return released


def _missing(t: Waiter, threads: Sequence[Waiter]) -> str:
    """Who is not where a thread waits for its warp."""
    for lane in (lane for lane in range(WARP) if t.mask >> lane & 1):
        number = t.warp * WARP + lane
        if number >= len(threads):
            return f"and its mask {t.mask:#x} names lane {lane}, which the block does not have"
        other = threads[number]
        if other.waits == "ended":
            return f"and its mask {t.mask:#x} names thread {number}, which has ended"
        if (other.waits, other.line, other.mask) != (t.waits, t.line, t.mask):
            mask = f" with the mask {other.mask:#x}" if other.waits == "warp" else ""
            return (
                f"and its mask {t.mask:#x} names thread {number}, which waits for its {other.waits} at line "
                f"{other.line}{mask}"
            )
    raise AssertionError("all are there")


def _shuffle(lanes: Sequence[Waiter]) -> None:
    """Give each lane the value it takes, in the type that a compiler gives to all of them."""
    offers = {t.lane: t.offer for t in lanes if t.offer is not None}
    if not offers:
        return
    dtype = np.result_type(*offers.values()).type
    for t in lanes:
        if t.source not in offers:
            raise KernelError(
                f"thread {t.number} takes the value of lane {t.source}, which takes no part in the shuffle"
            )
        t.taken = dtype(offers[t.source])
