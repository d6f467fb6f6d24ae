"""Buffers that are used again.

A training step makes the same few hundred arrays every time. Left to the C library, each large one is fetched
from the operating system and given back: every page is zeroed and faulted in anew, which can cost more than
the arithmetic on it. ``empty()`` hands out memory from a pool instead; when the last array that looks at a
block is gone, the block returns to the pool by itself (reference counting sees to it, there is nothing to free).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_ALIGN = 64  # one cache line, and the widest vector register
_SMALL = 1 << 14  # below 16 KiB the C library's own free lists are as good

# Rounded size in bytes -> raw blocks nobody uses. No lock: appending and popping are atomic, and a lock taken in
# __del__ could be one that the same thread already holds.
_free: dict[int, list[np.ndarray]] = {}


class _Block:
    """Owner of one raw buffer while arrays look at it; NumPy keeps it alive as the arrays' base."""

    __slots__ = ("__array_interface__", "_raw", "_size")

    def __init__(self, raw: np.ndarray, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._raw = raw
        self._size = size
        self.__array_interface__ = {
            "version": 3,
            "data": (-(-raw.ctypes.data // _ALIGN) * _ALIGN, False),
            "shape": shape,
            "typestr": dtype.str,
        }

    def __del__(self) -> None:
        _free.setdefault(self._size, []).append(self._raw)


def rounded(nbytes: int) -> int:
    """Up to the next eighth of a power of two: at most 12.5 % waste, and near sizes share blocks.

    >>> rounded(1_000_000)
    1048576
    """
    step = max(_ALIGN, 1 << max(nbytes.bit_length() - 4, 0))
    return -(-nbytes // step) * step


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised C-contiguous array, 64-byte aligned if it is large, from the pool where possible.

    >>> empty((2, 3), "float32").shape
    (2, 3)
    """
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < _SMALL:
        return np.empty(shape, dtype)
    size = rounded(nbytes)
    try:
        raw = _free[size].pop()
    except (KeyError, IndexError):
        raw = np.empty(size + _ALIGN, np.uint8)
    return np.asarray(_Block(raw, size, shape, dtype))


def carve(sizes: Sequence[int], dtype: Any) -> list[np.ndarray]:
    """Flat arrays of these lengths, one behind the other in one block, each from a cache line on.

    Address translation counts too: with the usual pages of 4 KiB a processor remembers where some megabytes lie, and
    must look the rest up again and again. From 4 MB on NumPy asks Linux for pages of 2 MiB, so what is used
    together is better taken together.

    >>> [part.shape for part in carve([3, 5], "float32")]
    [(3,), (5,)]
    """
    line = _ALIGN // np.dtype(dtype).itemsize
    starts = [0, *itertools.accumulate(-(-size // line) * line for size in sizes)]
    block = empty((max(starts[-1], _SMALL // np.dtype(dtype).itemsize),), dtype)  # small ones need not be aligned
    return [block[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def cached_bytes() -> int:
    """Bytes that lie in the pool unused."""
    return sum(size * len(blocks) for size, blocks in list(_free.items()))


def release() -> None:
    """Give every unused block back to the operating system."""
    _free.clear()
