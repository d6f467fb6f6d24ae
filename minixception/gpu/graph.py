"""Work that is the same in every call: recorded once, then queued by one call of the driver, as a CUDA graph.

Each launch costs the processor some microseconds, and a network is dozens of launches, a training step hundreds. If the
GPU is done with them sooner it waits. But what a step launches is the same in every step: the same kernels, the same
shapes and, if we see to it, the same addresses. So it is recorded instead of run, and the driver makes a graph of it,
which the GPU can work off without the processor.

Seeing to it means:

- Inputs are copied into arrays that stay, and results lie in arrays that stay: the next call overwrites them.
- What lies between comes from a pool of its own. Its blocks are used again within the graph, in the order of the one
  stream, and by nobody else: each replay writes to all of them.
- Arrays from elsewhere, such as weights, are kept alive.
- A scalar that a launch passes on is a part of the graph, the same in each replay. What must differ is read from memory
  that is written before each replay: so are the keys of random masks (``drawn``). Learning rates stay outside.
- Nothing may wait for the GPU or read its memory while work is recorded: nothing has run. RecordingError says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import RecordingError
from . import device
from . import kernel as gpu
from .launch import core_stream
from .memory import Pool

Array = Any  # an array of the GPU
Work = Callable[[Sequence[Any]], None]  # queues a launch, or a copy, with these arguments


class Repeated:
    """A function of arrays of the GPU that queues the same work in each call, for arrays of the same shapes.

    It returns what the function returned, arrays that the next call overwrites. The first call runs the function, and
    compiles its kernels; the second records it; this and all later calls replay. If it does what cannot be recorded, it
    is just run each time. Host time of a replay: a copy for each input and one launch. Memory: that of a call, kept.
    Not for several threads at once: while one records, what another launches would be taken for a part of it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._inputs: list[Array] = []
        self._pool = Pool(_Reserve())
        self._recording: Recording | None = None
        self._result: Any = None
        self.recordable = True

    def __call__(self, *arrays: Array) -> Any:
        """The function's result for these arrays."""
        if gpu.is_redirected() or gpu.recording() is not None or not self.recordable:
            return self._function(*arrays)
        if not self._inputs:
            self._inputs = [device.copy(array) for array in arrays]
            with _Trial(self._pool):
                return self._function(*self._inputs)
        for ours, array in zip(self._inputs, arrays, strict=True):
            device.assign(ours, array)
        if self._recording is None:
            try:
                self._record()
            except RecordingError:  # a layer of the user's own, say, that computes on the processor
                self.recordable = False
                return self._function(*arrays)
        assert self._recording is not None
        self._recording.replay()
        return self._result

    def _record(self) -> None:
        recording = _Notes(self._pool) if gpu.is_simulated() else _Capture(self._pool)
        with recording:
            self._result = self._function(*self._inputs)
        self._recording = recording


def drawn(draw: Callable[[], int]) -> Array:
    """An array of one uint64 that draw() gives; in a recording, before each replay anew, in the order of the recording.

    A launch writes it: a scalar travels with the launch, while a copy would have to be waited for.
    """
    recording = gpu.recording()
    if recording is not None:
        return recording.reserve(draw)
    number = gpu.empty((1,), np.uint64)
    device.fill(number, draw())
    return number


class Recording(ABC):
    """Notes what is queued in its ``with`` block; ``pool`` is where new arrays come from there."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._draws: list[tuple[Callable[[], int], Array]] = []

    def __enter__(self) -> None:
        gpu.record(self)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        gpu.record(None)

    def reserve(self, draw: Callable[[], int]) -> Array:
        """Memory for a number that is written before each replay: it may be nobody else's within the graph."""
        self._draws.append((draw, gpu.pool().empty((1,), np.uint64)))
        return self._draws[-1][1]

    @abstractmethod
    def note(self, work: Work, arguments: Sequence[Any]) -> None:
        """A launch or a copy, and what it is given."""

    def refuse(self, what: str) -> None:
        """RecordingError: this cannot be done where nothing has run."""
        raise RecordingError(f"what is recorded may not {what}: nothing runs while it is recorded")

    def replay(self) -> None:
        """Queue it all."""
        for draw, number in self._draws:
            device.fill(number, draw())
        self._queue()

    @abstractmethod
    def _queue(self) -> None:
        """Queue what was noted."""


class _Trial(Recording):
    """Runs what it is given at once: only the memory is the recording's."""

    def note(self, work: Work, arguments: Sequence[Any]) -> None:
        work(arguments)

    def _queue(self) -> None:
        """It has run."""

    def refuse(self, what: str) -> None:
        """Not yet."""

    def reserve(self, draw: Callable[[], int]) -> Array:
        number = super().reserve(draw)
        device.fill(number, draw())
        return number


class _Notes(Recording):
    """The simulator's: a list."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._work: list[tuple[Work, list[Any]]] = []

    def note(self, work: Work, arguments: Sequence[Any]) -> None:
        self._work.append((work, list(map(self._as_in_a_graph, arguments))))

    def _as_in_a_graph(self, argument: Any) -> Any:
        """Of an array in the recording's own memory the address: its block may be used again."""
        if not _is_array(argument) or not self.pool.lends(address := device.address(argument)):
            return argument
        return self.pool.memory.array(None, address, tuple(argument.shape), argument.dtype)

    def _queue(self) -> None:
        for work, arguments in self._work:
            work(arguments)


class _Capture(Recording):
    """The driver's: while a stream is captured, what is queued in it becomes a part of a graph and does not run."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._stream = core_stream(gpu.stream())
        self._builder = self._stream.create_graph_builder()
        self._kept: list[Any] = []
        self._graph: Any = None

    def __enter__(self) -> None:
        super().__enter__()
        self._builder.begin_building()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)
        self._builder.end_building()
        if kind is None:
            self._graph = self._builder.complete()

    def note(self, work: Work, arguments: Sequence[Any]) -> None:
        self._kept += [a for a in arguments if _is_array(a) and not self.pool.lends(device.address(a))]
        work(arguments)

    def _queue(self) -> None:
        self._graph.launch(self._stream)


def _is_array(argument: Any) -> bool:
    return hasattr(argument, "shape") and device.is_on_gpu(argument)


class _Reserve:
    """Memory for the pool of a recording: arrays of the common pool, which get back to it with the recording."""

    def allocate(self, size: int) -> Array:
        """An array of bytes."""
        return gpu.pool().empty((size,), np.uint8)

    def address(self, block: Array) -> int:
        """Where it begins."""
        return device.address(block)

    def array(self, lease: Any, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """As the common pool makes them."""
        return gpu.pool().memory.array(lease, address, shape, dtype)

    def view(self, owner: Any) -> Array:
        """As the common pool makes them."""
        return gpu.pool().memory.view(owner)
