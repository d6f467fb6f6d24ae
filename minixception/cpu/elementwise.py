"""Loops over the elements of flat arrays, for kernels: chunks of one length, each a task.

    for chunk in prange(chunks(x.size)):
        xs, ys = part(x, chunk), part(y, chunk)
        for i in range(xs.size):
            ys[i] = f(xs[i])

The chunks do not depend on the number of threads, and neither do the vectors and the remainders they are cut into: the
same bits for any number of threads. Each part is an array of its own with an index from 0. An index that Numba cannot
see to be positive is checked for counting from the end, and that check keeps LLVM from computing 16 elements of relu at
once (measured: nine times slower).
"""

from __future__ import annotations

import numpy as np

from . import memory
from .jit import inline, parallel, prange

CHUNK = 1 << 14  # elements of one task: enough to outweigh its start, few enough to share small arrays out


@inline
def chunks(size):
    """How many chunks so many elements make.

    >>> chunks(CHUNK + 1)
    2
    """
    return (size + CHUNK - 1) // CHUNK


@inline
def part(array, chunk):
    """The elements of one chunk of a flat array: a view."""
    return array[chunk * CHUNK : (chunk + 1) * CHUNK]


@parallel
def _add(parts, total):
    for chunk in prange(chunks(total.size)):
        here = part(total, chunk)
        for one in range(len(parts)):
            there = part(parts[one], chunk)
            if one == 0:
                for i in range(here.size):
                    here[i] = there[i]
            else:
                for i in range(here.size):
                    here[i] += there[i]


def added(parts: np.ndarray) -> np.ndarray:
    """The sum over the first axis, one after the other: of what tasks have summed each for itself.

    >>> added(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([4., 6.])
    """
    total = memory.empty(parts.shape[1:], parts.dtype)
    _add(parts.reshape(len(parts), -1), total.reshape(-1))
    return total
