"""Damaged and hostile weight files against every reader: it loads in full, or it is a WeightsError.

    python -m tests.by_hand.fuzz_weights --files 10000

makes small files of each layout (weight_files.py), changes them in the ways below, and loads each in a worker process.
Another exception, a worker that dies, takes longer than ``TIME_LIMIT``, or allocates more than twice the file and
``ALLOWANCE`` is a failure. File number i is made from the seed and i alone: ``--only i`` makes it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import tracemalloc
from collections import Counter
from multiprocessing.connection import wait
from pathlib import Path

from minixception.errors import WeightsError
from minixception.weights import load_weights
from tests.by_hand.fuzz_changes import ANY, HDF5, SAFETENSORS, ZIP, edited, members_of, zipped
from tests.helpers.weight_files import base_files, small_model

SEED = 161002357
TIME_LIMIT = 30.0  # seconds for one file, the start of a worker included; a file takes milliseconds
ALLOWANCE = 1 << 20  # bytes: Python's own objects, h5py is not in use here


# One file -------------------------------------------------------------------------------------------------------------


def make(bases, number):
    """(name of the base, name of the change, bytes) of file ``number``."""
    rng = random.Random(SEED * 1_000_003 + number)
    name = rng.choice(sorted(bases))
    data = bases[name]
    special = ZIP if name.startswith("archive") else SAFETENSORS if name in ("own", "timm") else HDF5
    inside = name in ("archive", "archive_nested") and rng.random() < 0.4
    change = rng.choice(ANY + HDF5 if inside else ANY if rng.random() < 0.5 else special)
    if inside:  # damage the weights and put them into a whole archive
        members = [(i.filename, content) for i, content in members_of(data)]
        data = zipped([(n, _apply(change, c, rng) if n.endswith("h5") else c) for n, c in members])
        return name, f"inside: {change.__name__}", data
    return name, change.__name__, _apply(change, data, rng)


def _apply(change, data, rng):
    return edited(data, rng, change) if change in HDF5 else change(data, rng)


def check(path, head, size):
    """Load the file: "loaded" or "refused"; AssertionError or any other exception is a failure."""
    model = small_model(head, seed=1)
    for _, t in model.named_tensors():
        t.data[...] = 99.5  # what stays so was not loaded
    shapes = {name: t.shape for name, t in model.named_tensors()}
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        loaded = load_weights(model, path)
        outcome = "loaded"
    except WeightsError as error:
        outcome = "refused"
        assert str(error), "an error that says nothing"
    peak = tracemalloc.get_traced_memory()[1] - before
    assert peak <= 2 * size + ALLOWANCE, f"{peak:,} bytes for a file of {size:,}"
    untouched = [name for name, t in model.named_tensors() if (t.data == 99.5).all()]
    if outcome == "loaded":
        assert loaded.tensors == len(shapes) and not untouched, f"not loaded: {untouched}"
        assert {name: t.shape for name, t in model.named_tensors()} == shapes
    else:
        assert len(untouched) == len(shapes), "refused, but changed the model"
    return outcome


def work(connection, folder, bases, heads, numbers):
    """A worker: makes and loads files, sends (number, base, change, outcome)."""
    path = Path(folder) / f"fuzz{multiprocessing.current_process().pid}"
    tracemalloc.start()
    for number in numbers:
        base, change, data = make(bases, number)
        path.write_bytes(data)
        try:
            outcome = check(path, heads[base], len(data))
        except Exception as error:
            outcome = f"FAILED {type(error).__name__}: {error}"[:300]
        connection.send((number, base, change, outcome, _memory()))
    connection.close()


def _memory():
    """The most memory this process ever had, in KiB; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fuzz(files, processes=2, first=0):
    """Run them all; returns ({(change, outcome): count}, {base: count}, failures, most memory of a worker in KiB)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = base_files(folder)
        bases = {name: path.read_bytes() for name, (path, _) in paths.items()}
        heads = {name: head for name, (_, head) in paths.items()}
        outcomes, used, failures, memory = Counter(), Counter(), [], 0
        waiting = {}
        for index in range(processes):
            numbers = list(range(first + index, first + files, processes))
            waiting |= _start(folder, bases, heads, numbers)
        while waiting:
            ready = wait(list(waiting), TIME_LIMIT)
            for connection in ready or list(waiting):
                process, numbers = waiting[connection]
                try:
                    if not ready:
                        raise EOFError("no answer in time")
                    number, base, change, outcome, used_memory = connection.recv()
                except EOFError as error:  # the worker died, or is stuck: its file fails, another one goes on
                    del waiting[connection]
                    process.join(1)
                    process.kill()
                    if numbers:
                        failures.append((numbers[0], f"crashed or stuck: exit code {process.exitcode} {error}"))
                        waiting |= _start(folder, bases, heads, numbers[1:])
                    continue
                numbers.remove(number)
                used[base] += 1
                outcomes[change, outcome.split()[0]] += 1
                memory = max(memory, used_memory)
                if outcome.startswith("FAILED"):
                    failures.append((number, f"{base}, {change}: {outcome}"))
        return outcomes, used, failures, memory


def _start(folder, bases, heads, numbers):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(theirs, folder, bases, heads, list(numbers))
    )
    process.start()
    theirs.close()
    return {ours: (process, list(numbers))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, help="make and load this one file")
    options = parser.parse_args()
    first, files = (0, options.files) if options.only is None else (options.only, 1)
    outcomes, used, failures, memory = fuzz(files, options.processes, first)
    changes = sorted({change for change, _ in outcomes})
    print(f"{'change':28}{'loaded':>8}{'refused':>9}{'FAILED':>8}")
    for change in changes:
        print(
            f"{change:28}"
            + "".join(f"{outcomes[change, o]:>{w}}" for o, w in (("loaded", 8), ("refused", 9), ("FAILED", 8)))
        )
    totals = {
        o: sum(n for (_, outcome), n in outcomes.items() if outcome == o) for o in ("loaded", "refused", "FAILED")
    }
    print(f"{'all':28}{totals['loaded']:>8}{totals['refused']:>9}{totals['FAILED']:>8}")
    print("by layout:", ", ".join(f"{name} {count}" for name, count in sorted(used.items())))
    print(f"largest worker: {memory / 1024:.0f} MiB")
    for number, what in failures:
        print(f"file {number}: {what}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
