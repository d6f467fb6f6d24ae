"""The number of threads our kernels run on, for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numba


@contextmanager
def numba_threads(count: int) -> Iterator[None]:
    """Run kernels on ``count`` threads inside of the block; ValueError if there are fewer.

    >>> with numba_threads(1):
    ...     numba.get_num_threads()
    1
    """
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)
