"""Run by hand, on a machine with an NVIDIA GPU: NVIDIA's compute-sanitizer over one small case of every kernel.

    python -m tests.by_hand.check_sanitizer --out docs/results/sanitizer.json

Each check starts this file anew with --cases, which runs every operator x CUDA rung x direction; and with --planted,
which runs a kernel with a mistake of the kind that the check is there to find: a clean result says nothing if the tool
does not see. An index past an array's end is seen where each array has memory of its own; so the checks go around the
package's pool, and the last one goes through it: no block may be freed that an array, or a graph, still lies in.
Exit status: 0 if all is clean, 1 if something was found, 2 if it could not be run.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minixception as mx
from minixception.bench.results import write_result
from minixception.engine.op import Case, RandomDraw
from minixception.errors import ShapeError
from minixception.gpu import kernel as gpu
from minixception.gpu.array import GpuArray
from minixception.gpu.device import empty_cache, to_cpu, to_gpu
from minixception.gpu.kernel import cuda, dtype, kernel
from minixception.ops import OPERATORS
from minixception.tables import Table

CHECKS = {tool: tool for tool in ("memcheck", "racecheck", "synccheck", "initcheck")} | {"pool": "memcheck"}  # tools
FOUND = 99  # exit status of the sanitizer where it found something
SECONDS = 1800  # at most, for one tool
_COUNTED = "cases run: "


@dataclass(frozen=True)
class Verdict:
    """What came of one check. cases: how many ran. planted: "found", or what became of the planted mistake instead."""

    check: str
    verdict: str
    errors: int
    warnings: int
    cases: int
    planted: str
    output: str = ""

    @property
    def is_clean(self) -> bool:
        """No errors, no warnings, and proof that the tool can see."""
        return self.verdict == "clean" and self.planted == "found"


def read(tool: str, text: str, status: int) -> tuple[str, int, int]:
    """The verdict, errors and warnings in what compute-sanitizer printed; it left with this exit status.

    Clean is only a run that ended well, with exactly one summary, of zero.
    """
    if tool == "racecheck":
        pattern = r"^=+ RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?, (\d+) warnings?\)\s*$"
    else:
        pattern = r"^=+ ERROR SUMMARY: (\d+) errors?()\s*$"
    summaries = re.findall(pattern, text, re.MULTILINE)
    if len(summaries) != 1:
        return f"{len(summaries)} summaries", 0, 0
    errors, warnings = (int(number or 0) for number in summaries[0])
    if errors or warnings:
        return "found", errors, warnings
    return "clean" if status == 0 else f"exit status {status}", 0, 0


def check(sanitizer: str, name: str, start: Callable[[list[str]], tuple[str, int]]) -> Verdict:
    """Run the tool of one check over its cases and over its planted mistake."""
    tool = CHECKS[name]
    options = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all"]
    if tool == "memcheck":
        options += ["--report-api-errors", "no"]  # what the driver refuses is an exception in Python, and no kernel's
    this = [sys.executable, __file__]
    text, status = start([*options, *this, "--cases", name])
    verdict, errors, warnings = read(tool, text, status)
    cases = int("".join(re.findall(rf"^{_COUNTED}(\d+)$", text, re.MULTILINE)) or 0)
    if verdict == "clean" and cases == 0:
        verdict = "no case ran"
    planted = read(tool, *start([*options, *this, "--planted", name]))[0]
    return Verdict(name, verdict, errors, warnings, cases, planted, "" if verdict == "clean" else text[-20_000:])


def started(command: list[str]) -> tuple[str, int]:
    """All that a command prints, and its exit status."""
    environment = os.environ | {gpu.VARIABLE: ""}
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {SECONDS} s", 1
    return done.stdout, done.returncode


def find_sanitizer() -> str:
    """compute-sanitizer on PATH or in a CUDA toolkit; nothing if there is none."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    path = os.pathsep.join([os.environ.get("PATH", ""), *(str(Path(home) / "bin") for home in homes if home)])
    return shutil.which("compute-sanitizer", path=path) or ""


def missing() -> str:
    """What this check lacks here, in one line; nothing if it can run."""
    if gpu.is_simulated():
        return f"it needs an NVIDIA GPU, and {gpu.VARIABLE} asks for the simulator"
    if not gpu.is_available():
        return "Numba finds no NVIDIA GPU that it can use"
    if not find_sanitizer():
        return "the tool, part of the CUDA toolkit, is neither on PATH nor in CUDA_HOME"
    return ""


# What runs under the sanitizer ----------------------------------------------------------------------------------------


class ExactMemory:
    """In place of the pool: the driver's own memory for each array, so that an index past its end is in none."""

    def empty(self, shape: Sequence[int], number: Any) -> Any:
        """An uninitialised array."""
        block = gpu.numba_cuda().device_array(tuple(shape), np.dtype(number))
        if gpu.is_simulated():
            return block
        return GpuArray(block, block.__cuda_array_interface__["data"][0] or 0, block.shape, block.dtype)


# Larger than the operators' own samples: several blocks, slabs and tiles, and edges that fill none.
LARGER = {
    "depthwise_conv2d": (((2, 19, 17, 40), (3, 3, 40)), {"stride": 1, "padding": "same"}),
    "pointwise_conv2d": (((2, 9, 9, 70), (70, 67)), {"stride": 1}),
    "batch_norm": (((3, 11, 9, 40), (40,), (40,), (40,), (40,)), {"training": True, "eps": 1e-3}),
}


