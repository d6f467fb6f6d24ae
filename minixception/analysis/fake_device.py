"""Stand-ins for a GPU, to which ``gpu.redirected`` sends all that an operator asks of one.

New arrays, copies and launches: so the arguments of every kernel can be learnt, and every access of its threads be
watched, without a GPU.
"""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np

from ..gpu import kernel as gpu


class HostArray:
    """An array of a stand-in for a GPU: used like a device array, its elements are ``data`` (C-contiguous)."""

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


class Machine(Protocol):
    """A stand-in for a GPU: numba.cuda as far as operators use it outside of kernels, and what a launch does."""

    def device_array(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A new array."""

    def to_device(self, array: np.ndarray) -> Any:
        """A copy."""

    def launch(self, kernel: gpu.Kernel, grid: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        """Do what ``kernel[grid](*arguments)`` means."""


def dim3(extent: Any) -> tuple[int, int, int]:
    """The x, y and z of a grid or a block.

    >>> dim3(4), dim3((2, 3))
    ((4, 1, 1), (2, 3, 1))
    """
    x, y, z = (*np.atleast_1d(extent).tolist(), 1, 1)[:3]
    return x, y, z
