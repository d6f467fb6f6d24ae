"""What each fusion of a compiled training step is worth: the step with all of them, and without one at a time.

Without a fusion the step does what it would do with kernels that end at the layer: it writes what the fusion does not
write, and reads it again. Beside the time stand the bytes of activations that cross memory, counted
(compiler/training/traffic.py): what is saved is predicted before it is measured. The step that runs layer by layer
comes last.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import numba
import numpy as np

from ...compiler.training import fuse, parts
from ...compiler.training.plan import TrainingPlan
from ...engine.random import seed
from ...engine.tensor import Tensor
from ...graph.trace import Layer
from ...models import Xception, mini_xception
from ...ops import cross_entropy
from ...ops.batchnorm.cpu import gradient_sums, normalise
from ...ops.depthwise.cpu import floor, input_gradient, weight_gradient
from ...ops.separable import training as separable
from ...optim import SGD
from ...tables import Table
from ...timing import Timing, disturbance, in_turn, second_call
from ..contestants import Workload
from ..results import write_result
from ..training import random_batch, training_step
from . import command

Array = np.ndarray
WORKLOADS = (
    Workload("Xception 299", Xception, 4, training=True),
    Workload("mini_xception 32", mini_xception, 64, training=True),
)

# Without a fusion -----------------------------------------------------------------------------------------------------

_forward: Any = separable.forward
_gradients: Any = separable.gradients
_behind = fuse.behind


def _written(build: Any, node: Layer, *others: Any) -> parts.Behind:
    """What runs with a batchnorm that writes its result, whoever reads it."""
    found = _behind(build, node, *others)
    return parts.Behind() if found.reader else found


def _without_statistics(*arguments: Any) -> None:
    """The forward pass; batchnorm reads y again."""
    _forward(*arguments[:6], statistics=False)


def _two_passes(
    x: Array, incoming: Any, relu: bool, dz: Array, wd: Array, dx: Array, corner: Any, residual: Any, of: Any
) -> tuple[Array, Array]:
    """The gradients of a depthwise convolution, each in a pass of its own over what batchnorm and ReLU have written."""
    read, none = normalise(x, incoming), floor(x.dtype, relu=False)
    dx[...] = input_gradient(dz, read, wd, 1, corner[0], none, relu)
    if residual is not None:
        dx += residual
    return weight_gradient(dz, read, wd.shape, 1, corner[0], none), _sums(dx, of)


def _sums_apart(*arguments: Any) -> tuple[Array, Array]:
    """The gradients in one pass, and the sums for batchnorm in another."""
    dwd, _ = _gradients(*arguments[:8], None)
    return dwd, _sums(arguments[5], arguments[8])


def _sums(dx: Array, of: Any) -> Array:
    return np.empty((2, 0)) if of is None else gradient_sums(dx, *of)


@dataclass(frozen=True)
class Without:
    """A step without a fusion: what stands in for it, and the elements that a separable convolution then moves more."""

    name: str
    replaced: Callable[[], AbstractContextManager[Any]]
    more: Callable[[parts.SeparablePart], int] = lambda part: 0


def _replaced(where: Any, what: str, by: Any) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(where, what, by)


def _x(part: parts.SeparablePart) -> int:
    return math.prod(part.node.inputs[0])


def _y(part: parts.SeparablePart) -> int:
    return math.prod(part.node.output) if part.norm else 0


WITHOUT = (
    Without("nothing: all fusions", nullcontext),
    Without("normalising and rectifying on load", _replaced(fuse, "behind", _written)),  # the plan counts it
    Without("statistics of strips in L2", _replaced(separable, "forward", _without_statistics), _y),
    Without("both products from strips in L2", _replaced(separable, "pays_in_strips", lambda *sizes: False)),
    Without(
        "both depthwise gradients in one pass",
        _replaced(separable, "gradients", _two_passes),
        lambda part: (6 if part.summing else 4) * _x(part),  # x read and written, read again, dz read again; the sums
    ),
    Without(
        "batchnorm's sums in that pass",
        _replaced(separable, "gradients", _sums_apart),
        lambda part: 2 * _x(part) if part.summing else 0,
    ),
)
_EAGER = "everything: layer by layer"


# Measured -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A step without a fusion: its time, and the elements of activations that cross memory."""

    workload: Workload
    without: str
    time: Timing
    elements: int

    def to_json(self) -> dict[str, Any]:
        """Plain data; seconds."""
        network = {"network": self.workload.name, "batch": self.workload.batch, "without": self.without}
        return network | {"seconds": vars(self.time), "elements": self.elements}


def measure(workload: Workload, repeats: int) -> list[Row]:
    """The forward and backward pass of a step, with all fusions, without each, and layer by layer; in turns."""
    seed(0)
    model = workload.model().train()
    x, labels = random_batch(model, workload.batch)
    turns: dict[str, Callable[[], float]] = {}
    elements: dict[str, int] = {}
    for one in WITHOUT:
        with one.replaced():
            plan = TrainingPlan(model, x.shape, x.dtype)
            separables = [part for part in plan.parts if isinstance(part, parts.SeparablePart)]
            elements[one.name] = sum(plan.traffic[0]) + sum(map(one.more, separables))
        turns[one.name] = partial(_seconds, one, plan, x, Tensor(labels))
        elements[_EAGER] = sum(plan.traffic[1])
    eager = training_step(model, Tensor(x), labels, SGD(model.parameters(), lr=0.01), update=False)
    turns[_EAGER] = partial(second_call, eager)
    times = in_turn(turns, repeats)
    return [Row(workload, name, time, elements[name]) for name, time in times.items()]


def _seconds(one: Without, plan: TrainingPlan, x: Array, labels: Tensor) -> float:
    with one.replaced():
        return second_call(lambda: plan(x, labels, cross_entropy))


def add_options(parser: argparse.ArgumentParser) -> None:
    """How often each step is timed."""
    parser.add_argument("--repeats", type=int, default=9, help="of each step; default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Measure both networks, print a table, write the JSON file."""
    rows = [row for workload in WORKLOADS for row in measure(workload, options.repeats)]
    print(_table(rows))
    if warning := disturbance({(row.workload.name, row.without): row.time for row in rows}):
        print(warning)
    figures = {"seed": 0, "repeats": options.repeats, "threads": numba.get_num_threads()}
    figures["rows"] = [row.to_json() for row in rows]
    write_result(options.out, command("fusions", options.out, repeats=options.repeats), figures)
    return 0


def _table(rows: Sequence[Row]) -> Table:
    header = ("network", "without", "passes", "over all", "MiB across memory", "over all")
    cells = []
    for row in rows:
        whole = next(r for r in rows if r.workload is row.workload)
        times = str(row.time), row.time.median / whole.time.median
        cells.append((row.workload.name, row.without, *times, row.elements / 2**18, row.elements / whole.elements))
    return Table(header, cells)