def cases(name: str) -> list[Case]:
    """A sample of the operator, and a larger case of those with a ladder."""
    found = [OPERATORS[name].sample(RandomDraw(0, np.float32))]
    if name in LARGER:
        shapes, params = LARGER[name]
        draw = RandomDraw(1, np.float32)
        found.append(Case(tuple(np.abs(draw.normal(*shape)) for shape in shapes), params))
    return found


def run_cases(name: str) -> int:
    """Every operator x CUDA rung x direction, through the pool also as below; how many of them."""
    count = 0
    for operator, op in OPERATORS.items():
        for rung in (op.rungs[one] for one in op.rungs if one.startswith("cuda")):
            for case in cases(operator):
                y, saved = rung.forward(*map(to_gpu, case.arrays), **case.params)
                dy = to_gpu(np.ones(y.shape, y.dtype))
                to_cpu(y)
                [to_cpu(gradient) for gradient in rung.backward(dy, saved) if gradient is not None]
                count += 2
                if name == "pool":
                    leave_an_error_to_the_collector()
                    empty_cache()
    return count + (replay() if name == "pool" else 0)


def leave_an_error_to_the_collector() -> None:
    """A caught error whose traceback holds arrays in a cycle: they die in no particular order."""
    try:
        y = mx.ops.relu(mx.tensor(np.ones((2, 3), np.float32)).to("cuda"))
        mx.ops.add(y, mx.tensor(np.ones((3, 7), np.float32)).to("cuda"))
    except ShapeError as error:
        error.itself = error
    gc.collect()


def replay() -> int:
    """A graph with weights that nobody else keeps, while other arrays come and go; how many calls."""
    fast = mx.compile(mx.nn.Sequential(mx.nn.PointwiseConv2d(8, 8), mx.nn.Activation()).to("cuda"))
    for _ in range(4):
        fast(mx.tensor(np.ones((1, 4, 4, 8), np.float32)).to("cuda")).numpy()
        leave_an_error_to_the_collector()
        empty_cache()
    return 4


@kernel
def past_the_end(x, y):
    """For memcheck: one index too many."""
    i = cuda.grid(1)
    if i <= y.size:
        y[i] = x[0]


@kernel
def without_a_barrier(x, y):
    """For racecheck: a neighbour's number before it is sure to be there."""
    tile = cuda.shared.array(128, dtype)
    i = cuda.threadIdx.x
    tile[i] = x[i]
    y[i] = tile[127 - i]


@kernel
def half_a_warp_at_a_barrier(x, y):
    """For synccheck: the other half does not come."""
    i = cuda.threadIdx.x
    if i % 32 < 16:
        cuda.syncthreads()
    y[i] = x[i]


@kernel
def never_written(x, y):
    """For initcheck, with x as the driver gave it."""
    i = cuda.threadIdx.x
    y[i] = x[i]


@kernel
def freed(x, y):
    """For memcheck through the pool, with an x whose block has been freed."""
    i = cuda.threadIdx.x
    y[i] = x[i]


PLANTED = dict(
    zip(CHECKS, (past_the_end, without_a_barrier, half_a_warp_at_a_barrier, never_written, freed), strict=True)
)


def run_planted(name: str) -> None:
    """The kernel with the mistake that this check finds, one block."""
    x = gpu.empty((128,), np.float32) if name == "initcheck" else to_gpu(np.ones(128, np.float32))
    y = gpu.empty((128,), np.float32)
    if name == "pool":
        x = GpuArray(None, x.address, x.shape, x.dtype)  # without the lease: nobody keeps the block
        empty_cache()
        gpu.numba_cuda().current_context().memory_manager.deallocations.clear()  # frees what waits to be freed
    PLANTED[name][2 if name == "memcheck" else 1, 128](x, y)
    to_cpu(y)


# The command ----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all tools, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description="NVIDIA's compute-sanitizer over a small case of every kernel.")
    parser.add_argument("--out", type=Path, help="result file (JSON)")
    parser.add_argument("--cases", choices=CHECKS, help=argparse.SUPPRESS)
    parser.add_argument("--planted", choices=CHECKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cases or options.planted:
        if "pool" not in (options.cases, options.planted):
            gpu.pool = ExactMemory  # what asks for memory looks it up here
        if options.planted:
            run_planted(options.planted)
        else:
            print(f"{_COUNTED}{run_cases(options.cases)}", flush=True)
        return 0
    os.environ[gpu.VARIABLE] = ""
    if reason := missing():
        print(f"compute-sanitizer was not run: {reason}", file=sys.stderr)
        return 2
    found = [check(find_sanitizer(), name, started) for name in CHECKS]
    header = ("check", "verdict", "errors", "warnings", "cases", "planted mistake")
    print(Table(header, [tuple(asdict(one).values())[:-1] for one in found]))
    if options.out:
        device = gpu.numba_cuda().get_current_device().name
        name = device.decode() if isinstance(device, bytes) else str(device)
        figures = {"seed": 0, "device": name, "checks": [asdict(one) for one in found]}
        write_result(options.out, "python -m tests.by_hand.check_sanitizer", figures)
    return int(not all(one.is_clean for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
