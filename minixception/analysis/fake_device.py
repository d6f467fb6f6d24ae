"""Fake GPU devices, to which ``gpu.redirected`` sends all that an operator asks of a GPU.

New arrays, copies and launches: so the arguments of every kernel can be learnt, and every access of its threads be
watched, without a GPU.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np


class HostArray:
    """An array of a fake device: used like a device array, its elements are ``data`` (C-contiguous)."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.shape, self.dtype, self.ndim, self.size = data.shape, data.dtype, data.ndim, data.size

    def reshape(self, *shape: Any) -> Self:
        """The same elements in another shape."""
        return type(self)(self.data.reshape(*shape))

    def copy_to_host(self, stream: Any = 0) -> np.ndarray:
        """A copy of the elements."""
        return self.data.copy()

    def copy_to_device(self, source: Any, stream: Any = 0) -> None:
        """Overwrite the elements."""
        self.data[...] = source.data if isinstance(source, HostArray) else source


def dim3(extent: Any) -> tuple[int, int, int]:
    """The x, y and z of a grid or a block.

    >>> dim3(4), dim3((2, 3))
    ((4, 1, 1), (2, 3, 1))
    """
    x, y, z = (*np.atleast_1d(extent).tolist(), 1, 1)[:3]
    return x, y, z
