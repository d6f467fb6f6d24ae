"""Arrays of the CPU and of the GPU: which is which, and copies from one to the other.

An array of the GPU has shape, dtype, size and ndim like an ndarray and can be reshaped; only kernels see its elements.
It is ours (array.py), or in the simulator Numba's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..errors import ArgumentError
from . import kernel as gpu
from .array import GpuArray
from .kernel import THREADS, blocks, cuda, flat, kernel
from .memory import MemoryUse

DEVICES = ("cpu", "cuda")
_CPU_TYPES = (np.ndarray, np.generic)


def is_on_gpu(array: Any) -> bool:
    """Whether this is an array of the GPU; anything that is no NumPy array or scalar is.

    >>> is_on_gpu(np.zeros(3))
    False
    """
    return not isinstance(array, _CPU_TYPES)


def device_of(array: Any) -> str:
    """The device that an array is on, "cpu" or "cuda".

    >>> device_of(np.zeros(3))
    'cpu'
    """
    return "cuda" if is_on_gpu(array) else "cpu"


def to_gpu(array: Any) -> Any:
    """The array on the GPU, C-contiguous: itself if it is there, else a copy."""
    if is_on_gpu(array):
        return array
    there = gpu.empty(array.shape, array.dtype)
    _upload(there, array)
    return there


def _upload(there: Any, array: Any) -> None:
    """Overwrite an array of the GPU; waits, since the copy may read ``array`` at any time until it is done."""
    gpu.require_running("copy an array from the processor")
    flat = np.ascontiguousarray(array).reshape(-1)
    _queue_copy(there, flat.reshape(array.shape))  # numba.cuda trips over the strides that x[None] has
    gpu.synchronize()


def _queue_copy(there: Any, array: Any) -> None:
    if array.size:  # an empty array's strides may be anything, which numba.cuda takes for a mistake
        gpu.queue(partial(_copy, gpu.stream()), (there, array))


def _copy(stream: Any, arrays: Sequence[Any]) -> None:
    there, array = arrays
    there.copy_to_device(array, stream=stream)


def to_cpu(array: Any) -> np.ndarray:
    """The array as a NumPy array: itself if it is one, else a copy, made after all queued work of the GPU."""
    if not is_on_gpu(array):
        return np.asarray(array)
    gpu.require_running("read an array of the GPU")
    here = array.copy_to_host(stream=gpu.stream())
    gpu.synchronize()
    return here


def require_device(device: str) -> None:
    """ArgumentError unless this is "cpu" or "cuda", BackendError for "cuda" where there is no GPU."""
    if device not in DEVICES:
        raise ArgumentError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda":
        gpu.require_gpu()


def to(array: Any, device: str) -> Any:
    """The array on "cpu" or "cuda"; errors of ``require_device``."""
    require_device(device)
    return to_cpu(array) if device == "cpu" else to_gpu(array)


def copy(array: Any) -> Any:
    """A copy on the same device."""
    if not is_on_gpu(array):
        return np.array(array)
    duplicate = gpu.empty(array.shape, array.dtype)
    _queue_copy(duplicate, array)
    return duplicate


def full_like(array: Any, value: float) -> Any:
    """An array of the same device, shape and dtype, with one value everywhere."""
    if not is_on_gpu(array):
        return np.full(array.shape, value, array.dtype)
    filled = gpu.empty(array.shape, array.dtype)
    fill(filled, value)
    return filled


def fill(array: Any, value: float) -> None:
    """Write one value to all elements of an array of the GPU: it travels with the launch, and nothing waits for it."""
    if array.size:
        _fill[blocks(array.size), THREADS](array.dtype.type(value), flat(array))


@kernel
def _fill(value, array):
    i = cuda.grid(1)
    if i < array.size:
        array[i] = value


def assign(array: Any, values: Any) -> None:
    """array[...] = values, wherever each of them is."""
    if not is_on_gpu(array):
        array[...] = to_cpu(values)
    elif is_on_gpu(values):
        _queue_copy(array, values)
    else:
        _upload(array, np.asarray(values, array.dtype))


def is_writable(array: Any) -> bool:
    """Whether the array may be changed in place; an array of the GPU always may."""
    return is_on_gpu(array) or bool(array.flags.writeable)


def share_memory(a: Any, b: Any) -> bool:
    """Whether a change of one array may be seen in the other."""
    if is_on_gpu(a) and is_on_gpu(b):
        return address(a) == address(b)
    return not is_on_gpu(a) and not is_on_gpu(b) and np.may_share_memory(a, b)


def address(array: Any) -> int:
    """Where a device array begins; reshaping keeps it, and no operator hands out a later part of an array."""
    return array.address if isinstance(array, GpuArray) else int(array._ary.ctypes.data)


def memory_use() -> MemoryUse:
    """How much of the GPU's memory arrays take, and how often the driver was asked for some: in a step, never.

    >>> memory_use().cached <= memory_use().held
    True
    """
    return gpu.pool().use()


def empty_cache() -> None:
    """Give the GPU's memory that is kept for later arrays back to the driver, for other programs and libraries."""
    gpu.pool().empty_cache()
