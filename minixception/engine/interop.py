"""Arrays of other libraries without a copy, by two agreements: DLPack and ``__cuda_array_interface__``.

``__cuda_array_interface__`` (CuPy, PyTorch, Numba) is a dictionary: address, shape, strides, type. DLPack (NumPy, JAX
and most others as well) wraps a struct in a capsule. From its header dlpack.h:

    struct DLManagedTensor { DLTensor dl_tensor; void *manager_ctx; void (*deleter)(DLManagedTensor *); };
    struct DLTensor { void *data; struct { int32_t type, id; } device; int32_t ndim; ... };

Whoever takes the struct renames the capsule from "dltensor" to "used_dltensor", and calls the deleter once, when the
memory is no longer needed; a capsule that nobody took does so itself. NumPy has all this for the processor's memory, in
C, where it belongs: a deleter may be called by any thread and while an error is on its way. A capsule of the GPU's
memory differs in the device alone. So NumPy makes and takes ours: of an array that lies at the GPU's address, which
nobody asks for its elements, with the other device written into the struct.

Both sides then work on one memory, each in its own stream. Our arrays are handed over when all that was asked for
is done. From then on the caller sees to it that neither side reads what the other has yet to write, and that the other
side is done with an array before it drops it, for our next array may get its memory. Where the other side works in the
default stream, that is so by itself: that stream and ours (``gpu.kernel.stream``) wait for each other.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ..errors import ArgumentError, BackendError, DTypeError, InteropError
from ..gpu import device
from ..gpu import kernel as gpu
from ..gpu.memory import host_view
from ..gpu.vectors import VECTOR_BYTES
from .tensor import FOREIGN_ARRAYS, Tensor, check_dtype

_CPU, _CUDA = (1, 0), 2  # DLPack's (type, id) and type
_READABLE = (1, 3, 13)  # what the processor can read: its own memory, pinned memory, memory that moves by itself


def from_dlpack(x: Any) -> Tensor:
    """A leaf on the memory of another library's array, which has ``__dlpack__``: a change of one is seen in the other.

    Nothing is copied: x must be C-contiguous (row-major, no gaps). ``mx.tensor`` copies what is not, on the processor.
    It may be read-only, then so is the tensor's array. On the GPU it must begin at a multiple of 16 bytes.

    Raises ArgumentError for an x without ``__dlpack__``, InteropError for one that lies otherwise or that its own
    library does not share, DTypeError for other dtypes than float32, float64 and integers, BackendError for memory of
    another device.

    >>> x = np.zeros(3)
    >>> t = from_dlpack(x)
    >>> x[0] = 5
    >>> t.numpy()
    array([5., 0., 0.])
    """
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise ArgumentError(f"from_dlpack takes an array with __dlpack__, got {type(x).__name__}")
    kind, index = map(int, x.__dlpack_device__())
    if kind in _READABLE:
        return _leaf(_taken(x))
    if kind != _CUDA:
        raise BackendError(f"from_dlpack takes arrays of the processor or an NVIDIA GPU, got DLPack's device {kind}")
    if hasattr(x, "__cuda_array_interface__"):
        return from_cuda_array(x)
    _require_real_gpu()
    ours = gpu.numba_cuda().get_current_device().id
    if index != ours:
        raise BackendError(f"from_dlpack takes arrays of the GPU in use, number {ours}, got one of number {index}")
    return from_cuda_array(_FromCapsule(x.__dlpack__(stream=int(gpu.stream()))))


def from_cuda_array(x: Any, dtype: Any = None, requires_grad: bool = False) -> Tensor:
    """A leaf on the GPU's memory that ``x.__cuda_array_interface__`` describes, without a copy; see ``from_dlpack``.

    Waits for the stream that x names, if it names one. DTypeError for another ``dtype`` than its own.
    """
    _require_real_gpu()
    seen = _leaf(host_view(x), requires_grad)  # shape, strides, dtype and address are checked on it
    if seen.data.ctypes.data % VECTOR_BYTES:
        raise InteropError(
            f"memory of the GPU is shared only if it begins at a multiple of {VECTOR_BYTES} bytes, for kernels load "
            f"so many at once; this begins {seen.data.ctypes.data % VECTOR_BYTES} bytes after one: make a copy first"
        )
    if dtype is not None and seen.dtype != dtype:
        raise DTypeError(f"an array on the GPU is shared, not converted: it holds {seen.dtype}, asked for {dtype}")
    return Tensor(gpu.pool().memory.view(x), requires_grad)


def _taken(x: Any) -> np.ndarray:
    """A NumPy array on what x's capsule holds."""
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError) as error:  # NumPy's, for types it does not have, and the other library's own
        raise InteropError(f"the array cannot be shared: {error}") from error


