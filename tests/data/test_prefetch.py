"""Copying in advance, on streams that do their work in the worst order that events allow."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

import minixception as mx
from minixception.data.prefetch import prefetched
from minixception.errors import ArgumentError, BackendError, DTypeError
from minixception.gpu import kernel as gpu

gpu.numba_cuda()  # chooses the simulator, before anything else imports a part of it
SIZES = (3, 3, 3, 4, 2, 3, 1)  # batches: a larger one, and a smaller last one


class Event:
    """A mark in a stream: ``done`` of the last record."""

    def __init__(self):
        self.last = {"done": True}
        self.machine = None

    def record(self, stream):
        self.last, self.machine = {"done": False}, stream.machine
        stream.put(lambda mark=self.last: mark.update(done=True))

    def wait(self, stream):
        stream.put(lambda: None, self.last)

    def synchronize(self):
        if self.machine:
            self.machine.run(lambda: self.last["done"])


class Stream:
    """A queue of (work, the mark it waits for)."""

    def __init__(self, machine):
        self.machine, self.queue = machine, []
        machine.streams.append(self)

    def put(self, work, mark=None):
        self.queue.append((work, mark or {"done": True}))
        self.machine.run_eager()

    def step(self):
        """Do the next thing, if it need not wait."""
        if not self.queue or not self.queue[0][1]["done"]:
            return False
        self.queue.pop(0)[0]()
        return True

    def synchronize(self):
        self.machine.run(lambda: not self.queue)


class Machine:
    """numba.cuda as far as copies in advance use it: the ``eager`` streams work at once, the others when waited for."""

    event = Event

    def __init__(self, eager):
        self.streams, self.eager, self.pinned = [], eager, []
        self.steps = Stream(self)

    def stream(self):
        return Stream(self)

    def pinned_array(self, size, dtype):
        self.pinned.append(size)
        return np.empty(size, dtype)

    def run_eager(self):
        while any(self.streams[i].step() for i in self.eager if i < len(self.streams)):
            pass

    def run(self, until):
        """Do things until that is so; eager streams first."""
        order = [self.streams[i] for i in self.eager] + self.streams
        while not until():
            assert any(stream.step() for stream in order), "the streams wait for each other"

    def numbers(self, array):
        """The memory of a device array, which does not keep it: work that is queued does not, either."""
        kind = ctypes.c_char * array.nbytes
        return np.frombuffer(kind.from_address(array._ary.ctypes.data), array.dtype).reshape(tuple(array.shape))


@pytest.fixture(params=[(), (0,), (1,), (0, 1)], ids=["lazy", "steps eager", "copies eager", "all eager"])
def machine(request, monkeypatch):
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    machine = Machine(request.param)
    monkeypatch.setattr(gpu, "numba_cuda", lambda: machine)
    monkeypatch.setattr(gpu, "require_gpu", lambda: None)
    monkeypatch.setattr(gpu, "stream", lambda: machine.steps)

    def copy_to_device(self, source, stream):
        there = machine.numbers(self)
        stream.put(lambda: np.copyto(there, source))

    monkeypatch.setattr(FakeCUDAArray, "copy_to_device", copy_to_device)
    gpu.pool().empty_cache()
    return machine


def _batches(sizes=SIZES):
    for number, size in enumerate(sizes):
        yield np.full((size, 100), number, np.float32), np.full(size, number)


def _step(machine, x, seen):
    """Queue what a step does: read the batch, and write to memory that was another array's before."""
    numbers = machine.numbers(x.data)
    machine.steps.put(lambda: seen.append(numbers.copy()))
    del x
    scratch = machine.numbers(gpu.empty((3, 100), np.float32))
    machine.steps.put(lambda: scratch.fill(-1))


def test_each_step_reads_its_own_batch(machine):
    seen, labels = [], []
    for x, y in prefetched(_batches(), "cuda"):
        assert x.device == "cuda"
        assert x.shape == (len(y), 100)
        labels.append(y)
        _step(machine, x, seen)
        del x  # its memory may be the next copy's target
    machine.steps.synchronize()
    for got, y, (expected, its_labels) in zip(seen, labels, _batches(), strict=True):
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(y, its_labels)
    assert machine.pinned == [1200, 1200, 1600]  # two buffers; the larger batch needed one anew


def test_batches_that_are_kept_stay_as_they_are(machine):
    kept = [x for x, _ in prefetched(_batches(), "cuda")]
    machine.steps.synchronize()
    for x, (expected, _) in zip(kept, _batches(), strict=True):
        np.testing.assert_array_equal(x.data._ary, expected)


def test_the_next_copy_is_queued_before_a_step_and_does_not_wait_for_it(machine):
    feed = prefetched(_batches(), "cuda")
    for number, _batch in zip(range(3), feed, strict=False):
        copies = machine.streams[1]
        machine.steps.put(lambda: None, {"done": False})  # a step that never ends
        while copies.step() or machine.steps.step():
            pass
        assert copies.queue == [], f"the copy behind step {number} waits for it"
        machine.steps.queue.clear()


def test_who_stops_early_leaves_no_copy_on_its_way(machine):
    asked = []
    feed = prefetched((asked.append(number) or batch for number, batch in enumerate(_batches())), "cuda")
    next(feed)
    assert asked == [0, 1]
    feed.close()
    assert machine.streams[1].queue == []
    assert gpu.pool().use().cached > 0


def test_an_error_of_the_source_comes_behind_the_batches_before_it(machine):
    def source():
        yield from _batches((3, 3))
        raise OSError("a broken image")

    feed = prefetched(source(), "cuda")
    assert [next(feed)[1][0] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match="a broken image"):
        next(feed)
    assert machine.streams[1].queue == []
    with pytest.raises(DTypeError, match="got float16"):
        next(prefetched([(np.ones(3, np.float16), [0])], "cuda"))


def test_no_batches(machine):
    assert list(prefetched([], "cuda")) == []


def test_on_the_processor_batches_are_only_wrapped():
    asked = []
    batches = list(_batches())
    feed = prefetched((asked.append(None) or batch for batch in batches), "cpu")
    for number, (x, labels) in enumerate(feed):
        assert len(asked) == number + 1  # nothing in advance
        assert np.shares_memory(x.data, batches[number][0])
        assert labels is batches[number][1]


@pytest.mark.gpu
def test_a_model_reads_what_was_copied():
    images = np.random.default_rng(0).standard_normal((5, 2, 2, 3)).astype(np.float32)
    feed = prefetched(((images[i : i + 2], None) for i in (0, 2, 4)), "cuda")
    np.testing.assert_allclose(np.concatenate([mx.ops.relu(x).numpy() for x, _ in feed]), images.clip(0))


def test_a_wrong_device_is_an_error_at_once(monkeypatch):
    with pytest.raises(ArgumentError, match="device must be one of cpu, cuda, got 'tpu'"):
        prefetched([], "tpu")
    monkeypatch.setattr(gpu, "is_available", lambda: False)
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        prefetched([], "cuda")
