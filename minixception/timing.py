"""Time several functions so that the comparison between them is fair."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .errors import ArgumentError


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median of all repeats, and quartiles (half of the repeats lie from low to high).

    >>> print(Timing(median=0.0125, low=0.012, high=0.0131))
    12.50 ms (12.00 to 13.10)
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{1e3 * self.median:.2f} ms ({1e3 * self.low:.2f} to {1e3 * self.high:.2f})"


Clock = Callable[[Callable[[], Any]], float]


def wall_clock(function: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def interleaved(
    functions: Mapping[str, Callable[[], Any]],
    repeats: int = 15,
    after_round: Callable[[], Any] = lambda: None,
    clock: Clock = wall_clock,
) -> dict[str, Timing]:
    """Time functions in turn, each with two calls per round, of which the second counts.

    In turn, because a computer is not equally fast all the time: what slows it for a while then slows all
    functions alike, and the ratios between them survive. The call that does not count compiles where that is
    still to do, brings the function's own data back into the caches, and outlasts the threads of another
    library that still spin, waiting for more work. The median leaves single interruptions out. after_round is
    called after each round, outside of what is timed, to show progress. clock calls a function and tells its seconds.
    Raises ArgumentError without functions or for repeats below 1.

    >>> times = interleaved({"short": lambda: sum(range(10)), "long": lambda: sum(range(10_000))}, repeats=5)
    >>> times["short"].median < times["long"].median
    True
    """
    return in_turn(
        {name: partial(second_call, function, clock) for name, function in functions.items()}, repeats, after_round
    )


def second_call(function: Callable[[], Any], clock: Clock = wall_clock) -> float:
    """Seconds of the second of two calls; ``interleaved`` says what the first is for."""
    function()
    return clock(function)


def in_turn(
    turns: Mapping[str, Callable[[], float]], repeats: int = 15, after_round: Callable[[], Any] = lambda: None
) -> dict[str, Timing]:
    """The rounds of ``interleaved``, for functions that take a time themselves, wherever they do, and return it.

    >>> in_turn({"somewhere else": lambda: 0.25}, repeats=3)
    {'somewhere else': Timing(median=0.25, low=0.25, high=0.25)}
    """
    if not turns:
        raise ArgumentError("interleaved: expected at least one function to time, got none")
    if repeats < 1:
        raise ArgumentError(f"interleaved: repeats must be at least 1, got {repeats!r}")
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(repeats):
        for name, turn in turns.items():
            seconds[name].append(turn())
        after_round()
    return {name: summarise(values) for name, values in seconds.items()}


_STEADY = 0.25  # of the median: half of the repeats lie closer together on a machine that does nothing else


def disturbance(times: Mapping[Any, Timing]) -> str:
    """A warning for whoever reads these times, if the machine was busy with something else meanwhile; else "".

    It was if half of one function's repeats spread over more than a quarter of their median, or if more wanted to run
    than there are cores, over the last minute and where the operating system counts that.

    >>> disturbance({"short": Timing(median=1.0, low=0.8, high=1.3)})[:30]
    'The machine was busy: repeats '
    """
    signs = []
    spread = max((t.high - t.low) / t.median for t in times.values())
    if spread > _STEADY:
        signs.append(f"repeats of one function differ by {spread:.0%}")
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    if load > cores:
        signs.append(f"{load:.1f} threads wanted to run on {cores} cores")
    return f"The machine was busy: {', and '.join(signs)}. Take these times again when it is not." if signs else ""


def summarise(seconds: Sequence[float]) -> Timing:
    """Median and quartiles of repeated measurements.

    >>> summarise([0.1, 0.2, 0.3]).median
    0.2
    """
    low, median, high = np.percentile(seconds, (25, 50, 75)).tolist()
    return Timing(median, low, high)
