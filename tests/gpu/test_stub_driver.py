"""The GPU's host code on a driver that does nothing: what is cached on disk, and which memory is freed."""

from __future__ import annotations

import json

import pytest

from tests.helpers import stub_driver


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return stub_driver.build(tmp_path_factory.mktemp("driver"))


# The cache of kernels -------------------------------------------------------------------------------------------------

LAUNCHES = """
import json, sys
import numpy as np
from minixception.gpu import kernel as gpu
from minixception.gpu.device import to_gpu
from minixception.ops import OPERATORS

if STAMP:
    gpu._sources_stamp = lambda: STAMP
x, w = (to_gpu(np.zeros(shape, DTYPE)) for shape in ((1, 8, 8, 64), (64, 64)))
OPERATORS["relu"].rungs["cuda"].forward(x)
OPERATORS["pointwise_conv2d"].rungs["cuda"].forward(x, w, stride=1)  # vectors, by intrinsics that are closed over
stats = [kernel.made_for(getattr(np, DTYPE)).stats for kernel in gpu.KERNELS.values() if kernel._made]
print(json.dumps([sum(sum(s.cache_hits.values()) for s in stats), sum(sum(s.cache_misses.values()) for s in stats)]))
"""


@pytest.mark.slow
def test_kernels_are_compiled_once_and_then_come_from_the_disk(driver, tmp_path):
    def hits_and_misses(dtype="float32", stamp=""):
        code = LAUNCHES.replace("DTYPE", repr(dtype)).replace("STAMP", repr(stamp))
        return json.loads(stub_driver.run(driver, code, NUMBA_CACHE_DIR=tmp_path))

    assert hits_and_misses() == [0, 2]
    assert hits_and_misses() == [2, 0]
    assert hits_and_misses(dtype="float64") == [0, 2]
    assert hits_and_misses() == [2, 0]
    assert hits_and_misses(stamp="as after an edit of the package") == [0, 2]


# Launches -------------------------------------------------------------------------------------------------------------

ARGUMENTS = """
import numpy as np
from minixception.gpu import kernel as gpu
from minixception.gpu.device import to_gpu

@gpu.kernel
def takes_all(x, flag, count, y, scale, key, place, exact):
    pass

x, y = to_gpu(np.zeros((3, 4), np.float32)), to_gpu(np.zeros(5, np.int64))
key, place = np.uint64(2**64 - 3), (7, -8, np.int64(9))
arguments = (x, True, 2**40, y, np.float32(0.1), key, place, np.float64(0.2))
widths = [8] * 9 + [1, 8] + [8] * 7 + [4, 8] + [8] * 3 + [8]

def passed(launch):
    stub.stub_watch(len(widths))
    launch()
    stub.stub_watch(0)
    words = [stub.stub_argument(i).to_bytes(8, "little") for i in range(len(widths))]
    return [word[:width] for word, width in zip(words, widths)]

cuda = gpu.numba_cuda()
numbas = [cuda.as_cuda_array(a) if a is x or a is y else a for a in arguments]
ours = passed(lambda: takes_all[1, 32](*arguments))
numba_cudas = passed(lambda: takes_all.made_for(np.float32)[1, 32](*numbas))
print(ours == numba_cudas, int.from_bytes(ours[4], "little") == x.address)
"""


def test_a_kernel_gets_the_very_bytes_that_numba_cuda_would_pass(driver, tmp_path):
    assert stub_driver.run(driver, ARGUMENTS, NUMBA_CACHE_DIR=tmp_path) == "True True\n"


KINDS = """
import numpy as np
from minixception.gpu import kernel as gpu
from minixception.gpu.device import to_gpu

@gpu.kernel
def looks(x, n):
    pass

one, two = np.zeros(3, np.float32), np.zeros(3)
for array, n in (
    (one, 1), (two, 1), (two.reshape(3, 1), 1), (two, np.float32(1)), (two, (1, 2)), (two, (1, np.float32(2))),
    (np.zeros(9), 7),  # of the second kind once more
):
    looks[1, 32](to_gpu(array), n)
print(len({id(compiled) for compiled in looks._launcher._compiled.values()}))
"""


