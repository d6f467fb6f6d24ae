"""Addition in place, for the gradients that meet at a fork of the network."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cpu.jit import parallel, prange
from ..gpu.kernel import THREADS, blocks, cuda, kernel

_LARGE = 1 << 15  # elements: with fewer, NumPy has finished before the threads have started


def accumulate(total: Any, term: Any) -> None:
    """total += term, by all threads where that pays: the sum runs at the speed of memory, and one core has half of it.

    >>> total = np.ones(3)
    >>> accumulate(total, np.full(3, 2.0))
    >>> total
    array([3., 3., 3.])
    """
    if not isinstance(total, np.ndarray):
        _accumulate_on_gpu[blocks(total.size), THREADS](total.reshape(total.size), term.reshape(term.size))
    elif total.size >= _LARGE and total.flags.c_contiguous and term.flags.c_contiguous:
        _accumulate(total.reshape(-1), term.reshape(-1))
    else:
        total += term


@parallel
def _accumulate(total: np.ndarray, term: np.ndarray) -> None:
    for i in prange(total.size):
        total[i] += term[i]


@kernel
def _accumulate_on_gpu(total: Any, term: Any) -> None:
    i = cuda.grid(1)
    if i < total.size:
        total[i] += term[i]
