"""Run by hand, on a machine with an NVIDIA GPU: NVIDIA's compute-sanitizer over one small case of every kernel.

    python -m tests.by_hand.check_sanitizer --out docs/results/sanitizer.json

Each tool starts this file anew with --cases, which runs every operator x CUDA rung x direction; and with --planted,
which runs a kernel with a mistake of the kind that the tool is there to find: a clean result says nothing if the tool
does not see. Exit status: 0 if all is clean, 1 if something was found, 2 if it could not be run.
"""

from __future__ import annotations

import argparse
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

from minixception.bench.results import write_result
from minixception.engine.op import Case, RandomDraw
from minixception.gpu import kernel as gpu
from minixception.gpu.kernel import cuda, dtype, kernel
from minixception.ops import OPERATORS
from minixception.tables import Table

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
FOUND = 99  # exit status of the sanitizer where it found something
SECONDS = 1800  # at most, for one tool
_COUNTED = "cases run: "


@dataclass(frozen=True)
class Verdict:
    """What one tool said. cases: how many ran. planted: "found", or what happened to the planted mistake instead."""

    tool: str
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


def check(sanitizer: str, tool: str, start: Callable[[list[str]], tuple[str, int]]) -> Verdict:
    """Run one tool over the cases and over its planted mistake."""
    options = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "all"]
    if tool == "memcheck":
        options += ["--report-api-errors", "no"]  # what the driver refuses is an exception in Python, and no kernel's
    this = [sys.executable, __file__]
    text, status = start([*options, *this, "--cases"])
    verdict, errors, warnings = read(tool, text, status)
    cases = int("".join(re.findall(rf"^{_COUNTED}(\d+)$", text, re.MULTILINE)) or 0)
    if verdict == "clean" and cases == 0:
        verdict = "no case ran"
    planted = read(tool, *start([*options, *this, "--planted", tool]))[0]
    return Verdict(tool, verdict, errors, warnings, cases, planted, "" if verdict == "clean" else text[-20_000:])


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
        return gpu.numba_cuda().device_array(tuple(shape), np.dtype(number))


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


def run_cases() -> int:
    """Every operator x CUDA rung x direction; how many of them."""
    from minixception.gpu.device import to_cpu, to_gpu

    count = 0
    for name, op in OPERATORS.items():
        for rung in (op.rungs[one] for one in op.rungs if one.startswith("cuda")):
            for case in cases(name):
                y, saved = rung.forward(*map(to_gpu, case.arrays), **case.params)
                dy = to_gpu(np.ones(y.shape, y.dtype))
                to_cpu(y)
                [to_cpu(gradient) for gradient in rung.backward(dy, saved) if gradient is not None]
                count += 2
    return count


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


PLANTED = dict(zip(TOOLS, (past_the_end, without_a_barrier, half_a_warp_at_a_barrier, never_written), strict=True))


def run_planted(tool: str) -> None:
    """The kernel with the mistake that this tool finds, one block."""
    from minixception.gpu.device import to_cpu, to_gpu

    x = gpu.empty((128,), np.float32) if tool == "initcheck" else to_gpu(np.ones(128, np.float32))
    y = gpu.empty((128,), np.float32)
    PLANTED[tool][2 if tool == "memcheck" else 1, 128](x, y)
    to_cpu(y)


# The command ----------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all tools, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description="NVIDIA's compute-sanitizer over a small case of every kernel.")
    parser.add_argument("--out", type=Path, help="result file (JSON)")
    parser.add_argument("--cases", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--planted", choices=TOOLS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cases or options.planted:
        gpu.pool = ExactMemory  # what asks for memory looks it up here
        if options.planted:
            run_planted(options.planted)
        else:
            print(f"{_COUNTED}{run_cases()}", flush=True)
        return 0
    os.environ[gpu.VARIABLE] = ""
    if reason := missing():
        print(f"compute-sanitizer was not run: {reason}", file=sys.stderr)
        return 2
    found = [check(find_sanitizer(), tool, started) for tool in TOOLS]
    header = ("tool", "verdict", "errors", "warnings", "cases", "planted mistake")
    print(Table(header, [tuple(asdict(one).values())[:-1] for one in found]))
    if options.out:
        device = gpu.numba_cuda().get_current_device().name
        name = device.decode() if isinstance(device, bytes) else str(device)
        figures = {"seed": 0, "device": name, "tools": [asdict(one) for one in found]}
        write_result(options.out, "python -m tests.by_hand.check_sanitizer", figures)
    return int(not all(one.is_clean for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
