"""Python threads that launch kernels at once, and children of fork that launch any."""

from __future__ import annotations

import os

import numba
import pytest
from numba.core.registry import CPUDispatcher

from minixception.cpu import launch
from minixception.errors import BackendError
from tests.helpers.processes import python

IN_THREADS = """
import threading
import numba
import numpy as np
import minixception as mx

x = np.arange(-8192, 8192, dtype=np.float32)
start, answers = threading.Barrier(4), []

def work():
    start.wait()
    for _ in range(100):
        with mx.no_grad():
            answers.append(mx.ops.relu(mx.tensor(x)).numpy())

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(numba.threading_layer(), len(answers), all(np.array_equal(y, np.maximum(x, 0)) for y in answers))
"""

AFTER_FORK = """
import os
import numba
import numpy as np
import minixception as mx

def relu():
    with mx.no_grad():
        return mx.ops.relu(mx.tensor(np.array([-1, 2], np.float32))).numpy().tolist()

relu()
layer = numba.threading_layer()
if layer == "omp":
    from numba.np.ufunc import omppool
    layer = omppool.openmp_vendor
print(layer, flush=True)
child = os.fork()
if not child:
    for run in (relu, lambda: mx.ops.add(mx.tensor(np.ones(2)), mx.tensor(np.ones(2))).numpy().tolist()):
        try:
            print(run(), flush=True)
        except mx.errors.BackendError as error:
            print(error, flush=True)
    with mx.use_backend("numpy"):
        print(relu(), flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
print(relu())
"""


def test_with_workqueue_one_thread_waits_for_the_other():
    done = python("-c", IN_THREADS, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS=2)
    assert (done.returncode, done.stdout) == (0, "workqueue 400 True\n"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
@pytest.mark.parametrize("layer", ["default", pytest.param("workqueue", marks=pytest.mark.slow)])
def test_a_kernel_in_a_fork_runs_or_says_why_it_cannot(layer):
    done = python("-W", "ignore::DeprecationWarning", "-c", AFTER_FORK, NUMBA_THREADING_LAYER=layer)
    chosen, first, second, definition, status, parent = done.stdout.splitlines()
    assert (definition, status, parent) == ("[0.0, 2.0]", "0", "[0.0, 2.0]"), done.stderr
    if chosen == "GNU":
        for refusal in (first, second):  # of a kernel that had run, and of one that had not
            assert 'multiprocessing.get_context("spawn")' in refusal
    else:
        assert (first, second) == ("[0.0, 2.0]", "[2.0, 2.0]")


@pytest.fixture
def kernel():
    return launch.guard(numba.njit(lambda x: x + 1))


@pytest.mark.parametrize(
    ("layer", "kind"), [("omp", CPUDispatcher), ("tbb", CPUDispatcher), ("workqueue", launch._InTurn)]
)
def test_only_workqueue_costs_anything(layer, kind, kernel, monkeypatch):
    monkeypatch.setattr(numba, "threading_layer", lambda: layer)
    assert (kernel(1), kernel(2)) == (2, 3)
    assert type(kernel) is kind  # Numba's own: nothing stands between a call and the kernel


def test_a_fork_takes_its_threads_turn_and_refuses_kernels_that_come_later(kernel, monkeypatch):
    monkeypatch.setattr(launch, "_kernels", [kernel])
    monkeypatch.setattr(launch, "_runs_on_gnu_openmp", lambda: True)
    monkeypatch.setattr(launch, "_orphaned", False)
    monkeypatch.setattr(launch, "_turn", turn := launch._turn)
    launch._after_fork()
    assert launch._turn is not turn
    with pytest.raises(BackendError, match="forkserver"):
        kernel(1)
    assert launch._class_here() is launch._Orphaned
