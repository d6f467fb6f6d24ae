"""What the CUDA kernels need (registers, shared memory, occupancy) and move, counted without a GPU.

Two parts. For each kernel, what the compiler gave it: registers, shared memory, spills, and how much of a
multiprocessor it can fill (analysis/machine_code.py; needs the extra ``cuda``). For the operators with a ladder, what
each rung asks of memory per output (mx.lab.ladder_table). How long anything takes only a GPU can tell.
"""

from __future__ import annotations

import argparse
import sys

from ...analysis import machine_code
from ...analysis.memory_trace import ladder_table
from ...tables import Table
from ..results import write_result
from . import command

LADDERS = ("depthwise_conv2d", "pointwise_conv2d", "batch_norm")
DIRECTIONS = ("forward", "backward")


def traffic() -> Table:
    """A row for each rung of each ladder and direction."""
    rows: list[tuple[object, ...]] = []
    header: tuple[str, ...] = ()
    for operator in LADDERS:
        for direction in DIRECTIONS:
            table = ladder_table(operator, direction=direction)
            header = ("operator", "direction", *table.header)
            rows += [(operator, direction, *row) for row in table.rows]
    return Table(header, rows)


def add_options(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> int:
    """Compile and count, print both tables, write the JSON file; 1 if a kernel has a fault, which stderr names."""
    machine_code.require_nvvm()
    kernels = machine_code.compile_package()
    moved = traffic()
    print(f"{moved}\n\n{machine_code.table(kernels)}")
    figures = {
        "seed": 0,
        "traffic": [dict(zip(moved.header, row, strict=True)) for row in moved.rows],
        "kernels": [kernel.to_json() for kernel in kernels],
    }
    write_result(options.out, command("gpu_counts", options.out), figures)
    faults = machine_code.faults(kernels)
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return int(bool(faults))
