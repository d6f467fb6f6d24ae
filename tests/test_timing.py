"""Timing: functions take turns, the first call of a turn does not count, the summary is median and quartiles."""

from __future__ import annotations

import os
import time

import pytest

from minixception.errors import ArgumentError
from minixception.timing import Timing, disturbance, interleaved


def test_functions_take_turns_of_two_calls():
    calls = []
    interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3)
    assert "".join(calls) == "aabb" * 3


def test_the_second_call_of_each_turn_counts_and_gives_median_and_quartiles(monkeypatch):
    durations = iter([100.0, 5.0, 9.0, 1.0, 9.0, 3.0, 9.0, 2.0, 9.0, 4.0])
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def function():
        clock[0] += next(durations)

    assert interleaved({"f": function}, repeats=5) == {"f": Timing(median=3.0, low=2.0, high=4.0)}


def test_each_function_has_its_own_times(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def takes(seconds):
        def function():
            clock[0] += seconds

        return function

    times = interleaved({"slow": takes(2.0), "fast": takes(0.5)}, repeats=1)
    assert [t.median for t in times.values()] == [2.0, 0.5]


def test_a_timing_reads_in_milliseconds():
    assert str(Timing(median=0.25, low=0.2, high=0.3)) == "250.00 ms (200.00 to 300.00)"


@pytest.mark.parametrize(("functions", "repeats"), [({}, 3), ({"f": lambda: None}, 0)])
def test_nothing_to_time_is_an_error(functions, repeats):
    with pytest.raises(ArgumentError, match="at least"):
        interleaved(functions, repeats)


@pytest.mark.parametrize(
    ("low", "load", "signs"),
    [
        (0.9, 3.9, ""),
        (0.6, 3.9, "repeats of one function differ by 50%"),
        (0.9, 4.5, "4.5 threads wanted to run on 4 cores"),
        (0.6, 4.5, "repeats of one function differ by 50%, and 4.5 threads wanted to run on 4 cores"),
        (0.9, None, ""),
        (0.6, None, "repeats of one function differ by 50%"),
    ],
)
def test_a_busy_machine_is_told_by_spread_and_load(low, load, signs, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    if load is None:  # as on Windows
        monkeypatch.delattr(os, "getloadavg", raising=False)
    else:
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0), raising=False)
    told = disturbance({"steady": Timing(2.0, 1.9, 2.1), "other": Timing(1.0, low, 1.1)})
    assert told == (f"The machine was busy: {signs}. Take these times again when it is not." if signs else "")
