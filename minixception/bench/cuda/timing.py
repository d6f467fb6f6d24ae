"""How long the GPU works on a call: measured by events, which the GPU itself stamps as it passes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_MOST = 64  # fillings: some tens of milliseconds


class EventClock:
    """Seconds from an event before a call to one after it, on a stream with nothing else to do.

    What Python needs to start the kernels counts wherever the GPU waits for it: the time that a user sees. All who are
    timed must work in this stream. cuda: the module numba.cuda.
    """

    def __init__(self, cuda: Any, stream: Any) -> None:
        self._first, self._last, self._stream = cuda.event(), cuda.event(), stream

    def __call__(self, function: Callable[[], Any]) -> float:
        """Call the function; wait until the GPU is done."""
        self._stream.synchronize()
        return self._between(function)[0]

    def _between(self, function: Callable[[], Any]) -> tuple[float, bool]:
        """Seconds between the events, and whether all was queued before the GPU came to it."""
        self._first.record(self._stream)
        function()
        self._last.record(self._stream)
        is_ahead = not self._first.query()
        self._last.synchronize()
        return self._first.elapsed_time(self._last) / 1e3, is_ahead


class QueuedClock(EventClock):
    """Seconds of the GPU's work alone, however long Python needs to start it.

    Starting a kernel from Python takes longer than many a kernel runs. So the stream is filled with other work first,
    and the call with both events queues behind that: when the GPU comes to it, all of it is there. If the GPU was
    faster, the call is made again behind twice as much work. ``fill`` queues a piece of it, a copy of arrays larger
    than the caches: so every call begins with caches that hold nothing of its own.

    late: how many calls were counted although the GPU waited for Python in them. A function that waits for the GPU
    itself can never be queued in advance.
    """

    def __init__(self, cuda: Any, stream: Any, fill: Callable[[], Any]) -> None:
        super().__init__(cuda, stream)
        self._fill, self._fillings = fill, 1
        self.late = 0

    def __call__(self, function: Callable[[], Any]) -> float:
        """Call the function behind other work, once or more often; wait until the GPU is done."""
        while True:
            self._stream.synchronize()
            for _ in range(self._fillings):
                self._fill()
            seconds, is_ahead = self._between(function)
            if is_ahead:
                return seconds
            if self._fillings >= _MOST:
                self.late += 1
                return seconds
            self._fillings *= 2
