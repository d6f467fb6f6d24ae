"""The steps of a compiled network beside the machine's limit, one by one: where an inference loses its time.

Each is timed within whole runs, so that it finds in the caches what the step before has left there. The bound counts
the multiply-accumulates of the step, and bytes: what it reads, its weights and what it writes, each once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..compiler.fuse import Step
from ..compiler.plan import Plan
from ..engine.random import seed
from ..models import Xception
from ..tables import Table
from ..timing import summarise
from .contestants import Workload
from .limits import Limits
from .measurement import OURS, Measurement, summary
from .threads import numba_threads
from .training import random_batch

if TYPE_CHECKING:
    from tqdm import tqdm


WORKLOAD = Workload("Xception 299", Xception, 1, training=False)


def measure(workload: Workload, limits: Limits, repeats: int, bar: tqdm[Any]) -> list[Measurement]:
    """A measurement of each step, in the order of running, on ``limits.threads`` threads; ``repeats`` steps of the bar.

    The first run does not count: it may compile.
    """
    seed(0)
    model = workload.model().eval()
    x, _ = random_batch(model, workload.batch)
    with numba_threads(limits.threads):
        plan = Plan(model, x.shape, x.dtype, {}, "cpu")
        plan.run(x)
        runs = []
        for _ in range(repeats):
            runs.append(plan.seconds(x))
            bar.update()
    rows = zip(plan.steps, zip(*runs, strict=True), strict=True)
    return [_row(step, plan, limits, x.itemsize, seconds) for step, seconds in rows]


def _row(step: Step, plan: Plan, limits: Limits, itemsize: int, seconds: Sequence[float]) -> Measurement:
    values = [plan.shapes[index] for index in (*step.inputs, step.result)]
    elements = sum(math.prod(shape) for shape in (*values, *(weights.shape for weights in step.node.tensors)))
    times = {OURS: summarise(seconds)}
    return summary(" + ".join(step.paths), "forward", limits, 2 * step.node.macs, itemsize * elements, times)


def table(rows: Sequence[Measurement]) -> Table:
    """The steps of one network on so many threads: that with the most time above its limit first, and a total."""

    def cells(name: str, limit: str, taken: float, bound: float) -> tuple[Any, ...]:
        return name, 1e3 * taken, 1e3 * bound, limit, f"{bound / taken:.0%}", 1e3 * (taken - bound)

    header = ("step", "ms", "least ms", "limit", "share", "ms above")
    ordered = sorted(rows, key=lambda row: row.bound - row.ours.median)
    body = [cells(row.name, row.limited_by, row.ours.median, row.bound) for row in ordered]
    taken, bound = sum(row.ours.median for row in rows), sum(row.bound for row in rows)
    return Table(header, body, cells(f"{len(rows)} steps", "", taken, bound))
