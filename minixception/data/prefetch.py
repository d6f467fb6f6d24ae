"""Batches that are on the GPU before the step that needs them begins.

The bus and the GPU's arithmetic can work at the same time, but a stream does one thing after the other: copies that
shall run beside a step need a stream of their own. Two orders must then be kept between the streams, each by an event,
a mark that one stream leaves behind and another waits for:

- A step begins when its batch has arrived: the stream of the steps waits for the mark behind the copy.
- A copy begins when its target is free. The target is a block of the pool, which may have been another array's a
  moment ago, and kernels that read that array may still be waiting in the stream of the steps: the stream of the copies
  waits for a mark behind them. These kernels belong to earlier steps; the one to come is not waited for.

Neither makes the processor wait. What does is the source of the copy: the bus reads pinned memory, which the operating
system cannot move, while the processor works on, so it must not be written to before its last copy is done. With two
such buffers in turn, one is filled while the other one is read. The processor then waits only when it is two steps
ahead of the GPU: a copy begins when the step two before its own has ended, and the next but one needs its buffer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ..engine.tensor import Tensor, tensor
from ..gpu import kernel as gpu
from ..gpu.device import require_device


def prefetched(batches: Iterable[tuple[Any, Any]], device: str) -> Iterator[tuple[Tensor, Any]]:
    """Batches (x, labels) of NumPy arrays as (tensor on ``device``, labels), each copied while the one before is used.

    An error of ``batches`` is raised where it would be without this: after the batches before it. On "cpu" nothing is
    copied and nothing is asked for in advance; on "cuda" one batch more is asked for than was used. Takes the GPU's
    memory for three batches: on its way, in use, and the one before, which the caller's variable still holds.

    Raises ArgumentError for another device, BackendError where there is no GPU, and DTypeError for an x that holds
    neither float32 or float64 nor integers.

    >>> [(x.shape, labels) for x, labels in prefetched([(np.zeros((2, 3)), [0, 1])], "cpu")]
    [((2, 3), [0, 1])]
    """
    require_device(device)
    if device == "cpu":
        return ((tensor(x), labels) for x, labels in batches)
    return _one_ahead(iter(batches))


def _one_ahead(batches: Iterator[tuple[Any, Any]]) -> Iterator[tuple[Tensor, Any]]:
    copies, failure = _Copies(), None
    try:
        coming = copies.start(next(batches, None))
        while coming is not None:
            x, arrived, labels = coming
            try:
                coming = copies.start(next(batches, None))
            except Exception as error:  # raised below: the batch that is ready comes first
                coming, failure = None, error
            arrived.wait(gpu.stream())
            yield Tensor(x), labels
        if failure is not None:
            raise failure
    finally:
        copies.finish()
        failure = None  # its traceback holds this frame


class _Pinned:
    """Host memory that the bus reads by itself; it grows to the largest batch."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._memory = np.empty(0, np.uint8)
        self.copied = cuda.event()  # behind the last copy from here

    def filled(self, values: np.ndarray) -> np.ndarray:
        """The values, in this memory, as soon as its last copy is done."""
        self.copied.synchronize()
        if self._memory.size < values.nbytes:
            self._memory = self._cuda.pinned_array(values.nbytes, np.uint8)
        here = self._memory[: values.nbytes].view(values.dtype).reshape(values.shape)
        here[...] = values
        return here


class _Copies:
    """The stream of the copies."""

    def __init__(self) -> None:
        cuda = gpu.numba_cuda()
        self._stream = cuda.stream()
        self._queued = cuda.event()
        self._buffers = itertools.cycle([_Pinned(cuda), _Pinned(cuda)])

    def start(self, batch: tuple[Any, Any] | None) -> tuple[Any, Any, Any] | None:
        """Begin to copy a batch: the array it will be in, the event behind the copy, and the labels."""
        if batch is None:
            return None
        x, labels = tensor(batch[0]).data, batch[1]
        buffer = next(self._buffers)
        here, there = buffer.filled(x), gpu.empty(x.shape, x.dtype)
        self._queued.record(gpu.stream())
        self._queued.wait(self._stream)
        there.copy_to_device(here, stream=self._stream)
        buffer.copied.record(self._stream)
        return there, buffer.copied, labels

    def finish(self) -> None:
        """Wait until no copy is on its way: a batch that nobody wants any more gives up its memory too."""
        self._stream.synchronize()
