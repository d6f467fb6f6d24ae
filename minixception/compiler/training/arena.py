"""Where the arrays of a step lie: those that are needed at different times share memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...cpu import memory
from ...engine.op import Shape

_LINE = 64  # bytes; arrays begin at cache lines


class Slot:
    """A place for an array, needed from moment ``first`` to moment ``last``.

    shape: of an array that ``place`` finds memory for; None where somebody else makes the array, which is forgotten
    after ``last``.
    """

    def __init__(self, shape: Shape | None, now: int) -> None:
        self.shape, self.first, self.last = shape, now, now
        self.array: Any = None


def place(slots: Sequence[Slot], dtype: np.dtype) -> int:
    """Give each slot with a shape its array, all in one block of memory; returns the block's bytes.

    The largest come first, each at the lowest address where none lies that is needed at the same time: how to pack best
    is a hard problem, and this is close to the lower bound, the most that is needed at one moment, for what networks
    look like.

    >>> slots = [Slot((1000,), 0), Slot((1000,), 1), Slot((1000,), 2)]
    >>> slots[0].last = 1  # the first is needed beside the second, and gone when the third comes
    >>> place(slots, np.dtype(np.float32)), np.shares_memory(slots[0].array, slots[2].array)
    (8064, True)
    """
    lines = {slot: -(-math.prod(slot.shape) * dtype.itemsize // _LINE) for slot in slots if slot.shape is not None}
    starts: dict[Slot, int] = {}  # in lines, too
    for slot in sorted(lines, key=lines.__getitem__, reverse=True):
        start = 0
        beside = sorted(
            (begin, begin + lines[other])
            for other, begin in starts.items()
            if other.first <= slot.last and slot.first <= other.last
        )
        for begin, end in beside:
            if start + lines[slot] <= begin:
                break
            start = max(start, end)
        starts[slot] = start
    total = max((start + lines[slot] for slot, start in starts.items()), default=0)
    elements = _LINE // dtype.itemsize
    block = memory.empty((total * elements,), dtype)
    for slot, start in starts.items():
        shape = slot.shape or ()
        slot.array = block[start * elements : start * elements + math.prod(shape)].reshape(shape)
    return total * _LINE
