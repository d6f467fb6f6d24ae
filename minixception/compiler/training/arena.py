"""Where the arrays of a step lie: those that are needed at different times share memory."""

from __future__ import annotations

import itertools
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
    planned = sorted((slot for slot in slots if slot.shape is not None), key=_bytes_in(dtype), reverse=True)
    starts: dict[Slot, int] = {}
    for slot in planned:
        size, start = _bytes_in(dtype)(slot), 0
        beside = sorted(
            (begin, begin + _bytes_in(dtype)(other))
            for other, begin in starts.items()
            if other.first <= slot.last and slot.first <= other.last
        )
        for begin, end in beside:
            if start + size <= begin:
                break
            start = max(start, end)
        starts[slot] = start
    total = max((start + _bytes_in(dtype)(slot) for slot, start in starts.items()), default=0)
    block = memory.empty((total // dtype.itemsize,), dtype)
    for slot, start in starts.items():
        first = start // dtype.itemsize
        slot.array = block[first : first + math.prod(slot.shape or ())].reshape(slot.shape)
    return total


def _bytes_in(dtype: np.dtype) -> Any:
    return lambda slot: -(-math.prod(slot.shape) * dtype.itemsize // _LINE) * _LINE


def most_at_once(slots: Sequence[Slot], dtype: np.dtype) -> int:
    """Bytes of the slots with a shape at the moment when they are most: no placement can do with less."""
    moments = itertools.chain.from_iterable((slot.first, slot.last) for slot in slots)
    return max(
        (
            sum(_bytes_in(dtype)(slot) for slot in slots if slot.shape is not None and slot.first <= now <= slot.last)
            for now in set(moments)
        ),
        default=0,
    )
