"""What the CUDA kernels need and move, counted without a GPU.

    python -m minixception.bench.records.gpu_counts docs/results/gpu.json

Two parts. For each kernel, what the compiler gave it: registers, shared memory, spills, and how much of a
multiprocessor it can fill (analysis/machine_code.py; needs the extra ``cuda``). For the operators with a ladder, what
each rung asks of memory per output (mx.lab.ladder_table). How long anything takes only a GPU can tell.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ... import course as lab
from ...analysis import machine_code as gpu_compile
from ...tables import Table
from ..results import write_result

LADDERS = ("depthwise_conv2d", "pointwise_conv2d", "batch_norm")
DIRECTIONS = ("forward", "backward")


def traffic() -> Table:
    """A row for each rung of each ladder and direction."""
    rows: list[tuple[object, ...]] = []
    header: tuple[str, ...] = ()
    for operator in LADDERS:
        for direction in DIRECTIONS:
            table = lab.ladder_table(operator, direction=direction)
            header = ("operator", "direction", *table.header)
            rows += [(operator, direction, *row) for row in table.rows]
    return Table(header, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and compile, print both tables, write the JSON file; 1 if a kernel has a fault."""
    parser = argparse.ArgumentParser(description="Count what the CUDA kernels need and move, without a GPU.")
    parser.add_argument("out", type=Path, help="result file")
    options = parser.parse_args(arguments)
    gpu_compile.require_nvvm()
    moved = traffic()
    kernels = gpu_compile.compile_package()
    print(f"{moved}\n\n{gpu_compile.table(kernels)}")
    figures = {
        "seed": 0,
        "traffic": [dict(zip(moved.header, row, strict=True)) for row in moved.rows],
        "kernels": [kernel.to_json() for kernel in kernels],
    }
    write_result(options.out, "python -m minixception.bench.records.gpu_counts", figures)
    return int(any(kernel.faults() for kernel in kernels))


if __name__ == "__main__":
    raise SystemExit(main())
