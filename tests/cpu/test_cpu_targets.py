"""The kernels on other CPUs than this one, and the plain loops with every index checked, in processes of their own."""

from __future__ import annotations

import pytest

from tests.helpers.processes import python

KERNELS = ("conv2d", "depthwise_conv2d", "pointwise_conv2d", "linear", "batch_norm")
TARGETS = [
    ("x86-64", 16),
    ("haswell", 32),
]

COMPARE = """
import sys
import numpy as np
from minixception.cpu.simd import REGISTER_BYTES, lanes
from minixception.engine.op import RandomDraw
from minixception.ops import OPERATORS

rung, names = sys.argv[1], sys.argv[2:]
for name in names or OPERATORS:
    op = OPERATORS[name]
    for seed in range(6):
        case = op.sample(RandomDraw(seed))
        y, saved = op.rung("numpy").forward(*case.arrays, **case.params)
        got, _ = op.rung(rung).forward(*case.arrays, **case.params)
        np.testing.assert_allclose(got, y, rtol=1e-11, atol=1e-11, err_msg=name)
        gradients = op.rung("numpy").backward(np.ones_like(y), saved)
        for g, law in zip(op.rung(rung).backward(np.ones_like(y), saved), gradients, strict=True):
            if law is not None:
                np.testing.assert_allclose(g, law, rtol=1e-10, atol=1e-10, err_msg=name)
print(REGISTER_BYTES, lanes(np.float64))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "register_bytes"), TARGETS)
def test_fast_kernels_for_other_vector_widths(cpu, register_bytes, tmp_path):
    if_x86 = python("-c", "import platform; print(platform.machine())").stdout.strip() in ("x86_64", "AMD64")
    target = {"NUMBA_CPU_NAME": cpu} if if_x86 else {}  # elsewhere these CPUs do not exist: the host's own kernels run
    done = python("-c", COMPARE, "cpu", *KERNELS, NUMBA_CACHE_DIR=tmp_path, **target)
    assert done.returncode == 0, done.stderr
    if if_x86:
        assert done.stdout.split() == [str(register_bytes), str(register_bytes // 8)]


@pytest.mark.slow
def test_no_loop_reads_or_writes_outside_of_an_array(tmp_path):
    done = python("-c", COMPARE, "loops", NUMBA_BOUNDSCHECK=1, NUMBA_CACHE_DIR=tmp_path)
    assert done.returncode == 0, done.stderr
