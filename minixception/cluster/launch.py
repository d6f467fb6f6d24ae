"""Starting the processes of a run on this machine: what mpiexec does, with the arguments spelled out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ArgumentError, ClusterError
from .ranks import Ranks
from .session import ADVICE, STARTED, is_started_by_mpi


def starts_others(processes: int | None) -> bool:
    """Whether this process is asked for so many and is not yet one of them."""
    if processes is None or is_started_by_mpi():
        return False
    if STARTED in os.environ:
        raise ClusterError(
            f"this mpiexec does not tell its processes who they are; take that of a well-known MPI: {ADVICE}"
        )
    return True


def check_count(processes: int | None, ranks: Ranks) -> None:
    """ArgumentError if mpiexec has started another number than was asked for."""
    if processes not in (None, ranks.size):
        raise ArgumentError(f"mpiexec has started {ranks.size} processes, and --processes asks for {processes}")


def mpiexec(processes: int) -> list[str]:
    """The beginning of a command that runs Python in so many processes of this machine.

    The mpiexec that is installed beside Python goes first, for mpi4py takes the MPI beside it, too. ClusterError if
    there is none.
    """
    beside = Path(sys.executable).parent
    program = shutil.which("mpiexec", path=os.pathsep.join([str(beside), os.environ.get("PATH", "")]))
    if program is None:
        raise ClusterError(f"many processes need mpiexec, and there is none. Install one: {ADVICE}")
    return [program, "-n", str(processes), sys.executable]


def start(processes: int, words: Sequence[str]) -> int:
    """Run ``minixception`` with these words in so many processes of this machine; returns the exit status.

    Ctrl-C reaches mpiexec as it reaches us; SIGTERM is passed on. Raises ClusterError where there is no mpiexec.
    """
    command = [*mpiexec(processes), "-m", "minixception", *words]
    where = "terminal" if sys.stderr.isatty() else "pipe"
    with subprocess.Popen(command, env=os.environ | {STARTED: where}) as child:
        previous = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: child.terminate()),
        }
        try:
            return child.wait()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
