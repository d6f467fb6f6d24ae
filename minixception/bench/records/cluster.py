"""Training in two processes on this machine: beside one, early sending beside late, MPI's allreduce, the prediction.

Everything runs under mpiexec, each contestant in processes of its own, in turn. Steps are those of the recipe cifar10
on images that the package draws; the epoch is of CIFAR-10, where its folder is given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numba
import numpy as np

from ...cluster.launch import mpiexec
from ...cluster.means import BUCKET, ShardMean
from ...cluster.plan import Link, predict
from ...cluster.ranks import Ranks
from ...cluster.session import together
from ...data import batches, load
from ...nn import Parameter
from ...tables import Table
from ...training import RECIPES, Trainer
from ...training.run_folder import LOG
from ...training.shards import ShardedGradients
from ..results import write_result
from ..scaling import Measured
from . import command

_BATCH = 64
_LONG = 1 << 23  # bytes of a message whose latency does not matter
_SMALL, _LARGE = 4 << 20, 92 << 20  # bytes of gradients, about those of the recipe's network and of Xception
# (processes, threads of each, shards, when gradients are sent)
_STEPS = (
    (1, 2, 1, ""),
    (1, 2, 2, ""),
    (2, 1, 2, "early"),
    (2, 1, 2, "late"),
    (1, 2, 8, ""),
    (2, 1, 8, "early"),
    (2, 1, 8, "late"),
    (1, 1, 2, ""),
    (1, 1, 8, ""),
)


# What runs in the processes -------------------------------------------------------------------------------------------


class _Late(ShardedGradients):
    """Sends nothing before the backward pass has ended."""

    def _pass_on(self, parameter: Parameter) -> None:
        self._held = [*getattr(self, "_held", []), parameter]
        if len(self._held) == len(self._place):
            held, self._held = self._held, []
            for one in held:
                super()._pass_on(one)


def steps(ranks: Ranks, shards: int, when: str, count: int) -> list[float]:
    """Seconds of each step after five."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = replace(RECIPES["cifar10"], batch_size=_BATCH, shards=shards)
        train = load("shapes", "train")
        trainer = Trainer(recipe, train, load("shapes", "test"), Path(folder), ranks=ranks)
        if when == "late":
            trainer._sharded = _Late(trainer._gradients, trainer.model, shards, ranks)
        seconds = []
        feed = batches(train, _BATCH, shuffle=True, augment=True, drop_last=True, part=trainer.part)
        for _, x, labels in islice(feed, count + 5):
            begun = time.perf_counter()
            trainer.step(x, labels)
            seconds.append(time.perf_counter() - begun)
    return seconds[5:]


