"""The GPU's memory and its one stream: what is used again and when, what is not, and in what order work is queued."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import minixception as mx
from minixception.analysis.fake_device import HostArray
from minixception.data.prefetch import prefetched
from minixception.errors import DeviceMemoryError
from minixception.gpu import device
from minixception.gpu import kernel as gpu
from minixception.gpu.array import GpuArray
from minixception.gpu.memory import MemoryUse, Pool, SimulatedMemory, host_view

KIB = 1024
gpu.numba_cuda()  # chooses the simulator, before anything else imports a part of it


class SmallMemory(SimulatedMemory):
    """A GPU with few bytes: ``error`` is raised when they are not enough."""

    def __init__(self, capacity, error=None):
        self.capacity, self.error = capacity, error or MemoryError()
        self.asked = []
        self.pool = Pool(self)

    def allocate(self, size):
        self.asked.append(size)
        if self.pool.use().held + size > self.capacity:
            raise self.error
        return super().allocate(size)


class DriverError(Exception):
    """Like numba.cuda's CudaAPIError."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def _address(array):
    return array._ary.ctypes.data


# The pool -------------------------------------------------------------------------------------------------------------


def test_a_block_is_used_again_once_its_array_is_gone():
    pool = Pool(SimulatedMemory())
    first = pool.empty((10, 100), np.float32)
    address = _address(first)
    assert address % 256 == 0
    other = pool.empty((10, 100), np.float32)
    assert _address(other) != address
    assert pool.use() == MemoryUse(allocations=2, held=8 * KIB, cached=0)
    del first
    assert pool.use() == MemoryUse(allocations=2, held=8 * KIB, cached=4 * KIB)
    again = pool.empty((505,), np.float64)  # near sizes share blocks
    assert _address(again) == address
    assert again.dtype == np.float64
    assert again.shape == (505,)
    assert pool.use() == MemoryUse(allocations=2, held=8 * KIB, cached=0)


@pytest.mark.parametrize(
    "view", [lambda a: a.reshape(6), lambda a: a[1], lambda a: a.reshape(3, 2).reshape(1, 6), lambda a: a.ravel()]
)
def test_a_block_is_not_used_again_while_a_view_is_left(view):
    pool = Pool(SimulatedMemory())
    array = pool.empty((2, 3), np.float32)
    array[:] = 7
    left = view(array)
    del array
    assert pool.use().cached == 0
    pool.empty((2, 3), np.float32)[:] = 0
    assert set(left.copy_to_host().ravel()) == {7}
    del left
    assert pool.use().cached == pool.use().held == 128


def test_arrays_in_use_never_overlap(rng):
    pool = Pool(SimulatedMemory())
    arrays = {}
    for number in range(2000):
        if len(arrays) > 20:
            del arrays[rng.choice(list(arrays))]
        array = pool.empty(tuple(rng.integers(0, 9, rng.integers(0, 4))), rng.choice([np.float32, np.int64]))
        array._ary[...] = number
        arrays[number] = array
    for number, array in arrays.items():
        assert (array._ary == number).all()
    use = pool.use()
    assert use.allocations < 100
    arrays.clear()
    del array
    assert pool.use() == MemoryUse(use.allocations, use.held, cached=use.held)


def test_an_array_of_the_gpu_is_a_place_a_shape_and_a_dtype():
    array = GpuArray("the owner", 512, (2, 3, 4), np.dtype(np.float32))
    assert (len(array), array.size, array.ndim, array.address) == (2, 24, 3, 512)
    assert array.words == (0, 0, 24, 4, 512, 2, 3, 4, 48, 16, 4)
    for shape in ((6, 4), ((6, 4),), (-1, 4), ((6, -1),)):
        view = array.reshape(*shape)
        assert (view.shape, view.address, view.owner) == ((6, 4), 512, "the owner")
    assert array.reshape(24).words == (0, 0, 24, 4, 512, 24, 4)
    assert array.reshape(24).kind != array.kind != GpuArray(None, 512, (2, 3, 4), np.dtype(np.float64)).kind
    for shape in ((5, 5), (-1, 7), (-1, -1)):
        with pytest.raises(ValueError, match=r"reshape|unknown"):
            array.reshape(shape)
    with pytest.raises(TypeError, match="no length"):
        len(GpuArray(None, 512, (), np.dtype(np.float32)))
    described = np.asarray(host_view(array))
    assert (described.shape, described.dtype, described.ctypes.data) == ((2, 3, 4), np.float32, 512)


class Block:
    """A block of a driver's memory, as numba.cuda holds one: freed by a weak reference's callback."""

    def __init__(self, address, freed):
        self.address = address
        weakref.finalize(self, freed.append, address)


class CountedMemory:
    """A driver that counts the blocks it has given out and those that were freed."""

    def __init__(self):
        self.given, self.freed = 0, []

    def allocate(self, size):
        self.given += 1
        return Block(1000 * self.given, self.freed)

    def address(self, block):
        return block.address

    def array(self, lease, address, shape, dtype):
        return GpuArray(lease, address, shape, dtype)