def test_each_kind_of_arguments_has_a_kernel_of_its_own(driver, tmp_path):
    assert stub_driver.run(driver, KINDS, NUMBA_CACHE_DIR=tmp_path) == "6\n"


THREADS = """
import threading
import numpy as np
from minixception.gpu.device import to_gpu
from minixception.ops import OPERATORS

x = to_gpu(np.zeros(9, np.float32))

def launch():  # and nothing else: what allocates or copies makes the GPU's context the thread's by itself
    OPERATORS["relu"].rungs["cuda"].forward(x)

launch()
for _ in range(2):
    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
print(stub.stub_launches())
"""


def test_any_thread_may_launch(driver, tmp_path):
    assert stub_driver.run(driver, THREADS, NUMBA_CACHE_DIR=tmp_path) == "3\n"


# Graphs ---------------------------------------------------------------------------------------------------------------

GRAPH = """
import gc
import numpy as np
from minixception.gpu import kernel as gpu
from minixception.gpu.array import GpuArray
from minixception.gpu.device import to_gpu
from minixception.gpu.graph import Repeated
from minixception.gpu.launch import Launcher
from minixception.ops import OPERATORS

add, launch, captured = OPERATORS["add"].rungs["cuda"].forward, Launcher.__call__, set()

def noting(self, grid, stream, arguments):
    captured.update(a.address for a in arguments if isinstance(a, GpuArray))
    launch(self, grid, stream, arguments)

x, weights = to_gpu(np.ones(5000)), [to_gpu(np.ones(5000))]
repeated = Repeated(lambda x: add(add(x, weights[0])[0], x)[0])
repeated(x)
Launcher.__call__ = noting
repeated(x)
Launcher.__call__ = launch
weights.clear()
gc.collect()
others = {(array := gpu.empty((5000,), np.float64)).address: array for _ in range(20)}
print(len(captured), captured & set(others))
before = stub.stub_launches()
repeated(x)
print(stub.stub_captured(), stub.stub_graphs(), stub.stub_launches() - before)
"""


def test_a_graph_is_one_launch_and_nobody_else_gets_the_memory_that_it_uses(driver, tmp_path):
    assert stub_driver.run(driver, GRAPH, NUMBA_CACHE_DIR=tmp_path) == "4 set()\n2 2 0\n"


FAILED = """
import numpy as np
import minixception as mx
from minixception.gpu.device import to_cpu, to_gpu
from minixception.gpu.graph import Repeated
from minixception.ops import OPERATORS

relu = OPERATORS["relu"].rungs["cuda"].forward
reading = Repeated(lambda x: to_gpu(to_cpu(relu(x)[0])))
for _ in range(3):
    reading(to_gpu(np.ones(3)))
print(reading.recordable, stub.stub_graphs(), stub.stub_launches(), stub.stub_captured())
"""


@pytest.mark.slow
def test_a_recording_that_fails_leaves_the_stream_as_it_was(driver, tmp_path):
    assert stub_driver.run(driver, FAILED, NUMBA_CACHE_DIR=tmp_path) == "False 0 3 1\n"


STEPS = """
import numpy as np
import minixception as mx
from minixception.training.batch import Gradients

model = mx.models.mini_xception(10, (8,), 1, 8, dropout=0.5).to("cuda").train()
optimizer = mx.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
gradients, x = Gradients(model, 10, 0.1), mx.tensor(np.zeros((2, 32, 32, 3), np.float32)).to("cuda")
counts = []
for _ in range(5):
    before = stub.stub_launches(), stub.stub_graphs(), stub.stub_allocations()
    gradients(x, [1, 2])
    optimizer.step()
    after = stub.stub_launches(), stub.stub_graphs(), stub.stub_allocations()
    counts.append([a - b for a, b in zip(after, before)])
print(counts[2:] == [[len(optimizer.params) + 1, 1, 0]] * 3, counts[0][0] > 5 * counts[2][0])
"""