def mean_seconds(ranks: Ranks, nbytes: int, count: int) -> dict[str, float]:
    """Of the mean of so many bytes of float32 in buckets, ours, and by MPI's own allreduce; and of an empty message."""
    from mpi4py import MPI

    bucket = np.ones(BUCKET // 4, np.float32)
    numbers = range(nbytes // BUCKET)
    means = [ShardMean(ranks, ranks.size, [bucket.shape], bucket.dtype, number) for number in numbers]
    totals = [np.empty_like(bucket) for _ in numbers]

    def ours() -> None:
        for mean in means:
            mean.put(0, bucket)
        for mean in means:
            mean.result("a measurement")

    def allreduce() -> None:
        for total in totals:
            total[...] = bucket
            MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, total)

    def message(values: np.ndarray) -> Callable[[], None]:
        def there_and_back() -> None:
            for sender in (0, 1):
                if ranks.rank == sender:
                    MPI.COMM_WORLD.Send(values, 1 - sender)
                else:
                    MPI.COMM_WORLD.Recv(values, sender)

        return there_and_back

    contestants = {"ours": ours, "allreduce": allreduce}
    if ranks.size == 2:
        contestants |= {"short": message(np.zeros(1, np.float32)), "long": message(np.zeros(_LONG // 4, np.float32))}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(count + 2):
        for name, call in contestants.items():
            MPI.COMM_WORLD.Barrier()
            begun = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times[2:]) for name, times in seconds.items()}


def main(function: str, arguments: str) -> None:
    """In each process: call a function of this module, and print what it returns as JSON."""
    with together() as ranks:
        found = globals()[function](ranks, *json.loads(arguments))
        print(json.dumps(found))


# What starts them -----------------------------------------------------------------------------------------------------


def _apart(processes: int, threads: int, function: Callable[..., Any], *arguments: Any) -> Any:
    code = f"from {__name__} import main; main({function.__name__!r}, {json.dumps(arguments)!r})"
    return json.loads(_output(mpiexec(processes), threads, "-c", code).splitlines()[-1])


def _output(start: Sequence[str], threads: int, *words: str) -> str:
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}
    return subprocess.run([*start, *words], env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def _epoch(data: str, processes: int, threads: int) -> dict[str, Any]:
    """The record of the first epoch of the recipe cifar10 in two shards."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = ["train", "--recipe", "cifar10", "--data", data, "--epochs", "1", "--shards", "2", "--out", str(out)]
        start = [sys.executable] if processes == 1 else mpiexec(processes)
        _output(start, threads, "-m", "minixception", *words)
        return dict(json.loads((out / LOG).read_text().splitlines()[0]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """How often, and where CIFAR-10 is."""
    parser.add_argument("--repeats", type=int, default=3, help="processes of each contestant; default: %(default)s")
    parser.add_argument("--steps", type=int, default=30, help="of each of them; default: %(default)s")
    parser.add_argument("--data", metavar="SPEC", help="cifar10:FOLDER, for an epoch; default: without it")


def run(options: argparse.Namespace) -> int:
    """Measure, print two tables, write the file."""
    times: dict[tuple[int, int, int, str], list[float]] = {one: [] for one in _STEPS}
    for _ in range(options.repeats):
        for processes, threads, shards, when in _STEPS:
            found = _apart(processes, threads, steps, shards, when, options.steps)
            times[processes, threads, shards, when].append(statistics.median(found))
    messages = {nbytes: _apart(2, 1, mean_seconds, nbytes, 20) for nbytes in (_SMALL, _LARGE)}
    one_way = {name: messages[_SMALL][name] / 2 for name in ("short", "long")}
    link = Link(_LONG / one_way["long"], one_way["short"])
    keys = "processes", "threads", "shards", "sent"
    measured = [dict(zip(keys, one, strict=True)) | {"seconds": found} for one, found in times.items()]
    predicted = [(p, 1, s, "predicted", _predicted(p, s, link)) for p, s in ((1, 2), (2, 2), (1, 8), (2, 8))]
    figures = {
        "batch": _BATCH,
        "steps": measured,
        "predicted": [dict(zip((*keys, "seconds"), one, strict=True)) for one in predicted],
        "link": link._asdict(),
        "means": [{"bytes": nbytes, **found} for nbytes, found in messages.items()],
        "epoch": [_epoch(options.data, *one) for one in ((1, 2), (2, 1))] if options.data else [],
    }
    given = {"repeats": options.repeats, "steps": options.steps} | ({"data": "cifar10:FOLDER"} if options.data else {})
    write_result(options.out, command("cluster", options.out, **given), figures, ("mpi4py",))
    rows = [(*one, statistics.median(found)) for one, found in times.items()]
    print(Table((*keys, "ms"), [(*cells, f"{1e3 * seconds:.1f}") for *cells, seconds in (*rows, *predicted)]))
    print(json.dumps({name: figures[name] for name in ("link", "means", "epoch")}, indent=2))
    return 0


def _predicted(processes: int, shards: int, link: Link) -> float:
    """Seconds of a step, from the passes of one shard in this process, with a thread."""
    recipe = RECIPES["cifar10"]
    numba.set_num_threads(1)
    measured = Measured(recipe.make_model(10, (32, 32, 3)), _BATCH // shards)
    return predict(measured.work, shards, processes, link).step
