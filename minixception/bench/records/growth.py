"""How the time of a training step grows with batch, image size and width, beside its multiply-accumulates.

One is varied at a time. Where time follows the arithmetic, the time of a multiply-accumulate stays the same. Each
network is built, timed and forgotten alone: the largest takes 6 GB.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

from ... import viz
from ...graph import cost
from ...models import Xception, mini_xception
from ...tables import Table
from ...timing import Timing, disturbance, in_turn
from ..contestants import Contestant, Workload, ours
from ..results import write_result
from . import command


@dataclass(frozen=True)
class Job:
    """A network to train, and the value of what is varied."""

    varied: str
    value: int
    workload: Workload


def _mini(widen: int = 1, side: int = 32) -> Any:
    """mini_xception with channels times ``widen`` quarters."""
    stem, *widths = (widen * channels // 4 for channels in (32, 64, 128, 256))
    return partial(mini_xception, widths=tuple(widths), stem=stem, input_shape=(side, side, 3))


def _jobs() -> Iterator[Job]:
    for batch in (1, 2, 4, 8, 16, 32, 64, 128):
        yield Job("batch", batch, Workload("mini_xception", _mini(4), batch, training=True))
    for batch in (1, 2, 4, 8, 16):
        yield Job("batch", batch, Workload("Xception", Xception, batch, training=True))
    for side in (16, 32, 64, 128):
        yield Job("image size", side, Workload("mini_xception", _mini(4, side), 16, training=True))
    for side in (96, 128, 192, 299):
        yield Job("image size", side, Workload("Xception", partial(Xception, input_shape=(side, side, 3)), 4, True))
    for widen in (1, 2, 4, 8, 16):
        yield Job("width", 64 * widen, Workload("mini_xception", _mini(widen), 16, training=True))


JOBS = tuple(_jobs())  # width: channels of the last blocks


@dataclass(frozen=True)
class Row:
    """A job done: multiply-accumulates of a step, those of both gradients among them, and its time."""

    job: Job
    macs: int
    time: Timing

    @property
    def point(self) -> viz.GrowthPoint:
        """What the figure shows of it."""
        job = self.job
        return viz.GrowthPoint(job.workload.name, job.varied, job.value, self.macs, self.time.median)

    @property
    def picoseconds(self) -> float:
        """Of a multiply-accumulate."""
        return 1e12 * self.time.median / self.macs

    def to_json(self) -> dict[str, Any]:
        """Plain data; seconds."""
        job, seconds = self.job, vars(self.time)
        what = {"network": job.workload.name, "batch": job.workload.batch, "varied": job.varied, "value": job.value}
        return what | {"macs": self.macs, "seconds": seconds, "picoseconds_per_mac": self.picoseconds}


def measure(job: Job, threads: int, repeats: int) -> Row:
    """A step by what trains fastest here, timed in this process."""
    model = job.workload.model()
    assert model.input_shape is not None
    macs = 3 * job.workload.batch * cost.table(model, model.input_shape).macs
    who, peer = next(iter(ours(training=True).items()))
    trained = Contestant(job.workload, peer.build, threads, np.float32)
    return Row(job, macs, in_turn({who: trained.seconds}, repeats)[who])


def add_options(parser: argparse.ArgumentParser) -> None:
    """How often each step is timed."""
    parser.add_argument("--repeats", type=int, default=7, help="of each step; default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Measure all jobs, print a table, write the JSON file, and the figure beside it."""
    from tqdm import tqdm

    threads = numba.get_num_threads()
    rows = [measure(job, threads, options.repeats) for job in tqdm(JOBS, leave=False, disable=None)]
    print(_table(rows))
    if warning := disturbance({row.job: row.time for row in rows}):
        print(warning)
    figures = {"seed": 0, "repeats": options.repeats, "threads": threads, "rows": [row.to_json() for row in rows]}
    write_result(options.out, command("growth", options.out, repeats=options.repeats), figures)
    viz.growth([row.point for row in rows]).save(options.out.with_suffix(".svg"))
    return 0


def _table(rows: Sequence[Row]) -> Table:
    header = ("network", "varied", "value", "batch", "GMACs", "step", "ps per MAC")
    cells = [
        (row.job.workload.name, row.job.varied, row.job.value, row.job.workload.batch, row.macs / 1e9, str(row.time),
         row.picoseconds)
        for row in rows
    ]  # fmt: skip
    return Table(header, cells)