def _leaf(array: np.ndarray, requires_grad: bool = False) -> Tensor:
    check_dtype(array.dtype, requires_grad)
    if not array.flags.c_contiguous:
        raise InteropError(
            f"memory is shared only if it is C-contiguous, got shape {array.shape} with strides of {array.strides} "
            "bytes: make a contiguous copy first"
        )
    return Tensor(array, requires_grad)


def _require_real_gpu() -> None:
    gpu.require_gpu()
    if gpu.is_simulated():
        raise BackendError("the array is in a GPU's memory, which the simulator cannot reach: copy it to the processor")


# What a tensor says to other libraries: methods of ``Tensor``, which itself knows of none of this --------------------


def _cuda_array_interface(self: Tensor) -> dict[str, Any]:
    """For libraries that use the GPU's memory in place; AttributeError on the processor and in the simulator.

    It names our stream, for which they wait. The tape does not see what they write.
    """
    array: Any = self.data
    if not device.is_on_gpu(array):
        raise AttributeError("a tensor on the cpu has no __cuda_array_interface__")
    return {**array.__cuda_array_interface__, "stream": int(gpu.stream())}


def _dlpack_device(self: Tensor) -> tuple[int, int]:
    """DLPack's (type, id) of the device: (1, 0) is the processor, also for the simulator, (2, id) a GPU."""
    if device.is_on_gpu(self.data) and not gpu.is_simulated():
        return _CUDA, gpu.numba_cuda().get_current_device().id
    return _CPU


def _dlpack(
    self: Tensor, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
) -> Any:
    """A DLPack capsule of the memory, for ``from_dlpack`` of other libraries.

    Shared, not copied, unless copy=True: the tape does not see what others write. On the GPU it returns when the
    values are there, or at once with stream=-1. Raises InteropError for another device than the tensor's.

    >>> import minixception as mx
    >>> np.from_dlpack(mx.tensor([1.0, 2.0]))
    array([1., 2.], dtype=float32)
    """
    array: Any = self.data
    here = _dlpack_device(self)
    if here != _CPU:
        return _gpu_capsule(array, here, stream, dl_device, copy)
    options = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
    options = {name: value for name, value in options.items() if value is not None}  # NumPy 2.0 has only the first
    return (array._ary if device.is_on_gpu(array) else array).__dlpack__(**options)


for _name, _method in (
    ("__cuda_array_interface__", property(_cuda_array_interface)),
    ("__dlpack_device__", _dlpack_device),
    ("__dlpack__", _dlpack),
):
    setattr(Tensor, _name, _method)
FOREIGN_ARRAYS["__cuda_array_interface__"] = from_cuda_array


def _gpu_capsule(array: Any, here: tuple[int, int], stream: Any, dl_device: Any, copy: bool | None) -> Any:
    if dl_device is not None and tuple(dl_device) != here:
        raise InteropError(
            f"the tensor is on DLPack's device {here}, asked for on {dl_device}: move it with .to() first"
        )
    array = device.copy(array) if copy else array
    if stream != -1:  # the caller takes care of the order
        gpu.synchronize()
    capsule = host_view(array).__dlpack__()
    struct = _struct(capsule)
    struct.device_type, struct.device_id = here
    return capsule


class _Struct(ctypes.Structure):
    """The beginning of a DLManagedTensor."""

    _fields_ = (("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32))


# A prototype of our own: what ctypes.pythonapi hands out is shared by all who use it.
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _struct(capsule: Any) -> _Struct:
    """What a capsule that nobody has taken holds."""
    return _Struct.from_address(_pointer(capsule, b"dltensor"))


class _FromCapsule:
    """Owner of what a capsule of the GPU's memory holds, which it gives back with its own end."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule
        struct = _struct(capsule)
        theirs = struct.device_type, struct.device_id
        struct.device_type, struct.device_id = _CPU
        try:
            self._array = _taken(self)
        finally:
            struct.device_type, struct.device_id = theirs  # their deleter may ask
        self.__cuda_array_interface__ = self._array.__array_interface__

    def __dlpack__(self, **options: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU
