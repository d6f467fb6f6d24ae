"""Memory that is shared with other libraries: by DLPack and by __cuda_array_interface__.

No GPU is needed: its arrays are played by the processor's, which say that they are on a GPU.
"""

from __future__ import annotations

import ctypes
import gc
import operator
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import minixception as mx
from minixception.engine import interop
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, BackendError, DTypeError, InteropError
from minixception.gpu import kernel as gpu

gpu.numba_cuda()  # chooses the simulator, before anything else imports a part of it
GPU = (2, 0)


# The processor --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8"])
def test_numpy_and_a_tensor_share_memory_both_ways(dtype):
    t = mx.tensor(np.arange(6, dtype=dtype).reshape(2, 3))
    array = np.from_dlpack(t)
    np.testing.assert_array_equal(array, t.data)
    assert np.shares_memory(array, t.data)
    assert np.from_dlpack(t).dtype == dtype
    again = mx.from_dlpack(array)
    t.data[1, 2] = 77
    assert again.data[1, 2] == 77
    assert again.shape == (2, 3)
    assert (again.requires_grad, again.node, again.device) == (False, None, "cpu")
    assert t.__dlpack_device__() == (1, 0)


def test_a_copy_is_made_where_it_is_asked_for():
    t = mx.tensor([1.0, 2.0])
    assert not np.shares_memory(np.from_dlpack(t, copy=True), t.data)


def test_memory_outlives_the_tensor_that_shared_it():
    array = np.from_dlpack(mx.tensor(np.arange(5000.0)))
    gc.collect()
    mx.cpu.memory.empty((5000,), "float64").fill(-1)  # would get the block, were it free
    np.testing.assert_array_equal(array, np.arange(5000.0))


def test_tensors_of_the_simulator_are_in_the_processors_memory():
    t = mx.tensor([1.0, 2.0]).to("cuda")
    assert t.__dlpack_device__() == (1, 0)
    np.from_dlpack(t)[0] = 5
    np.testing.assert_array_equal(t.numpy(), [5, 2])
    assert not hasattr(t, "__cuda_array_interface__")  # which would be taken for the GPU's


class Foreign:
    """Another library's array: says where it is, and answers with a capsule."""

    def __init__(self, device=GPU, capsule=None):
        self.device, self.capsule, self.streams = device, capsule, []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return self.capsule


def test_what_cannot_be_shared_is_an_error_that_says_why():
    with pytest.raises(ArgumentError, match="takes an array with __dlpack__, got list"):
        mx.from_dlpack([1.0])
    with pytest.raises(InteropError, match=r"C-contiguous, got shape \(3, 2\) with strides of \(4, 12\) bytes"):
        mx.from_dlpack(np.ones((2, 3), np.float32).T)
    with pytest.raises(DTypeError, match="got float16"):
        mx.from_dlpack(np.ones(2, np.float16))
    with pytest.raises(BackendError, match="processor or an NVIDIA GPU, got DLPack's device 10"):
        mx.from_dlpack(Foreign((10, 0)))
    with pytest.raises(BackendError, match="in a GPU's memory, which the simulator cannot reach"):
        mx.from_dlpack(Foreign())
    with pytest.raises(BackendError, match="in a GPU's memory, which the simulator cannot reach"):
        mx.tensor(GpuArray(np.ones(3)))
    with pytest.raises(AttributeError, match="a tensor on the cpu"):
        operator.attrgetter("__cuda_array_interface__")(mx.tensor([1.0]))


# A GPU ----------------------------------------------------------------------------------------------------------------


class GpuArray:
    """An array that says it is on a GPU; its memory is the processor's."""

    def __init__(self, array, stream=None):
        self.array = array
        self.shape, self.dtype, self.ndim, self.size = array.shape, array.dtype, array.ndim, array.size
        self.__cuda_array_interface__ = {**array.__array_interface__, "stream": stream}


class OnlyInterface(GpuArray):
    """As another library has it, with DLPack as well, which is not asked."""

    def __dlpack_device__(self):
        return GPU

    def __dlpack__(self, **options):
        raise AssertionError


class Stream:
    """Counts how often it is waited for."""

    waits = 0

    def __int__(self):
        return 4711

    def synchronize(self):
        self.waits += 1


@pytest.fixture
def stream(monkeypatch):
    """The package takes this for a machine with a GPU, number 0; its stream."""
    pool, stream = gpu.pool(), Stream()
    cuda = SimpleNamespace(get_current_device=lambda: SimpleNamespace(id=0))
    monkeypatch.setattr(gpu, "is_simulated", lambda: False)
    monkeypatch.setattr(gpu, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "numba_cuda", lambda: cuda)
    monkeypatch.setattr(gpu, "stream", lambda: stream)
    monkeypatch.setattr(gpu, "pool", lambda: pool)
    return stream


get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))


def test_a_capsule_of_the_gpu_names_its_device_and_keeps_its_memory(stream):
    data = GpuArray(np.arange(6, dtype=np.float32).reshape(2, 3))
    t, alive = Tensor(data), weakref.ref(data)
    assert t.__dlpack_device__() == GPU
    capsule = t.__dlpack__()
    assert stream.waits == 1  # the values are there
    assert get_name(capsule) == b"dltensor"
    struct = interop._struct(capsule)
    assert (struct.device_type, struct.device_id) == GPU
    assert struct.data == data.array.ctypes.data
    del t, data
    assert alive() is not None
    del capsule  # nobody took it
    assert alive() is None


def test_a_taken_capsule_is_freed_by_its_taker(stream):
    data = GpuArray(np.arange(6, dtype=np.float32))
    alive = weakref.ref(data)
    capsule = Tensor(data).__dlpack__(stream=-1)
    assert stream.waits == 0  # the taker sees to the order itself
    taken = mx.from_dlpack(Foreign(capsule=capsule))
    assert get_name(capsule) == b"used_dltensor"
    assert np.shares_memory(taken.data._ary, data.array)
    with pytest.raises(ValueError, match="incorrect name"):
        mx.from_dlpack(Foreign(capsule=capsule))
    del data, capsule
    view = taken.data.reshape(3, 2)
    del taken
    gc.collect()
    assert alive() is not None
    del view
    gc.collect()
    assert alive() is None


def test_their_deleter_is_called_once_with_the_struct_they_made(stream):
    numbers = np.arange(4, dtype=np.float32)
    capsule, deleted = _capsule(numbers)
    source = Foreign(capsule=capsule)
    t = mx.from_dlpack(source)
    assert source.streams == [4711]  # their work is to be in order with our stream
    assert t.device == "cuda"
    np.testing.assert_array_equal(t.data._ary, numbers)
    numbers[0] = 9
    assert t.data._ary[0] == 9
    del source
    gc.collect()
    assert deleted == []
    del t, capsule
    gc.collect()
    assert deleted == [GPU]


def test_a_capsule_that_cannot_be_used_stays_theirs(stream):
    capsule, deleted = _capsule(np.ones(3, np.float16))
    with pytest.raises(DTypeError, match="got float16"):
        mx.from_dlpack(Foreign(capsule=capsule))
    gc.collect()
    assert deleted == [GPU]  # it was taken, and given back
    capsule, deleted = _capsule(np.ones(3, np.float32), lanes=4)
    with pytest.raises(InteropError, match=r"cannot be shared: .* dtype"):
        mx.from_dlpack(Foreign(capsule=capsule))
    assert get_name(capsule) == b"dltensor"
    assert deleted == []


