"""Every CUDA kernel compiles for three architectures without a GPU; the fast ones spill nothing and fill half of one.

Compiling needs NVVM (the extra `cuda`) and a process without the simulator, so it is done in other processes.
"""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from minixception.analysis import machine_code
from minixception.analysis.machine_code import ARCHITECTURES, DTYPES, Compiled, Signature, Usage, occupancy
from minixception.gpu import peak
from minixception.gpu.kernel import cuda, dtype, kernel
from minixception.gpu.vectors import load4, store4
from tests.helpers.processes import compiled_elsewhere, python

FLOATS = (("float32", 1), ("float32", 1))


@kernel
def sound(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i] + dtype(1)


@kernel
def stacked(x, y):
    """An array of a thread that is indexed by a number known only at run time cannot lie in registers."""
    kept = cuda.local.array(64, dtype)
    for i in range(64):
        kept[int(x[i])] = x[i + 1]
    y[cuda.grid(1)] = kept[int(x[0])]


@kernel
def greedy(x, y):
    """So much shared memory that few blocks have room."""
    tile = cuda.shared.array(10_000, dtype)
    tile[cuda.threadIdx.x] = x[cuda.grid(1)]
    cuda.syncthreads()
    y[cuda.grid(1)] = tile[0]


@kernel
def by_vectors(x, y):
    tile = cuda.shared.array(130, dtype)
    at = cuda.threadIdx.x * 4
    a, b, c, d = load4(x, at)
    store4(tile, at, a, b, c, d)
    cuda.syncthreads()
    a, b, c, d = load4(tile, 124 - at)
    store4(y, at, a, b, c, d)


@kernel
def wrong(x, y):
    y[cuda.grid(1)] = cuda.no_such_thing(x)


PLANTED = (sound, stacked, greedy, wrong)


def print_planted():
    """For another process: what the check says of the kernels above."""
    found = [Signature(one, np.float32, FLOATS, 128, ("planted cuda",)) for one in PLANTED]
    found.append(Signature(greedy, np.float32, FLOATS, 128, ("planted cuda_naive",)))
    print(json.dumps([row.faults() for row in machine_code.compile_all(found)]))


def print_vectors():
    """For another process: the accesses in the PTX of ``by_vectors``, and how its shared array is aligned."""
    for number in DTYPES:
        code = machine_code.ptx(Signature(by_vectors, np.dtype(number).type, ((number, 1), (number, 1))), "sm_80")
        found = re.findall(r"(?:ld|st)\.(?:global|shared)\S*|\.shared \.align \d+", code)
        print(json.dumps(sorted(found)))


def print_peak():
    """For another process: the PTX of the kernels that measure a GPU's limits."""
    for one, arguments in ((peak._copy, FLOATS), (peak._multiply_add, (FLOATS[0], ("int64", 0)))):
        print(json.dumps(machine_code.ptx(Signature(one, np.float32, arguments, 128), "sm_90")))


def one_of_each_file():
    """The last kernel of each file that is launched in float32."""
    found = (one for one in machine_code.signatures() if one.dtype is np.float32)
    return list({one.kernel.function.__module__: one for one in found}.values())


def print_some():
    """For another process: what is wrong with these kernels, for one architecture."""
    machine_code.ARCHITECTURES = ("sm_80",)
    print(json.dumps([row.faults() for row in machine_code.compile_all(one_of_each_file())]))


def print_package():
    """For another process: every kernel compiled, and what is wrong with it."""
    rows = machine_code.compile_package()
    print(json.dumps({"kernels": [row.to_json() for row in rows], "faults": machine_code.faults(rows)}))


def test_a_kernel_of_each_file_compiles():
    assert len(one_of_each_file()) > 20
    (faults,) = compiled_elsewhere("tests.gpu.test_ptx", "print_some()")
    assert faults == [[]] * len(one_of_each_file())


@pytest.mark.slow
def test_every_kernel_compiles_and_the_fast_ones_fill_half_a_gpu():
    (found,) = compiled_elsewhere("tests.gpu.test_ptx", "print_package()")
    assert found["faults"] == []  # what is wrong with which kernel
    rows = found["kernels"]
    compiled = {(row["kernel"], row["dtype"], row["architecture"]) for row in rows}
    launched = {(one.kernel.name, np.dtype(one.dtype).name) for one in machine_code.signatures()}
    assert compiled == {(*one, architecture) for one in launched for architecture in ARCHITECTURES}
    assert {number for _, number in launched} == set(DTYPES)
    assert all(row["usage"] for row in rows), "ptxas was not found"