@pytest.mark.slow
def test_a_training_step_is_one_graph_a_key_for_dropout_and_the_updates(driver, tmp_path):
    assert stub_driver.run(driver, STEPS, NUMBA_CACHE_DIR=tmp_path) == "True True\n"


# What is run by hand on a GPU -----------------------------------------------------------------------------------------

SANITIZED = """
from tests.by_hand import check_sanitizer
from minixception.ops import OPERATORS

check_sanitizer.OPERATORS = {"relu": OPERATORS["relu"]}
print(check_sanitizer.main(["--cases", NAME]), check_sanitizer.main(["--planted", NAME]), stub.stub_frees() > 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "cases", "frees"), [("memcheck", 2, False), ("pool", 6, True)])
def test_what_the_sanitizer_watches_runs(driver, tmp_path, name, cases, frees):
    code = SANITIZED.replace("NAME", repr(name))
    assert stub_driver.run(driver, code, NUMBA_CACHE_DIR=tmp_path) == f"cases run: {cases}\n0 0 {frees}\n"


GRADCHECK = """
import numpy as np
import minixception as mx
from minixception.errors import GradientError

x = mx.Tensor(mx.tensor(np.ones(3)).to("cuda").data, requires_grad=True)
try:
    mx.gradcheck(mx.ops.relu, [x])
except GradientError:
    pass  # whatever the kernels that do nothing have left
print(x.device)
"""


@pytest.mark.slow
def test_gradcheck_runs_on_arrays_that_only_kernels_can_compute_with(driver, tmp_path):
    """Those of the simulator can be added and multiplied like NumPy's."""
    assert stub_driver.run(driver, GRADCHECK, NUMBA_CACHE_DIR=tmp_path) == "cuda\n"


STEP = """
import sys
from minixception.bench.cuda import kernels
from minixception.ops import OPERATORS
from tests.by_hand import gpu_steps

gpu_steps.OPERATORS = {"relu": OPERATORS["relu"]}
kernels.WORKLOADS = kernels.WORKLOADS[3:4]
gpu_steps.host_time.measured = lambda launches: []
sys.argv = ["gpu_steps", "first", OUT]
print(gpu_steps.main())
"""


@pytest.mark.slow
def test_a_step_goes_on_after_a_disagreement_and_fails(driver, tmp_path):
    """Kernels do nothing on this driver, so that no result is right."""
    code = STEP.replace("OUT", repr(str(tmp_path)))
    *rows, status = stub_driver.run(driver, code, NUMBA_CACHE_DIR=tmp_path).splitlines()
    assert status == "1"
    assert rows == (tmp_path / "gpu_first.jsonl").read_text().splitlines()
    environment, relu, host_time, bench = map(json.loads, rows)
    assert (environment["device"], environment["driver_api"]) == ("stub", 12090)
    assert relu["error"] == "further than 0.0001 from the definition"
    assert host_time == {"what": "host time", "milliseconds": []}
    assert bench["error"].startswith("batchnorm, 32x19x19x728, forward, cuda: the results differ by")
    assert json.loads((tmp_path / "bench_cuda.json").read_text())["wrong"] == [bench["error"]]


# Memory ---------------------------------------------------------------------------------------------------------------

CAUGHT = """
import gc
import numpy as np
import minixception as mx
from minixception.errors import ShapeError
from minixception.gpu import kernel as gpu
from minixception.gpu.device import memory_use

x = mx.tensor(np.zeros((2, 3), np.float32)).to("cuda")
try:
    y = mx.ops.relu(x)
    mx.ops.add(y, mx.tensor(np.zeros((3, 7), np.float32)).to("cuda"))
except ShapeError as error:
    error.itself = error  # a cycle: its frames, and the arrays in them, live until the collector comes
del y
gc.collect()
gpu.numba_cuda().current_context().memory_manager.deallocations.clear()  # frees what waits to be freed
print(memory_use().cached > 0, stub.stub_frees())
"""


def test_a_caught_error_frees_no_block_that_the_pool_hands_out(driver, tmp_path):
    assert stub_driver.run(driver, CAUGHT, NUMBA_CACHE_DIR=tmp_path) == "True 0\n"
