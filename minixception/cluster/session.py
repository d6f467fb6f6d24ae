"""From the start of a run's processes to their end, which is the same for all of them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

import numba
import numpy

from ..errors import ClusterError
from .ranks import ALONE, PATIENCE, Ranks, World

# What is in the environment of the processes of MPICH, Intel's and Microsoft's MPI, of Open MPI, and of Slurm's srun
_VARIABLES = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
STARTED = "MINIXCEPTION_PROCESSES"  # in the environment of what launch.py starts: "terminal" or "pipe"
ADVICE = "python -m pip install 'minixception[cluster]'"


def is_started_by_mpi() -> bool:
    """Whether this process is one of mpiexec's."""
    return any(name in os.environ for name in _VARIABLES)


@contextlib.contextmanager
def together(patience: float = PATIENCE) -> Iterator[Ranks]:
    """The ranks of this run: ``ALONE``, or those of mpiexec, of which rank 0 alone prints.

    Each takes its share of the machine's cores, unless NUMBA_NUM_THREADS says how many threads to run. An error of one
    ends all of them, with one message. patience: seconds that one may let the others wait.
    Raises ClusterError where mpiexec has started this process and mpi4py, or its MPI, is missing.
    """
    if not is_started_by_mpi():
        yield ALONE
        return
    mpi = _mpi()
    world = World(mpi.COMM_WORLD, patience)
    with contextlib.ExitStack() as streams:
        last_words = sys.stderr
        if world.rank:
            nowhere = streams.enter_context(open(os.devnull, "w"))
            streams.enter_context(contextlib.redirect_stdout(nowhere))
            streams.enter_context(contextlib.redirect_stderr(nowhere))
        elif _has_terminal():
            streams.enter_context(contextlib.redirect_stderr(cast(TextIO, _Terminal(last_words))))
        try:
            _introduce(world, mpi)
            yield world
        except BaseException as error:
            _end(world, error, last_words)


class _Terminal:
    """A pipe to mpiexec, behind which there is a terminal: bars are drawn."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def isatty(self) -> bool:
        """As what is behind it."""
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _has_terminal() -> bool:
    """Whether somebody looks on: as far as our own launcher, or an MPI that hands a terminal on, can tell."""
    return os.environ.get(STARTED) == "terminal" or sys.stdout.isatty()


def _mpi() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ClusterError(
            f"mpiexec has started this process, and mpi4py, which it needs for that, does not work ({error}). Install "
            f"it: {ADVICE}"
        ) from None
    return MPI


def _introduce(world: Ranks, mpi: Any) -> None:
    """Share the cores of each machine, and print who is who: of a killed process mpiexec knows the number alone."""
    here = mpi.COMM_WORLD.Split_type(mpi.COMM_TYPE_SHARED)
    cores = _cores()
    neighbours = here.allgather(cores)
    if "NUMBA_NUM_THREADS" not in os.environ:
        numba.set_num_threads(max(1, len(cores) // neighbours.count(cores)))
    threads = numba.get_num_threads()
    crowd = sum(here.allgather(threads)), len(frozenset.union(*neighbours))
    machines: dict[str, list[str]] = {}
    about = platform.node(), os.getpid(), threads, crowd
    for rank, (name, process, own, (running, available)) in enumerate(world.everybodys(about, "the start")):
        crowded = f" ({running} threads share {available} cores: start fewer processes)" * (running > available)
        plural = "s" * (own > 1)
        machines.setdefault(f"{name}{crowded}", []).append(f"rank {rank} is process {process}, {own} thread{plural}")
    for name, words in machines.items():
        print(f"{name}: {'; '.join(words)}")
    world.agree(package=_package())


def _cores() -> frozenset[int]:
    """Those that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count() or 1))
    return frozenset(affinity(0))


def _package() -> str:
    """A digest of what decides what is computed: our code, and the libraries that run it."""
    digest = hashlib.sha256(f"{numpy.__version__} {numba.__version__}".encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _end(world: Ranks, error: BaseException, out: TextIO) -> None:
    """Say what went wrong, unless that has been said, and end all processes."""
    if world.rank:
        time.sleep(2)  # what all have run into is told by rank 0
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else 2
    else:
        stopped = isinstance(error, KeyboardInterrupt)
        status = 130 if stopped else 2
        if not isinstance(error, (ValueError, OSError, KeyboardInterrupt)):
            traceback.print_exception(error, file=out)
        why = "stopped" if stopped else f"error: {str(error) or type(error).__name__}"
        print(f"minixception: {why} (rank {world.rank} of {world.size}, on {platform.node()})", file=out, flush=True)
    world.stop(status)
