"""A pool of GPU memory: blocks are used again, so that a training step allocates none.

The same idea as in cpu/memory.py, and a better reason for it: the driver takes some hundred microseconds to allocate
memory and, to free it, waits until the GPU has finished all its work. A step makes hundreds of arrays, and the same
ones in each step. So a block whose last array is gone goes into the pool, and the next array of about its size gets it.

The array may be gone before the GPU has even begun the kernels that use it: launches and copies only queue work.
Handing its block out again is safe all the same, because all kernels and copies are in one stream (``gpu.stream``),
which does its work in the order it was queued: what the next owner queues comes after all that the last one did. Code
that works in another stream must wait for this one before it touches a new array, and this one must wait for it before
the array is released (data/prefetch.py does both).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..cpu.memory import rounded
from ..errors import DeviceMemoryError
from .array import GpuArray

_OUT_OF_MEMORY = 2  # the driver's error code (CUDA_ERROR_OUT_OF_MEMORY)
_ALIGN = 256  # where the driver's allocations begin, at least


@dataclass(frozen=True)
class MemoryUse:
    """The GPU's memory that arrays take.

    allocations: how often the driver was asked for a block so far. held: bytes of all blocks, used or not. cached:
    bytes of those that no array uses now.
    """

    allocations: int
    held: int
    cached: int


class Memory(Protocol):
    """Where a pool gets its blocks."""

    def allocate(self, size: int) -> Any:
        """A new block of bytes, freed with its last reference."""

    def address(self, block: Any) -> int:
        """Where it begins."""

    def array(self, lease: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A device array that begins at an address of a block and keeps the block's lease."""

    def view(self, owner: Any) -> Any:
        """A device array where ``owner.__cuda_array_interface__`` says, C-contiguous, which keeps the owner alive."""


class GpuMemory:
    """A GPU's, by numba.cuda."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def allocate(self, size: int) -> Any:
        """From the driver. It frees a block only when nothing that runs can need it any more."""
        return self._cuda.device_array(size, np.uint8)

    def address(self, block: Any) -> int:
        """On the GPU."""
        return int(block.__cuda_array_interface__["data"][0])

    def array(self, lease: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> GpuArray:
        """One of ours, made without a question to numba.cuda or the driver."""
        return GpuArray(lease, address, shape, dtype)

    def view(self, owner: Any) -> GpuArray:
        """Waits first for the stream that the owner names, if it names one."""
        seen = self._cuda.as_cuda_array(owner)
        return GpuArray(seen, self.address(seen), tuple(seen.shape), seen.dtype)


class SimulatedMemory:
    """The processor's, as Numba's simulator takes it."""

    def allocate(self, size: int) -> np.ndarray:
        """From NumPy, as well aligned as on a GPU."""
        memory = np.empty(size + _ALIGN, np.uint8)
        start = -memory.ctypes.data % _ALIGN
        return memory[start : start + size]

    def address(self, block: np.ndarray) -> int:
        """On the processor."""
        return block.ctypes.data

    def array(self, lease: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """The simulator's kind of array."""
        return self.view(GpuArray(lease, address, shape, dtype))

    def view(self, owner: Any) -> Any:
        """The simulator's kind of array."""
        from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

        return FakeCUDAArray(host_view(owner))


class _AsHostMemory:
    """What NumPy asks for of an object that has a ``__cuda_array_interface__``; keeps the object alive."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.__array_interface__ = owner.__cuda_array_interface__


def host_view(owner: Any) -> np.ndarray:
    """A NumPy array where ``owner.__cuda_array_interface__`` says, which keeps the owner alive.

    If that is the GPU's memory, nobody may read its elements, but NumPy knows about shapes and strides.
    """
    return np.asarray(_AsHostMemory(owner))


class _Lease:
    """The use of one block while arrays look at it: they keep it alive, and with the last of them it ends.

    It holds the block's address and not the block. What an object holds may die before its ``__del__`` runs: where a
    cycle is collected, Python first calls the weak references into it, and such a call is how numba.cuda frees a block.
    """

    __slots__ = ("_address", "_pool")

    def __init__(self, pool: Pool, address: int) -> None:
        self._pool, self._address = pool, address

    def __del__(self) -> None:
        self._pool.take_back(self._address)


class Pool:
    """Blocks of memory, and arrays made in them.

    No size of it is stated beforehand: the pool holds what the arrays of a step need at once, for each size. It is
    emptied by ``empty_cache``, and when there is no memory left for a new block.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._free: dict[int, list[tuple[int, Any]]] = {}  # addresses and blocks, by size; no lock, as in cpu/memory.py
        self._used: dict[int, tuple[int, Any]] = {}  # sizes and blocks, by address
        self._allocations = self._held = 0

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised C-contiguous array; DeviceMemoryError where no memory is left for it."""
        dtype = np.dtype(dtype)
        shape = tuple(map(int, shape))  # the simulator has a kind of tuple, and NumPy of integers, of its own
        size = rounded(max(1, math.prod(shape) * dtype.itemsize))
        address, block = self._unused(size) or self._new_block(size, shape, dtype)
        self._used[address] = size, block
        return self.memory.array(_Lease(self, address), address, shape, dtype)

    def lends(self, address: int) -> bool:
        """Whether arrays lie in its block that begins there."""
        return address in self._used

    def take_back(self, address: int) -> None:
        """The last array of the block that begins there is gone."""
        size, block = self._used.pop(address)
        self._free.setdefault(size, []).append((address, block))

    def _unused(self, size: int) -> tuple[int, Any] | None:
        """A block that no array uses, and where it begins; or None."""
        try:
            return self._free[size].pop()
        except (KeyError, IndexError):
            return None

    def _new_block(self, size: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, Any]:
        block = self._attempt(size)
        if block is None:
            self.empty_cache()
            block = self._attempt(size)
        if block is None:
            raise DeviceMemoryError(
                f"the GPU has no memory for an array of shape {shape}, {dtype}: {size:,} bytes were asked for, "
                f"{self._held:,} are in use by other arrays, and none are kept unused. A smaller batch needs less"
            )
        self._allocations += 1
        self._held += size
        return self.memory.address(block), block

    def _attempt(self, size: int) -> Any:
        """A new block, or None where no memory is left for it."""
        try:
            return self.memory.allocate(size)
        except Exception as error:  # numba.cuda's error lies in a place of its own in each of its kinds
            if isinstance(error, MemoryError) or getattr(error, "code", None) == _OUT_OF_MEMORY:
                return None
            raise

    def empty_cache(self) -> None:
        """Give every unused block back to the driver."""
        self._held -= self._cached()
        self._free.clear()

    def use(self) -> MemoryUse:
        """The counts, now."""
        return MemoryUse(self._allocations, self._held, self._cached())

    def _cached(self) -> int:
        return sum(size * len(blocks) for size, blocks in list(self._free.items()))
