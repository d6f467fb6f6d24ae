"""What the tape costs: the time of a training step in which no kernel runs.

Everything that the kernels return in one step (gradients set to zero by the optimiser, forward pass, loss, backward
pass; no update) is kept. Then steps are timed in which every operator returns what was kept instead of computing
it. What remains is Python: layers, checks, the tape and its heap; and adding the gradients of one tensor, which is
arithmetic and therefore timed on its own. What a rung does in Python around its compiled code, such as taking
memory from the pool, counts as kernel here, and so does giving that memory back: a replay frees no recorded array.
The target: without the additions, less than 2 % of a step.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numba
import numpy as np

from ...engine.op import Op, Rung
from ...engine.random import seed
from ...engine.tensor import Tensor
from ...errors import ArgumentError
from ...optim import SGD
from ...tables import Table
from ...timing import Timing, summarise, wall_clock
from ..contestants import Workload
from ..models import WORKLOADS
from ..results import write_result
from ..training import random_batch, training_step
from . import command

_TAPE = importlib.import_module("minixception.engine.tape")  # its attribute is replaced, not the function itself
_WARM_UP = 3  # steps


@dataclass(frozen=True)
class Overhead:
    """A step, the same step without kernels (``python``), and what of that was adding gradients, in seconds.

    operators: how many ran in the forward pass.
    """

    name: str
    operators: int
    step: Timing
    python: Timing
    adding: float

    @property
    def tape(self) -> float:
        """Share of the step that is neither kernels nor additions."""
        return (self.python.median - self.adding) / self.step.median

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the shares of the step."""
        return asdict(self) | {"python_share": self.python.median / self.step.median, "tape_share": self.tape}


class Replay:
    """A step that is run again from what its kernels returned; ``adding``: seconds the last run spent on additions.

    Only inside of ``installed()``. Gradients of one tensor are added in place, and so each run changes
    recorded arrays: that takes as long as ever, but the sums grow from run to run.
    """

    def __init__(self, step: Callable[[], Any], recorded: Sequence[Rung]) -> None:
        self.adding = 0.0
        self._step = step
        self._recorded = recorded
        self._left: Iterator[Rung] | None = None  # None while kernels run as usual

    def __call__(self) -> None:
        """Run the step without its kernels."""
        self.adding, self._left = 0.0, iter(self._recorded)
        self._step()
        self._left = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let operators and additions of gradients go through this object.

        For the whole of a measurement, because patching takes long enough to be seen in the time of a small step.
        """
        choose, add = Op.rung, _TAPE.accumulate

        def rung(op: Op, backend: str | None = None) -> Rung:
            chosen = choose(op, backend)  # also in a replay: the choice is part of what is measured
            return chosen if self._left is None else next(self._left)

        def accumulate(total: np.ndarray, term: np.ndarray) -> None:
            start = perf_counter()
            add(total, term)
            self.adding += perf_counter() - start

        with patch.object(Op, "rung", rung), patch.object(_TAPE, "accumulate", accumulate):
            yield


def record(step: Callable[[], Any]) -> list[Rung]:
    """Run the step; for each operator that ran, in order, a rung which returns what that one returned."""
    recorded: list[Rung] = []
    choose = Op.rung

    def rung(op: Op, backend: str | None = None) -> Rung:
        chosen = choose(op, backend)
        kept: dict[str, Any] = {}

        def forward(*arrays: np.ndarray, **params: Any) -> Any:
            kept["forward"] = chosen.forward(*arrays, **params)
            return kept["forward"]

        def backward(dy: np.ndarray, saved: Any, **wanted: Any) -> Any:
            kept["backward"] = chosen.backward(dy, saved, **wanted)
            return kept["backward"]

        recorded.append(Rung(lambda *_, **__: kept["forward"], lambda *_, **__: kept["backward"], chosen.selective))
        return Rung(forward, backward, chosen.selective)

    with patch.object(Op, "rung", rung):
        step()
    return recorded


def measure(workload: Workload, repeats: int) -> Overhead:
    """Steps with and without kernels, timed in turn; ArgumentError for repeats below 1.

    Each replay follows a real step at once: the processor's caches are then full of activations, as they are when
    Python's turn comes within a step. Memory: all activations and their gradients are kept.
    """
    if repeats < 1:
        raise ArgumentError(f"tape: repeats must be at least 1, got {repeats!r}")
    seed(0)
    model = workload.model().train()
    x, labels = random_batch(model, workload.batch)
    step = training_step(model, Tensor(x), labels, SGD(model.parameters(), lr=0.01), update=False)
    for _ in range(_WARM_UP):
        step()
    replay = Replay(step, recorded := record(step))
    steps, replays, adding = [], [], []
    with replay.installed():
        for _ in range(repeats):
            steps.append(wall_clock(step))
            replays.append(wall_clock(replay))
            adding.append(replay.adding)
    name = f"{workload.name}, batch {workload.batch}"
    return Overhead(name, len(recorded), summarise(steps), summarise(replays), float(np.median(adding)))


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many steps there are."""
    parser.add_argument("--repeats", type=int, default=15, help="steps of each kind; default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Measure the networks that are trained in ``minixception bench``, print a table, write the JSON file."""
    rows = [measure(workload, options.repeats) for workload in WORKLOADS if workload.training]
    header = ("network", "step ms", "Python and tape ms", "% of step", "of which adding gradients ms", "tape % of step")
    cells = [
        (row.name, 1e3 * row.step.median, 1e3 * row.python.median, 100 * row.python.median / row.step.median,
         1e3 * row.adding, 100 * row.tape)
        for row in rows
    ]  # fmt: skip
    print(Table(header, cells))
    figures = {
        "seed": 0,
        "repeats": options.repeats,
        "threads": numba.get_num_threads(),
        "networks": [row.to_json() for row in rows],
    }
    write_result(options.out, command("tape", options.out, repeats=options.repeats), figures)
    return 0
