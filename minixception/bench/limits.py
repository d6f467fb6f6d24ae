"""The machine's limits, measured: how many FLOP a second its registers allow, how many bytes a second its memory.

An operator that needs ``flop`` operations and must move ``nbytes`` bytes cannot be faster than the slower of the two
(Williams, Waterman and Patterson 2009, the roofline model). Limits belong to one run on one machine: measure them
beside what is compared with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..cpu.gemm import ROWS, VECTORS, panel_width
from ..cpu.jit import parallel, prange
from ..cpu.simd import add, fma, lanes, load, load_tile, splat, store, store_tile
from ..timing import Clock, wall_clock
from .threads import numba_threads

FOOTPRINTS = tuple(1 << power for power in range(23, 30))  # bytes of both arrays of a copy: 8 MiB, in L3, to 512 MiB

_STEPS = 1_000_000  # multiply-adds of each register: some milliseconds
_CALLS, _SECONDS = 15, 0.15  # at least that many, and for at least that long, to meet a moment without interruption


@dataclass(frozen=True)
class Limits:
    """What ``threads`` threads can do at most, in FLOP/s (an FMA counts two) and bytes/s (read + written).

    ``copies`` are the rates of copying an array, by the bytes of source and target together: smaller ones stay in the
    caches. ``read``, ``copy`` and ``triad`` (a = b + s * c) are for arrays far larger than the caches.
    """

    threads: int
    dtype: str
    fma_flops: float
    read: float
    copy: float
    triad: float
    copies: dict[int, float]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Limits:
        """Limits as a result file has them: JSON has made the footprints text."""
        return cls(**{**values, "copies": {int(footprint): rate for footprint, rate in values["copies"].items()}})

    def bandwidth(self, nbytes: int) -> float:
        """Bytes/s of a copy that touches ``nbytes``: between measured footprints interpolated, on a log scale."""
        footprints = sorted(self.copies)
        rates = [self.copies[footprint] for footprint in footprints]
        return float(np.interp(math.log(max(nbytes, 1)), np.log(footprints), rates))

    def seconds(self, flop: int, nbytes: int) -> float:
        """The least time for ``flop`` operations on ``nbytes`` bytes, each moved once."""
        return max(flop / self.fma_flops, nbytes / self.bandwidth(nbytes))


def measure(threads: int, dtype: Any = np.float32, footprints: tuple[int, ...] = FOOTPRINTS) -> Limits:
    """Peak FMA and memory bandwidth of ``threads`` threads; takes seconds, and 1.5 times the largest footprint.

    Raises ValueError for more threads than Numba has.

    >>> limits = measure(1, footprints=(1 << 16,))
    >>> limits.seconds(10**9, 0) == 1e9 / limits.fma_flops
    True
    """
    dtype = np.dtype(dtype)
    with numba_threads(threads):
        copies = {footprint: _copy_rate(footprint // 2, dtype) for footprint in footprints}
        largest = max(footprints)
        return Limits(
            threads=threads,
            dtype=dtype.name,
            fma_flops=_fma_rate(threads, dtype),
            read=_read_rate(threads, largest // 2, dtype),
            copy=copies[largest],
            triad=_triad_rate(largest // 2, dtype),
            copies=copies,
        )


# Arithmetic -----------------------------------------------------------------------------------------------------------


@parallel
def _fma(starts, factor, term, out, steps):
    """``steps`` times, in each of the tile's registers: sum = sum * factor + term. Each task stores its tile in out.

    A fused multiply-add takes about 4 cycles, and 2 can start in each: a single sum would wait for itself. No two
    registers start alike, so that the compiler cannot make one of them.
    """
    for task in prange(len(out)):
        factors, terms = splat(out, factor), splat(out, term)
        sums = load_tile(starts, (0, 0), ROWS, VECTORS)
        for _ in range(steps):
            sums = fma(sums, factors, terms)
        store_tile(out[task], (0, 0), sums)


def _fma_rate(threads: int, dtype: np.dtype[Any]) -> float:
    width = panel_width(dtype)
    starts = np.arange(3, 3 + ROWS * width, dtype=dtype).reshape(ROWS, width)  # 2 would stand still: 2 / 2 + 1
    out = np.empty((threads, ROWS, width), dtype)
    seconds = fastest(lambda: _fma(starts, dtype.type(0.5), dtype.type(1), out, _STEPS))
    return 2 * threads * _STEPS * starts.size / seconds


# Memory ---------------------------------------------------------------------------------------------------------------


@parallel
def _copy(x, y):
    for i in prange(x.size):
        y[i] = x[i]


@parallel
def _triad(b, c, a):
    for i in prange(b.size):
        a[i] = b[i] + b.dtype.type(3) * c[i]


@parallel
def _read(x, out, tasks, lanes):
    """The sum of the whole steps of four vectors in each task's part of x; four sums, so that loads do not wait."""
    for task in prange(tasks):
        first, last = task * x.size // tasks, (task + 1) * x.size // tasks
        s0 = s1 = s2 = s3 = splat(x, x.dtype.type(0))
        for i in range(first, last - 4 * lanes + 1, 4 * lanes):
            s0, s1 = add(s0, load(x, i, lanes)), add(s1, load(x, i + lanes, lanes))
            s2, s3 = add(s2, load(x, i + 2 * lanes, lanes)), add(s3, load(x, i + 3 * lanes, lanes))
        store(out, task * lanes, add(add(s0, s1), add(s2, s3)), lanes)


def _copy_rate(nbytes: int, dtype: np.dtype[Any]) -> float:
    x, y = _arrays(2, nbytes, dtype)
    return (x.nbytes + y.nbytes) / fastest(lambda: _copy(x, y))


def _triad_rate(nbytes: int, dtype: np.dtype[Any]) -> float:
    b, c, a = _arrays(3, nbytes, dtype)
    return (a.nbytes + b.nbytes + c.nbytes) / fastest(lambda: _triad(b, c, a))


def _read_rate(threads: int, nbytes: int, dtype: np.dtype[Any]) -> float:
    width = lanes(dtype.type)
    (x,), out = _arrays(1, nbytes, dtype), np.empty(threads * width, dtype)
    return x.nbytes / fastest(lambda: _read(x, out, threads, width))


def _arrays(count: int, nbytes: int, dtype: np.dtype[Any]) -> list[np.ndarray]:
    """Arrays that have been written to: untouched pages would all be the same page of zeros."""
    return [np.ones(nbytes // dtype.itemsize, dtype) for _ in range(count)]


def fastest(function: Callable[[], Any], clock: Clock = wall_clock) -> float:
    """Seconds of the fastest of several calls, after one that may compile: a limit is what is possible."""
    function()
    best, total, calls = math.inf, 0.0, 0
    while calls < _CALLS or total < _SECONDS:
        seconds = clock(function)
        best, total, calls = min(best, seconds), total + seconds, calls + 1
    return best