def _leave_a_cycle(array):
    """The array in a cycle, as the traceback of a caught error leaves one."""
    cycle = [array]
    cycle.append(cycle)


def test_a_block_outlives_an_array_that_the_collector_frees():
    memory = CountedMemory()
    pool = Pool(memory)
    _leave_a_cycle(pool.empty((100,), np.float32))
    gc.collect()
    assert memory.freed == []
    again = pool.empty((100,), np.float32)
    assert (again.address, memory.given) == (1000, 1)
    del again
    pool.empty_cache()
    assert memory.freed == [1000]


@pytest.fixture
def small_heap():
    """The collector looks at what the test makes only, not at all that other tests have left."""
    gc.collect()
    gc.freeze()  # for good, as after the tests were collected


@pytest.mark.usefixtures("small_heap")
def test_the_collector_may_come_at_any_time(rng):
    memory = CountedMemory()
    pool = Pool(memory)
    kept = []
    for number in range(500):
        array = pool.empty((int(rng.integers(1, 200)),), np.float64)
        if number % 3:
            _leave_a_cycle(array)
        else:
            kept = [*kept[-20:], array]
        if number % 7 == 0:
            gc.collect()
        addresses = [array.address for array in kept]
        assert len(set(addresses)) == len(addresses)
        assert memory.freed == []
    assert memory.given < 200
    del array
    kept.clear()
    gc.collect()
    assert pool.use().cached == pool.use().held
    pool.empty_cache()
    assert len(memory.freed) == memory.given


def test_an_emptied_cache_holds_what_is_in_use():
    pool = Pool(SimulatedMemory())
    kept, dropped = pool.empty((256,), np.float32), pool.empty((1024,), np.float32)
    del dropped
    pool.empty_cache()
    assert pool.use() == MemoryUse(allocations=2, held=KIB, cached=0)
    del kept
    assert pool.use().cached == KIB


# No room --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [MemoryError(), DriverError(2)])
def test_without_room_the_cache_is_emptied_and_the_driver_asked_once_more(error):
    memory = SmallMemory(10 * KIB, error)
    for size in (4 * KIB, 6 * KIB):
        memory.pool.empty((size,), np.uint8)
    assert memory.pool.use() == MemoryUse(allocations=2, held=10 * KIB, cached=10 * KIB)
    array = memory.pool.empty((8 * KIB,), np.uint8)
    assert memory.asked == [4 * KIB, 6 * KIB, 8 * KIB, 8 * KIB]
    assert memory.pool.use() == MemoryUse(allocations=3, held=8 * KIB, cached=0)
    with pytest.raises(
        DeviceMemoryError,
        match=r"no memory for an array of shape \(2, 1000\), float32: 8,192 bytes were asked for, 8,192 are in use",
    ):
        memory.pool.empty((2, 1000), np.float32)
    assert memory.asked[4:] == [8 * KIB, 8 * KIB]
    assert memory.pool.use() == MemoryUse(allocations=3, held=8 * KIB, cached=0)
    del array
    memory.pool.empty((2, 1000), np.float32)  # the pool goes on
    assert memory.pool.use().allocations == 3


def test_other_errors_of_the_driver_are_its_own():
    memory = SmallMemory(0, DriverError(700))
    with pytest.raises(DriverError):
        memory.pool.empty((1,), np.float32)
    assert len(memory.asked) == 1


def test_no_room_is_a_memory_error_for_others():
    assert issubclass(DeviceMemoryError, MemoryError)


# A training step ------------------------------------------------------------------------------------------------------


def _train(optimizer, steps):
    """Train a tiny network on batches that are copied in advance; after each step, how often the driver was asked."""
    mx.seed(0)
    model = mx.models.mini_xception(3, widths=(4,), middle_blocks=0, stem=4, input_shape=(4, 4, 3)).to("cuda")
    rule = optimizer(model.parameters())
    ema = mx.optim.EMA([t for _, t in model.named_tensors()], decay=0.9)
    rng = np.random.default_rng(0)
    batches = ((rng.standard_normal((2, 4, 4, 3)).astype(np.float32), np.array([0, 2])) for _ in range(steps))
    counts = []
    for x, labels in prefetched(batches, "cuda"):
        rule.zero_grad()
        loss = mx.cross_entropy(model(x), labels, 0.1)
        loss.backward()
        mx.optim.clip_grad_norm(model.parameters(), 1e-3)
        rule.step()
        ema.update()
        assert np.isfinite(loss.item())
        counts.append(device.memory_use().allocations)
    return counts


RULES = {
    "momentum": lambda p: mx.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-4),
    "rmsprop": lambda p: mx.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "adam": lambda p: mx.optim.Adam(p, lr=0.01),
}


