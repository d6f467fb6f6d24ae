"""Arrays of the processor ("cpu") and of the GPU ("cuda"): which is which, and the way from one to the other.

An array of the GPU is a device array of numba.cuda. It has shape, dtype, size and ndim like an ndarray and can be
reshaped; its numbers are seen only by kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ArgumentError
from .kernels import gpu

DEVICES = ("cpu", "cuda")
_OF_THE_CPU = (np.ndarray, np.generic)


def is_on_gpu(array: Any) -> bool:
    """Whether this is an array of the GPU; anything that is no NumPy array or number is.

    >>> is_on_gpu(np.zeros(3))
    False
    """
    return not isinstance(array, _OF_THE_CPU)


def to_gpu(array: Any) -> Any:
    """The array on the GPU, C-contiguous: itself if it is there, else a copy."""
    return array if is_on_gpu(array) else gpu.numba_cuda().to_device(np.ascontiguousarray(array).reshape(array.shape))


def to_cpu(array: Any) -> np.ndarray:
    """The array as a NumPy array: itself if it is one, else a copy."""
    return array.copy_to_host() if is_on_gpu(array) else np.asarray(array)


def to(array: Any, device: str) -> Any:
    """The array on "cpu" or "cuda"; ArgumentError for another device, BackendError where there is no GPU."""
    if device not in DEVICES:
        raise ArgumentError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cpu":
        return to_cpu(array)
    gpu.require_gpu()
    return to_gpu(array)


def copy(array: Any) -> Any:
    """A copy beside the array."""
    if not is_on_gpu(array):
        return np.array(array)
    twin = gpu.empty(array.shape, array.dtype)
    twin.copy_to_device(array)
    return twin


def full_like(array: Any, value: float) -> Any:
    """An array beside this one, of its shape and dtype, with one value everywhere."""
    filled = np.full(array.shape, value, array.dtype)
    return to_gpu(filled) if is_on_gpu(array) else filled


def assign(array: Any, values: Any) -> None:
    """array[...] = values, wherever each of them is."""
    if is_on_gpu(array):
        array.copy_to_device(to_gpu(values) if is_on_gpu(values) else np.ascontiguousarray(values, array.dtype))
    else:
        array[...] = to_cpu(values)


def is_writable(array: Any) -> bool:
    """Whether the array may be changed in place; an array of the GPU always may."""
    return is_on_gpu(array) or bool(array.flags.writeable)


def share_memory(a: Any, b: Any) -> bool:
    """Whether a change of one array may be seen in the other."""
    if is_on_gpu(a) and is_on_gpu(b):
        return _address(a) == _address(b)
    return not is_on_gpu(a) and not is_on_gpu(b) and np.may_share_memory(a, b)


def _address(array: Any) -> int:
    """Where a device array begins; reshaping keeps it, and no operator hands out a later part of an array."""
    if gpu.is_simulated():
        return int(array._ary.ctypes.data)
    return int(array.device_ctypes_pointer.value or 0)