def test_planted_mistakes_are_found():
    (faults,) = compiled_elsewhere("tests.gpu.test_ptx", "print_planted()")
    each = [faults[i : i + 3] for i in range(0, len(faults), 3)]
    assert each[0] == [[]] * 3
    assert all("no_such_thing" in text for (text,) in each[3])
    assert all(re.search("stacked float32 sm_.*stack frame of 256 bytes", text) for text, *_ in each[1])
    assert all(re.search(r"greedy float32 sm_.*occupancy of \d+%", text) for (text,) in each[2])
    assert each[4] == [[]] * 3  # a slow rung may be slow


def test_vectors_are_single_instructions():
    of_float32, of_float64 = compiled_elsewhere("tests.gpu.test_ptx", "print_vectors()")
    memories = ("ld.global", "ld.shared", "st.global", "st.shared")
    assert of_float32 == [".shared .align 16", *(f"{access}.v4.f32" for access in memories)]
    assert of_float64 == [".shared .align 16", *(f"{access}.v2.f64" for access in memories for _ in range(2))]


def test_the_compiler_leaves_the_work_that_measures_the_limits_as_it_is():
    copy, multiply_add = compiled_elsewhere("tests.gpu.test_ptx", "print_peak()")
    assert (copy.count("ld.global.f32"), copy.count("st.global.f32")) == (4, 4)
    assert multiply_add.count("fma.rn.f32") == 8 * 16
    assert ".local" not in copy + multiply_add


def test_spills_are_a_fault_of_fast_rungs():
    def faults(rung, number="float32", **usage):
        need = Usage(**{"registers": 32, "shared": 0, "stack": 0, "spills": 0} | usage)
        return Compiled("k", number, "sm_80", 256, (f"op {rung}",), need).faults()

    assert faults("cuda") == []
    assert faults("cuda", spills=8) == ["k float32 sm_80: spills 8 bytes, stack frame of 0 bytes"]
    assert faults("cuda", "float64", stack=16) == ["k float64 sm_80: spills 0 bytes, stack frame of 16 bytes"]
    assert faults("cuda_naive", spills=8) == []
    assert faults("cuda", registers=64) == []
    assert len(faults("cuda", registers=65)) == 1
    assert faults("cuda", "float64", registers=128) == []
    assert Compiled("k", "float32", "sm_80", 256, error="no").faults() == ["k float32 sm_80: no"]


def test_occupancy_of_two_kernels_by_hand():
    """A matrix product's block on sm_75 and sm_90: 256 threads, 8 warps, of 62 registers, and 17,408 bytes.

    62 registers are 1984 of a warp, in portions of 256: 2048. Each of four schedulers has 16,384 registers: 8 warps,
    32 together, four blocks. sm_75 has 65,536 bytes of shared memory: three blocks, 24 of its 32 warps. sm_90 keeps
    1024 bytes for each block; 233,472 bytes have room for 12, and registers decide: four blocks, 32 of its 64 warps.
    """
    assert occupancy("sm_75", 256, 62, 17408) == 24 / 32
    assert occupancy("sm_90", 256, 62, 17408) == 32 / 64


# From NVIDIA's Occupancy Calculator's rules, worked out by hand.
@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "expected"),
    [
        ("sm_75", 128, 64, 0, 32 / 32),  # 65536 / 64 = 1024 threads: all that a multiprocessor holds
        ("sm_75", 32, 16, 0, 16 / 32),  # 16 blocks at most
        ("sm_80", 1024, 33, 0, 32 / 64),  # 40 registers each for two blocks of 1024 are too many
        ("sm_80", 256, 40, 0, 48 / 64),
        ("sm_80", 160, 80, 0, 20 / 64),  # 6 warps in each quarter of the registers, so four blocks of 5 and not five
        ("sm_80", 256, 16, 48 * 1024, 24 / 64),  # 164 KB hold 3 blocks of 48 + 1 KB
        ("sm_90", 256, 16, 48 * 1024, 32 / 64),  # 228 KB hold 4
        ("sm_90", 512, 16, 57 * 1024, 48 / 64),  # 228 KB hold 3 blocks of 57 + 1 KB, and would hold 4 of 57
        ("sm_90", 96, 16, 0, 63 / 64),  # 21 blocks of 3 warps
        ("sm_75", 128, 16, 65 * 1024, 0),  # more than there is
    ],
)
def test_occupancy(architecture, threads, registers, shared, expected):
    assert occupancy(architecture, threads, registers, shared) == expected


def test_a_kernel_that_no_sample_launches_is_named():
    found = machine_code.signatures()
    assert machine_code.never_launched(found) == []
    first = found[0].kernel.name
    assert machine_code.never_launched([one for one in found if one.kernel.name != first]) == [first]


def test_the_simulator_is_no_place_to_compile(tmp_path):
    done = python(
        "-m", "minixception.bench.records", "gpu_counts", tmp_path / "gpu.json", MINIXCEPTION_CUDA="simulator"
    )
    assert done.returncode == 2
    assert "in a process without the simulator: unset MINIXCEPTION_CUDA" in done.stderr