def test_memory_of_the_interface_is_shared(stream):
    numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
    for make in (lambda x: mx.tensor(x, requires_grad=True), lambda x: mx.from_dlpack(x)):
        x = OnlyInterface(numbers)
        alive = weakref.ref(x)
        t = make(x)
        assert (t.device, t.shape, t.dtype) == ("cuda", (2, 3), np.float32)
        assert np.shares_memory(t.data._ary, numbers)
        del x
        assert alive() is not None
        del t
        assert alive() is None
    assert mx.tensor(OnlyInterface(numbers), requires_grad=True).requires_grad


def test_a_tensor_of_the_gpu_has_the_interface_with_our_stream(stream):
    t = Tensor(GpuArray(np.zeros(3)))
    interface = t.__cuda_array_interface__
    assert interface["data"] == (t.data.array.ctypes.data, False)
    assert (interface["shape"], interface["typestr"], interface["stream"]) == ((3,), "<f8", 4711)


def test_what_cannot_be_shared_with_a_gpu_is_an_error_that_says_why(stream):
    turned = GpuArray(np.ones((2, 3)).T)
    for take in (mx.tensor, interop.from_cuda_array):
        with pytest.raises(InteropError, match=r"C-contiguous, got shape \(3, 2\)"):
            take(turned)
    aligned = np.zeros(12, np.float32)
    aligned = aligned[-aligned.ctypes.data % 16 // 4 :]  # begins at a multiple of 16 bytes
    with pytest.raises(InteropError, match="begins 4 bytes after one"):
        mx.tensor(GpuArray(aligned[1:4]))
    assert mx.tensor(GpuArray(aligned[4:6])).shape == (2,)
    with pytest.raises(InteropError, match="C-contiguous"):
        mx.from_dlpack(Foreign(capsule=_capsule(np.ones((2, 3)).T)[0]))
    with pytest.raises(DTypeError, match="holds float32, asked for float64"):
        mx.tensor(GpuArray(np.ones(3, np.float32)), dtype="float64")
    with pytest.raises(DTypeError, match="got bool"):
        mx.tensor(GpuArray(np.ones(3, bool)))
    with pytest.raises(DTypeError, match="only floating tensors can require a gradient"):
        mx.tensor(GpuArray(np.ones(3, int)), requires_grad=True)
    with pytest.raises(BackendError, match="of the GPU in use, number 0, got one of number 1"):
        mx.from_dlpack(Foreign((2, 1)))
    t = Tensor(GpuArray(np.zeros(3)))
    with pytest.raises(InteropError, match=r"on DLPack's device \(2, 0\), asked for on \(1, 0\)"):
        t.__dlpack__(dl_device=(1, 0))
    assert get_name(t.__dlpack__(dl_device=GPU, max_version=(1, 0))) == b"dltensor"
    assert issubclass(InteropError, BufferError)  # which DLPack's users expect


def test_a_copy_of_the_gpus_memory(stream, monkeypatch):
    data = GpuArray(np.zeros(3))
    monkeypatch.setattr(interop.device, "copy", lambda array: GpuArray(array.array.copy()))
    capsule = Tensor(data).__dlpack__(copy=True)
    assert interop._struct(capsule).data != data.array.ctypes.data


# dlpack.h in full, for a library that is not NumPy --------------------------------------------------------------------


class _Managed(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    )


def _capsule(array, lanes=1):
    """A capsule of the "GPU" on an array, and the devices that its deleter, whenever it was called, found in it."""
    deleted = []

    def delete(address):
        assert address == ctypes.addressof(managed)
        deleted.append((managed.device_type, managed.device_id))

    sizes = ctypes.c_int64 * array.ndim
    managed = _Managed(
        array.ctypes.data, *GPU, array.ndim, "iuf".index(array.dtype.kind), 8 * array.itemsize, lanes,
        sizes(*array.shape), sizes(*(s // array.itemsize for s in array.strides)), 0, None,
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(delete),
    )  # fmt: skip
    KEPT.append((managed, array))
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi)
    )
    return new(ctypes.addressof(managed), b"dltensor", None), deleted


KEPT: list = []
