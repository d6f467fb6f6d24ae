"""The clock and the limits of the GPU's benchmark: a fake GPU's time, and its kernels in the simulator."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from test_bench_cuda import DEVICE, counted

from minixception.bench.cuda import limits
from minixception.bench.cuda.timing import EventClock, QueuedClock
from minixception.gpu import kernel as gpu
from minixception.gpu import peak
from minixception.gpu.device import to_cpu, to_gpu
from minixception.timing import Timing, interleaved

# The clock ------------------------------------------------------------------------------------------------------------


class Gpu:
    """A GPU and its driver that work off a queue on a time line of their own: what the clocks ask of numba.cuda."""

    def __init__(self):
        self.now, self.done_at = 0.0, 0.0  # seconds: of the processor, and when the GPU will have nothing to do
        self.synchronized = 0

    def work(self, seconds, starting=1e-5):
        """A kernel that runs so long, and that Python needs so long to start."""
        self.now += starting
        self.done_at = max(self.now, self.done_at) + seconds

    def synchronize(self):
        self.now = max(self.now, self.done_at)
        self.synchronized += 1

    def event(self):
        return Event(self)


class Event:
    def __init__(self, machine):
        self.machine, self.at = machine, None

    def record(self, stream):
        assert stream is self.machine
        self.at = max(self.machine.now, self.machine.done_at)

    def query(self):
        return self.machine.now >= self.at

    def synchronize(self):
        self.machine.now = max(self.machine.now, self.at)

    def elapsed_time(self, later):
        return 1e3 * (later.at - self.at)


def two_kernels(machine, seconds, starting):
    return lambda: [machine.work(seconds, starting) for _ in range(2)]


def test_a_waiting_user_s_time_holds_what_python_needs():
    machine = Gpu()
    machine.work(5.0)  # somebody else's, before
    clock = EventClock(machine, machine)
    assert clock(two_kernels(machine, 1e-6, 1e-4)) == pytest.approx(2.01e-4)
    assert clock(two_kernels(machine, 1e-2, 1e-4)) == pytest.approx(2.01e-2)


def test_the_gpu_s_time_alone_does_not():
    machine = Gpu()
    clock = QueuedClock(machine, machine, lambda: machine.work(3e-4))
    assert clock(two_kernels(machine, 1e-6, 1e-4)) == pytest.approx(2e-6)
    assert clock(two_kernels(machine, 1e-6, 5e-3)) == pytest.approx(2e-6)  # behind more work
    assert clock.late == 0


def test_a_function_that_waits_for_the_gpu_is_counted_as_late():
    machine = Gpu()
    clock = QueuedClock(machine, machine, lambda: machine.work(3e-4))

    def function():
        machine.work(1e-6)
        machine.synchronize()

    assert clock(function) < 1e-4
    assert clock.late == 1


def test_the_clock_s_seconds_are_those_of_the_result():
    seconds = iter([3.0, 1.0, 2.0])
    calls = []
    times = interleaved({"f": lambda: calls.append(1)}, 3, clock=lambda function: function() or next(seconds))
    assert times == {"f": Timing(2.0, 1.5, 2.5)}
    assert len(calls) == 6


# Limits ---------------------------------------------------------------------------------------------------------------


def test_the_copy_copies_every_number(rng):
    for size in (1, 4 * gpu.THREADS, 4 * gpu.THREADS + gpu.THREADS + 1):
        x, y = rng.standard_normal(size).astype(np.float32), np.zeros(size, np.float32)
        there = to_gpu(y)
        limits.copy(to_gpu(x), there)
        np.testing.assert_array_equal(to_cpu(there), x)


@pytest.mark.parametrize(("steps", "taken"), [(16, 16), (50, 48)])
def test_the_sums_behind_the_peak_are_computed(steps, taken):
    sums = gpu.empty((gpu.THREADS,), np.float32)
    assert limits.multiply_add(sums, steps) == 2 * taken * 8 * gpu.THREADS
    law = np.arange(3.0, 11.0)
    for _ in range(taken):
        law = law / 2 + 1
    np.testing.assert_allclose(to_cpu(sums), np.full(gpu.THREADS, law.sum()), rtol=1e-6)


@pytest.fixture
def few_threads(monkeypatch):
    """The simulator starts each of them."""
    monkeypatch.setattr(limits, "_BLOCKS", 1)
    for module in (limits, peak):
        monkeypatch.setattr(module, "THREADS", 8)


def test_limits_are_work_over_the_fastest_time(few_threads):
    seconds = iter([0.5, *[1.0] * 14, *[0.25] * 15, *[2.0] * 15])
    found = limits.measure(DEVICE, lambda function: (function(), next(seconds))[1], nbytes=4096, steps=16)
    assert found.copy == 4096 / 0.25  # the driver's own copy was faster
    assert found.fma_flops == 2 * 16 * 8 * 2 * 8 / 2.0  # FLOP of a thread, threads, seconds
    assert (found.device, found.capability, found.multiprocessors, found.l2) == ("A GPU", "9.0", 2, 1 << 20)
    assert found.nominal_flops == 2 * 2 * 128 * 1e9
    assert found.nominal_copy == 2 * 5e8 * 64


def test_what_a_device_does_not_tell_is_unknown(few_threads):
    silent = SimpleNamespace(name="B", compute_capability=(99, 0), MULTIPROCESSOR_COUNT=1)
    found = limits.measure(silent, counted, nbytes=64, steps=16)
    assert (found.device, found.nominal_flops, found.nominal_copy, found.l2) == ("B", None, None, 0)
    assert "unknown" in str(limits.table(found))
