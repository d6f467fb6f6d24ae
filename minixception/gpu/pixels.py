"""A thread per element of an image: how the blocks of a GPU are laid over an array (n, h, w, c).

A block is 4 neighbouring pixels of one row and 32 channels of each. The 32 threads of a warp have one pixel and 32
neighbouring channels, so that whatever pixel they read, they read whole lines of memory ("coalesced"). Where windows
overlap, the 4 pixels of a block find in the cache what their neighbours have read. All that a thread has to divide is
its row's index, once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .kernel import blocks, cuda, device_function

PIXELS, CHANNELS = 4, 32


def pixel_grid(shape: tuple[int, ...]) -> tuple[tuple[int, int, int], tuple[int, int]]:
    """Blocks and threads for an array (n, h, w, c); the rows of all images are the first dimension, the only long one.

    >>> pixel_grid((2, 10, 10, 70))
    ((20, 3, 3), (32, 4))
    """
    n, h, w, c = shape
    return (n * h, blocks(w, PIXELS), blocks(c, CHANNELS)), (CHANNELS, PIXELS)


@device_function
def this_element(height: int) -> tuple[int, int, int, int]:
    """(image, row, column, channel) of this thread; the last two may lie outside of the array."""
    row = cuda.blockIdx.x
    column = cuda.blockIdx.y * PIXELS + cuda.threadIdx.y
    channel = cuda.blockIdx.z * CHANNELS + cuda.threadIdx.x
    return row // height, row % height, column, channel


@device_function
def element(x: Any, image: int, row: int, column: int, channel: int) -> Any:
    """One element of x (n, h, w, c); no index may be negative.

    Unsigned indices spare the question whether they count from the end, and with it half of a load's instructions.
    """
    return x[np.uint64(image), np.uint64(row), np.uint64(column), np.uint64(channel)]
