"""Training all designs of an experiment with all seeds, in pieces: a file that is complete after every run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..bench.results import write_result
from ..data import Dataset, load
from ..errors import ArgumentError
from ..training import Trainer
from ..training.run_folder import CHECKPOINT
from .designs import Design, cost
from .table import EXPERIMENTS, Experiment
from .verdict import paired

Runs = dict[str, dict[str, list[dict[str, Any]]]]  # by design and seed, the record of each epoch


def run(name: str, out: Path, data: str, minutes: float, jobs: int, epochs: int | None = None) -> bool:
    """Train what the file does not hold yet, until it holds everything (True) or no run may be begun any more (False).

    data: as for ``data.load``; minutes: after which no further run begins; jobs: processes, with a thread each, that
    train at the same time, since small networks leave a second thread idle half of the time. A run that is stopped
    within goes on from its checkpoint, in a folder beside the file. No result depends on jobs, minutes or stops.
    Raises ArgumentError if the file was made with other designs or data.
    """
    experiment, kind = EXPERIMENTS[name], data.partition(":")[0]
    designs = {
        label: replace(design, data=kind, epochs=epochs or design.epochs)
        for label, design in experiment.designs().items()
    }
    runs = _held(out, designs)
    missing = [
        (label, seed) for seed in range(experiment.seeds) for label in designs if str(seed) not in runs.get(label, {})
    ]
    begun, scratch = time.monotonic(), out.with_suffix(".unfinished")
    waiting: dict[Future[list[dict[str, Any]]], tuple[str, int]] = {}
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_one_thread) as pool:
        todo = iter(missing)
        while True:
            while len(waiting) < jobs and time.monotonic() - begun < 60 * minutes and (job := next(todo, None)):
                label, seed = job
                folder = scratch / f"{label}, seed {seed}"
                waiting[pool.submit(_train, replace(designs[label], seed=seed), data, folder)] = job
            if not waiting:
                break
            for done in wait(waiting, return_when=FIRST_COMPLETED).done:
                label, seed = waiting.pop(done)
                runs.setdefault(label, {})[str(seed)] = done.result()
                _write(name, experiment, designs, runs, out)
                shutil.rmtree(scratch / f"{label}, seed {seed}")
                print(f"{label}, seed {seed}: test top-1 {runs[label][str(seed)][-1]['test_top1']:.2%}", flush=True)
    complete = all(len(runs.get(label, {})) >= experiment.seeds for label in designs)
    if complete:
        shutil.rmtree(scratch, ignore_errors=True)
    return complete


def _one_thread() -> None:
    import numba

    numba.set_num_threads(1)


@cache
def _pictures(data: str) -> tuple[Dataset, Dataset]:
    return load(data, "train"), load(data, "test")


def _train(design: Design, data: str, folder: Path) -> list[dict[str, Any]]:
    """The records of one run, from its checkpoint if there is one."""
    return Trainer(design, *_pictures(data), folder, resume=(folder / CHECKPOINT).exists()).run()


def _held(out: Path, designs: Mapping[str, Design]) -> Runs:
    """The runs that the file holds."""
    if not out.exists():
        return {}
    result = json.loads(out.read_text("utf-8"))
    theirs = {label: one["recipe"] for label, one in result["designs"].items()}
    if theirs != {label: design.to_json() for label, design in designs.items()}:
        raise ArgumentError(f"{out} was made with other designs, data or epochs: name another file")
    runs: Runs = result["runs"]
    return runs


def _write(name: str, experiment: Experiment, designs: Mapping[str, Design], runs: Runs, out: Path) -> None:
    """The result file: everything that is finished, and the verdicts on it."""
    records = [record for of_design in runs.values() for log in of_design.values() for record in log]
    first = next(iter(designs.values()))
    figures = {
        "claim": experiment.claim,
        "seeds": list(range(experiment.seeds)),
        "hours": round(sum(record["seconds"] for record in records) / 3600, 3),
        "designs": {
            label: {"recipe": design.to_json(), "parameters": (costs := cost(design)).parameters, "macs": costs.macs}
            for label, design in designs.items()
        },
        "runs": runs,
        "verdicts": dict(_verdicts(experiment, runs)),
    }
    command = f"python -m minixception.experiments {name} {out.name} --data {first.data} --epochs {first.epochs}"
    write_result(out, command, figures)


def _verdicts(experiment: Experiment, runs: Runs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each pair of designs that both have two seeds or more."""
    for one, other in experiment.pairs:
        seeds = sorted(runs.get(one, {}).keys() & runs.get(other, {}).keys(), key=int)
        if len(seeds) > 1:
            accuracies = ([runs[label][seed][-1]["test_top1"] for seed in seeds] for label in (one, other))
            difference = paired(*accuracies)
            yield f"{one} - {other}", {**vars(difference), "separated": difference.separated}
