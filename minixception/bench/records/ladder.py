"""The ladder of kernels: each rung of an operator on one core, and the share of the machine's limit it reaches.

The rungs are the NumPy definition (whose matrix products run on NumPy's own BLAS, with as many threads as that takes),
the plain loops, and the fast kernel. Their results are compared before any time is taken.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ...engine.op import Shape
from ...ops import OPERATORS
from ...tables import Table
from ...timing import interleaved
from ..limits import Limits, measure
from ..measurement import require_near
from ..results import write_result
from ..threads import numba_threads
from . import command

RUNGS = ("numpy", "loops", "cpu")


@dataclass(frozen=True)
class Case:
    """An operator at the shapes it has in Xception: input arrays by shape, and parameters."""

    operator: str
    shapes: tuple[Shape, ...]
    params: dict[str, Any]

    def counts(self, direction: str) -> tuple[int, int]:
        """FLOP (two a multiply-accumulate) and bytes (each float32 moved once) of "forward" or "backward".

        The backward pass has a product for each of two gradients; it reads what the forward pass read and the output's
        gradient, and writes the inputs' gradients.
        """
        op = OPERATORS[self.operator]
        flop = 2 * op.macs(*self.shapes, **self.params)
        read, written = 4 * sum(map(math.prod, self.shapes)), 4 * math.prod(op.shape(*self.shapes, **self.params))
        return (flop, read + written) if direction == "forward" else (2 * flop, 2 * read + written)


_SAME = {"stride": 1, "padding": "same"}
_CHANNELS = (728,)
CASES = (
    Case("depthwise_conv2d", ((1, 19, 19, 728), (3, 3, 728)), _SAME),
    Case("pointwise_conv2d", ((1, 19, 19, 728), (728, 728)), {"stride": 1}),
    Case("conv2d", ((1, 56, 56, 64), (3, 3, 64, 64)), _SAME | {"groups": 1}),
    Case("batch_norm", ((8, 19, 19, 728), *[_CHANNELS] * 4), {"training": True, "eps": 1e-3}),
    Case("max_pool2d", ((1, 74, 74, 128),), {"size": (3, 3), "stride": 2, "padding": "same"}),
)


def climb(case: Case, limits: Limits, repeats: int) -> list[dict[str, Any]]:
    """One row per rung and direction. Raises ArithmeticError if a rung's results are not those of the definition."""
    op, rng = OPERATORS[case.operator], np.random.default_rng(0)
    arrays = [np.abs(rng.standard_normal(shape, np.float32)) for shape in case.shapes]  # positive: variances too
    y, saved = op.rungs["numpy"].forward(*arrays, **case.params)
    dy = rng.standard_normal(y.shape, np.float32)
    gradients = [g for g in op.rungs["numpy"].backward(dy, saved) if g is not None]
    for name in RUNGS:
        got, got_saved = op.rungs[name].forward(*arrays, **case.params)
        results = [got, *[g for g in op.rungs[name].backward(dy, got_saved) if g is not None]]
        for ours, reference in zip(results, [y, *gradients], strict=True):
            error = float(np.abs(ours - reference).max() / np.abs(reference).max())
            require_near(f"{case.operator}, rung {name}", error, 1e-4)
    passes: dict[str, dict[str, Callable[[], Any]]] = {
        "forward": {name: partial(op.rungs[name].forward, *arrays, **case.params) for name in RUNGS},
        "backward": {name: partial(op.rungs[name].backward, dy, saved) for name in RUNGS},
    }
    rows = []
    for direction, functions in passes.items():
        flop, nbytes = case.counts(direction)
        bound = limits.seconds(flop, nbytes)
        for name, timing in interleaved(functions, repeats).items():
            row: dict[str, Any] = {
                "operator": case.operator,
                "shape": list(case.shapes[0]),
                "direction": direction,
                "rung": name,
            }
            row |= {"flop": flop, "nbytes": nbytes, "seconds": vars(timing)}
            rows.append(row | {"bound": bound, "share_of_limit": bound / timing.median})
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    """How often each rung is timed."""
    parser.add_argument("--repeats", type=int, default=7, help="of each kernel; default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Climb every ladder, print a table, write the JSON file."""
    limits = measure(1)
    with numba_threads(1):
        rows = [row for case in CASES for row in climb(case, limits, options.repeats)]
    header = ("operator", "input", "direction", "rung", "ms", "% of the limit")
    cells = [
        (r["operator"], "x".join(map(str, r["shape"])), r["direction"], r["rung"], 1e3 * r["seconds"]["median"],
         100 * r["share_of_limit"])
        for r in rows
    ]  # fmt: skip
    print(Table(header, cells))
    figures = {"seed": 0, "repeats": options.repeats, "limits": vars(limits), "rows": rows}
    write_result(options.out, command("ladder", options.out, repeats=options.repeats), figures)
    return 0