@pytest.mark.gpu
@pytest.mark.parametrize("rule", RULES)
def test_a_training_step_asks_the_driver_for_nothing(rule, monkeypatch):
    if gpu.is_simulated():  # slow, and what kernels compute makes no difference here: nothing is launched
        memory = gpu.pool().memory
        monkeypatch.setattr(
            memory, "allocate", lambda size, new=memory.allocate: np.multiply(block := new(size), 0, block)
        )
        monkeypatch.setattr(gpu.Kernel, "__getitem__", lambda kernel, grid: lambda *arguments: None)
    device.empty_cache()  # what other tests have left would do for the first steps
    before = device.memory_use().allocations
    counts = _train(RULES[rule], steps=4)
    assert counts[0] - before > 50
    assert counts[2:] == [counts[1]] * 2


@pytest.mark.gpu
def test_arrays_made_elsewhere_come_from_the_pool():
    array = mx.tensor(np.ones(5000)).to("cuda").data
    made = [
        lambda: device.to_gpu(np.ones(5000)),
        lambda: device.copy(array),
        lambda: device.full_like(array, 3.0),
        lambda: device.assign(array, np.ones(5000)),
        lambda: device.assign(array, array),
    ]
    device.to_gpu(np.ones(5000))
    before = device.memory_use()
    for make in made:
        make()
    assert device.memory_use() == before
    assert before.cached > 0
    device.empty_cache()
    assert device.memory_use().cached == 0


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(), (0, 2), (2, 0), (1, 3, 1)])
def test_arrays_of_any_shape_are_copied(shape):
    array = np.full(shape, 2.5)
    there = device.copy(device.to_gpu(array))
    device.assign(there, array)
    device.assign(there, there.reshape(shape))
    np.testing.assert_array_equal(device.to_cpu(there), array)
    assert there.shape == shape


def test_a_stand_in_for_a_gpu_has_memory_of_its_own():
    class Machine:
        def device_array(self, shape, dtype):
            return HostArray(np.zeros(shape, dtype))

    before = device.memory_use()
    with gpu.redirected(Machine()):
        assert gpu.stream() == 0
        there = device.to_gpu(np.arange(3.0))
        assert isinstance(there, HostArray)
        twin = device.copy(there)
        device.assign(twin, np.ones(3))
        np.testing.assert_array_equal(device.to_cpu(there), [0, 1, 2])
        np.testing.assert_array_equal(device.to_cpu(twin), [1, 1, 1])
    assert device.memory_use() == before


# One stream -----------------------------------------------------------------------------------------------------------


class Stream:
    """Notes when it is waited for."""

    def __init__(self, log):
        self.log = log

    def synchronize(self):
        self.log.append("synchronize")


@pytest.fixture
def queued(monkeypatch):
    """What is queued in the simulator, each with its stream, and where that stream is waited for."""
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
    from numba.cuda.simulator.kernel import FakeCUDAKernel

    log = []
    stream = Stream(log)
    monkeypatch.setattr(gpu, "_made_stream", lambda: stream)

    def note(kind, name, which):
        original = getattr(kind, name)

        def noted(self, *arguments, **options):
            log.append((name, which(*arguments, **options) is stream))
            return original(self, *arguments, **options)

        monkeypatch.setattr(kind, name, noted)

    note(FakeCUDAKernel, "__getitem__", lambda configuration: configuration[2])
    note(FakeCUDAArray, "copy_to_device", lambda source, stream=0: stream)
    note(FakeCUDAArray, "copy_to_host", lambda array=None, stream=0: stream)
    return log


def test_all_work_is_queued_in_one_stream(queued):
    conv = mx.nn.SeparableConv2d(4, 2).to("cuda")
    x = mx.tensor(np.ones((1, 2, 2, 4), np.float32), requires_grad=True).to("cuda")
    y = conv(x)
    (y + y).backward(np.ones(y.shape))
    y.numpy()
    work = [entry for entry in queued if entry != "synchronize"]
    assert {name for name, _ in work} == {"__getitem__", "copy_to_device", "copy_to_host"}
    assert [entry for entry in work if not entry[1]] == []


def test_the_processor_waits_where_it_must(queued):
    there = device.to_gpu(np.ones(3))
    assert queued == [("copy_to_device", True), "synchronize"]  # the source may change as soon as it is back
    queued.clear()
    device.copy(there)
    device.assign(there, device.copy(there))
    assert queued == [("copy_to_device", True)] * 3  # within the GPU there is nothing to wait for
    queued.clear()
    device.assign(there, np.ones(3))
    assert queued == [("copy_to_device", True), "synchronize"]
    queued.clear()
    device.to_cpu(there)
    assert queued == [("copy_to_host", True), "synchronize"]


def test_arrays_with_axes_of_one_are_copied():
    x = np.arange(6.0).reshape(2, 3)[None, :, :, None]
    np.testing.assert_array_equal(device.to_cpu(device.to_gpu(x)), x)
