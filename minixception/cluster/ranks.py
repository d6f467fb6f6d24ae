"""The processes of a run as each of them sees the others: ``ALONE``, or a ``World`` of MPI's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from ..errors import ClusterError

PATIENCE = 300.0  # seconds; a rank that compiles its kernels for the first time keeps the others waiting for minutes
_IMPATIENT = 300  # looks without a pause, which takes much longer than a message from one core to the next
_PAUSE = 50e-6  # seconds between later looks: an MPI that waits by itself would take a whole core for it
_LAST_WORDS = 1.0  # seconds: what mpiexec has not read of our output when it hears of the end, nobody will read
_MEETING = 0  # a tag; sums have the others


class Request(Protocol):
    """A message on its way."""

    def Test(self) -> bool:  # MPI's name
        """Whether it has arrived; this is also when MPI moves it on."""


class Ranks:
    """The only process of a run: it has rank 0 of 1, and everything that is asked of all is asked of it."""

    rank = 0
    size = 1

    def everybodys(self, value: Any, what: str) -> list[Any]:
        """The values of all ranks in their order; every rank calls it. what: for the message if one does not come."""
        return [value]

    def from_first(self, value: Any, what: str) -> Any:
        """The value of rank 0; every rank calls it, and those of the others are not looked at."""
        return value

    def agree(self, **values: Any) -> None:
        """ClusterError, on every rank, if one has another value than rank 0 of something that all must have alike."""
        for rank, others in enumerate(self.everybodys(values, "agreement")):
            if different := [name.replace("_", " ") for name in values if others[name] != values[name]]:
                a, b = sorted((rank, self.rank))
                raise ClusterError(
                    f"rank {b} differs from rank {a} in its {' and '.join(different)}: all processes of a run need the "
                    "same package, data and settings"
                )

    def send(self, array: np.ndarray, rank: int, tag: int) -> Request:
        """Begin to send an array, which stays as it is until the request says that it has gone."""
        raise NotImplementedError("nobody to send to")

    def receive(self, array: np.ndarray, rank: int, tag: int) -> Request:
        """Begin to receive into an array."""
        raise NotImplementedError("nobody to receive from")

    def wait(self, messages: Sequence[tuple[int, Request]], what: str) -> None:
        """Until messages to or from ranks have arrived; ClusterError names the first rank that lets all others wait."""

    def workers(self) -> AbstractContextManager[Executor | None]:
        """On rank 0 a pool of the others; the others get None, when the pool is closed: until then they work for it."""
        raise NotImplementedError("nobody to work")

    def stop(self, status: int) -> None:
        """End the processes of all ranks, now."""
        raise SystemExit(status)


ALONE = Ranks()


class World(Ranks):
    """A rank of MPI's world. patience: seconds that others may let it wait."""

    def __init__(self, communicator: Any, patience: float = PATIENCE) -> None:
        self._communicator, self._patience = communicator, patience
        self.rank, self.size = communicator.rank, communicator.size

    def everybodys(self, value: Any, what: str) -> list[Any]:
        self._meet(what)
        return list(self._communicator.allgather(value))

    def from_first(self, value: Any, what: str) -> Any:
        self._meet(what)
        return self._communicator.bcast(value)

    def _meet(self, what: str) -> None:
        """Until every rank is here: what MPI does with all of them would wait for the last one without an end."""
        here, there = np.zeros(1, np.int8), np.zeros((self.size, 1), np.int8)
        others = [rank for rank in range(self.size) if rank != self.rank]
        coming = [(rank, self.receive(there[rank], rank, _MEETING)) for rank in others]
        self.wait([*coming, *((rank, self.send(here, rank, _MEETING)) for rank in others)], what)

    def send(self, array: np.ndarray, rank: int, tag: int) -> Request:
        request: Request = self._communicator.Isend(array, rank, tag)
        return request

    def receive(self, array: np.ndarray, rank: int, tag: int) -> Request:
        request: Request = self._communicator.Irecv(array, rank, tag)
        return request

    def wait(self, messages: Sequence[tuple[int, Request]], what: str) -> None:
        begun, looks = time.monotonic(), 0
        while missing := [(rank, request) for rank, request in messages if not request.Test()]:
            if time.monotonic() - begun > self._patience:
                raise ClusterError(
                    f"rank {missing[0][0]} has kept the others waiting for {self._patience:.0f} s ({what}): it hangs, "
                    "or is far slower than they are"
                )
            if (looks := looks + 1) > _IMPATIENT:
                time.sleep(_PAUSE)
            messages = missing

    def workers(self) -> AbstractContextManager[Executor | None]:
        from mpi4py.futures import MPICommExecutor

        pool: Any = MPICommExecutor(self._communicator)  # says that it may be None, and not that it is an Executor
        return pool

    def stop(self, status: int) -> None:
        time.sleep(_LAST_WORDS)
        self._communicator.Abort(status)
