"""Arrays of a GPU: where they begin, their shape and their dtype; only kernels see their elements.

numba.cuda has an array class of its own, which can do much more: slices, strides, streams. Ours are contiguous, a
training step makes hundreds of them, and each launch looks at several. So a small class holds just what a launch passes
on; numba.cuda's array is made where elements are copied.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

Shape = tuple[int, ...]


class GpuArray:
    """C-contiguous memory of the GPU.

    words: what a compiled kernel takes for an array, 8 bytes each, in Numba's order: two pointers that a GPU has no use
    for, elements, bytes of one, address, shape, strides in bytes. kind: what a kernel is compiled for, the dtype's
    letter and the number of dimensions.
    """

    __slots__ = ("__weakref__", "dtype", "kind", "ndim", "owner", "shape", "size", "words")

    def __init__(self, owner: Any, address: int, shape: Shape, dtype: np.dtype[Any]) -> None:
        self.owner = owner  # what keeps the memory: a lease of the pool's, or another library's array
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self.size, self.kind, extents = _layout(shape, dtype)
        self.words = (0, 0, self.size, dtype.itemsize, address, *extents)

    @property
    def address(self) -> int:
        """Where its elements begin."""
        return int(self.words[4])

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without dimensions has no length")
        return self.shape[0]

    def reshape(self, *shape: Any) -> GpuArray:
        """The same elements in another shape: a tuple or integers, one of which may be -1. ValueError as of NumPy."""
        wanted: Shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        if -1 in wanted or math.prod(wanted) != self.size:
            wanted = np.broadcast_to(0, self.shape).reshape(wanted).shape
        return GpuArray(self.owner, self.address, wanted, self.dtype)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For numba.cuda and other libraries."""
        place = {"data": (self.address, False), "shape": self.shape, "strides": None}
        return {"version": 3, "typestr": self.dtype.str, **place}

    def copy_to_host(self, stream: Any) -> np.ndarray:
        """A copy, complete once the stream has done it."""
        here: np.ndarray = _numbas(self).copy_to_host(stream=stream)
        return here

    def copy_to_device(self, source: Any, stream: Any) -> None:
        """Queue a copy of an array of the GPU or the processor, of the same shape and dtype, over the elements."""
        _numbas(self).copy_to_device(_numbas(source) if isinstance(source, GpuArray) else source, stream=stream)


@lru_cache(maxsize=1 << 14)
def _layout(shape: Shape, dtype: np.dtype[Any]) -> tuple[int, str, Shape]:
    """How many elements, the kind, and the shape with the strides in bytes behind it."""
    strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return math.prod(shape), f"{dtype.char}{len(shape)}", (*shape, *strides)


def _numbas(array: GpuArray) -> Any:
    """numba.cuda's array on the same memory."""
    from numba import cuda

    return cuda.as_cuda_array(array)
