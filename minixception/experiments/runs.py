"""Training all designs of an experiment with all seeds, in pieces: a file that is complete after every run."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import product
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, cast

from ..bench.results import write_result
from ..errors import ArgumentError
from .designs import Design, cost
from .table import EXPERIMENTS, Experiment
from .verdict import paired

Log = list[dict[str, Any]]  # the record of each epoch
Runs = dict[str, dict[str, Log]]  # by design and seed


def processes(jobs: int) -> ProcessPoolExecutor:
    """So many processes of this machine, with a thread each: a small network leaves a second one idle half the time."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin)


def run(
    name: str,
    out: Path,
    data: str | None,
    minutes: float,
    jobs: int,
    epochs: int | None = None,
    workers: Callable[[int], AbstractContextManager[Executor]] = processes,
) -> bool:
    """Train what the file does not hold yet, until it holds everything (True) or no run may be begun any more (False).

    data: as for ``data.load``, None for that of the designs; minutes: after which no further run begins; jobs: how many
    runs go on at the same time; workers: where. A run that is stopped within goes on from its checkpoint, in a folder
    beside the file. What another experiment's file in the same folder has of one of these designs is taken from there.
    No result depends on jobs, workers, minutes or stops.
    Raises ArgumentError if the file was made with other designs or data.
    """
    experiment = EXPERIMENTS[name]
    data = data or next(iter(experiment.designs.values())).data
    kind = data.partition(":")[0]
    designs = {
        label: replace(design, data=kind, epochs=design.epochs if epochs is None else epochs)
        for label, design in experiment.designs.items()
    }
    runs = _held(out, designs)
    held = sum(map(len, runs.values()))
    missing = _gather(runs, designs, experiment.seeds, _elsewhere(out))
    command = f"python -m minixception.experiments {name} {out.name} --data {kind}"
    write = partial(
        _write, f"{command} --epochs {epochs}" if epochs is not None else command, experiment, designs, runs, out
    )
    if sum(map(len, runs.values())) > held:
        write()
    scratch = out.with_suffix(".unfinished")
    todo = [(replace(designs[label], seed=seed), data, scratch / f"{label}, seed {seed}") for label, seed in missing]
    with workers(jobs) as pool:
        for number, log in _trained(pool, jobs, experiment.task.train, todo, minutes):
            label, seed = missing[number]
            runs.setdefault(label, {})[str(seed)] = log
            write()
            shutil.rmtree(todo[number][2], ignore_errors=True)
            print(f"{label}, seed {seed}: {experiment.task.called} {log[-1][experiment.task.score]:.2%}", flush=True)
    complete = all(len(runs.get(label, {})) >= experiment.seeds for label in designs)
    if complete:
        shutil.rmtree(scratch, ignore_errors=True)
    return complete


def _trained(
    pool: Executor, jobs: int, train: Callable[..., Log], todo: Sequence[tuple[Any, ...]], minutes: float
) -> Iterator[tuple[int, Log]]:
    """(number, log) of what is to do, as each is finished, ``jobs`` at a time; none is begun after these minutes."""
    begun, waiting, numbers = time.monotonic(), dict[Future[Log], int](), iter(range(len(todo)))
    while True:
        while len(waiting) < jobs and time.monotonic() - begun < 60 * minutes:
            if (number := next(numbers, None)) is None:
                break
            waiting[pool.submit(train, *todo[number])] = number
        if not waiting:
            return
        for done in wait(waiting, return_when=FIRST_COMPLETED).done:
            yield waiting.pop(done), done.result()


def _begin() -> None:
    """In each process: one thread, and no work for a caller that has been killed."""
    import numba

    numba.set_num_threads(1)
    Thread(target=_end_with_the_caller, daemon=True).start()


def _end_with_the_caller() -> None:
    if caller := parent_process():
        caller.join()
        os._exit(1)


def _held(out: Path, designs: Mapping[str, Design]) -> Runs:
    """The runs that the file holds; it may hold fewer designs, and none that is another one now."""
    if not out.exists():
        return {}
    result = json.loads(out.read_text("utf-8"))
    if any(designs.get(label) != design for label, design in _designs(result).items()):
        raise ArgumentError(f"{out} was made with other designs, data or epochs: name another file")
    runs: Runs = result["runs"]
    return runs


def _gather(
    runs: Runs, designs: Mapping[str, Design], seeds: int, elsewhere: Mapping[Design, Log]
) -> list[tuple[str, int]]:
    """Add to the runs what is known from elsewhere; what is left to train, as (label, seed), seed by seed."""
    missing = []
    for seed, label in product(range(seeds), designs):
        if log := elsewhere.get(replace(designs[label], seed=seed)):
            runs.setdefault(label, {}).setdefault(str(seed), log)
        if str(seed) not in runs.get(label, {}):
            missing.append((label, seed))
    return missing


def _elsewhere(out: Path) -> dict[Design, Log]:
    """The runs of the other experiments in this folder."""
    paths = [path for name in EXPERIMENTS if (path := out.with_name(f"{name}.json")) != out and path.exists()]
    found: dict[Design, Log] = {}
    for path in paths:
        result = json.loads(path.read_text("utf-8"))
        for label, design in _designs(result).items():
            logs = result["runs"].get(label, {})
            found |= {replace(design, seed=int(seed)): log for seed, log in logs.items()}
    return found


def _designs(result: Mapping[str, Any]) -> dict[str, Design]:
    """The designs of a result file, by name."""
    return {label: cast(Design, Design.from_json(one["recipe"])) for label, one in result["designs"].items()}


def _write(command: str, experiment: Experiment, designs: Mapping[str, Design], runs: Runs, out: Path) -> None:
    """The result file: everything that is finished, and the verdicts on it."""
    records = [record for of_design in runs.values() for log in of_design.values() for record in log]
    figures = {
        "claim": experiment.claim,
        "seeds": list(range(experiment.seeds)),
        "hours": round(sum(record["seconds"] for record in records) / 3600, 3),
        "designs": {
            label: {"recipe": design.to_json(), **vars(cost(design, experiment.task.outputs))}
            for label, design in designs.items()
        },
        "runs": {label: runs[label] for label in designs if label in runs},
        "verdicts": dict(_verdicts(experiment, runs)),
    }
    write_result(out, command, figures)


def _verdicts(experiment: Experiment, runs: Runs) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each pair of designs that both have two seeds or more."""
    for one, other in experiment.pairs:
        seeds = sorted(runs.get(one, {}).keys() & runs.get(other, {}).keys(), key=int)
        if len(seeds) > 1:
            accuracies = ([runs[label][seed][-1][experiment.task.score] for seed in seeds] for label in (one, other))
            difference = paired(*accuracies)
            yield f"{one} - {other}", {**vars(difference), "separated": difference.separated}
