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
