"""Objects in processes of their own: answers come back, and whatever happens there is an error here, never a wait."""

from __future__ import annotations

import os
from functools import partial
from multiprocessing import active_children

import numpy as np
import pytest

from minixception.bench import apart
from minixception.bench.apart import Apart


class Worker:
    """What is built there."""

    def __init__(self, value=0):
        self.value = value

    def pid(self):
        return os.getpid()

    def add(self, term):
        self.value += term
        return self.value

    def print(self):
        print("for nobody")
        os.write(1, b"for nobody\n")

    def fail(self):
        raise ValueError("a reason\n   of two lines")

    def hang_up(self):
        os._exit(7)


def test_an_object_lives_in_another_process_as_long_as_the_block():
    before = active_children()
    with Apart(partial(Worker, np.ones(3))) as worker:
        assert worker.ask("pid") != os.getpid()
        np.testing.assert_array_equal(worker.ask("add", 1), [2, 2, 2])
        np.testing.assert_array_equal(worker.ask("add", 1), [3, 3, 3])
        assert worker.ask("pid") in {child.pid for child in active_children()}
    assert set(active_children()) == set(before)


def test_what_it_prints_is_not_among_what_we_print(capfd):
    with Apart(Worker) as worker:
        worker.ask("print")
    printed, progress = capfd.readouterr()
    assert printed == ""
    assert progress.count("for nobody") == 2


@pytest.mark.parametrize(
    ("method", "reason"),
    [("fail", "^ValueError: a reason of two lines$"), ("hang_up", "^its process ended with status 7$")],
)
def test_a_call_that_fails_is_an_error_and_so_is_every_later_one(method, reason):
    with Apart(Worker) as worker:
        with pytest.raises(ChildProcessError, match=reason):
            worker.ask(method)
        with pytest.raises(ChildProcessError, match="its process ended with status"):
            worker.ask("pid")


def test_one_that_was_not_built_leaves_no_process():
    before = active_children()
    with pytest.raises(ChildProcessError, match=r"^ValueError: invalid literal"):
        Apart(partial(int, "seven"))
    assert set(active_children()) == set(before)


class Clock:
    """Time that passes only in sleep, and threads of this process that are busy for a while."""

    def __init__(self, busy):
        self.now, self.busy = 0.0, busy

    def monotonic(self):
        return self.now

    def process_time(self):
        return min(self.now, self.busy)

    def sleep(self, seconds):
        self.now += seconds


def test_a_process_answers_when_its_threads_are_asleep(monkeypatch):
    for busy in (0.0, 0.3):
        monkeypatch.setattr(apart, "time", clock := Clock(busy))
        apart._fall_asleep()
        assert busy < clock.now < busy + 0.05


def test_a_process_whose_threads_do_not_fall_asleep_is_an_error(monkeypatch):
    monkeypatch.setattr(apart, "time", Clock(1e9))
    with pytest.raises(TimeoutError, match="its threads are still busy"):
        apart._fall_asleep()


def test_it_falls_asleep_before_it_answers(monkeypatch):
    done = []
    monkeypatch.setattr(apart, "_fall_asleep", lambda: done.append("asleep"))
    apart._send(type("Pipe", (), {"send": done.append}), 7)
    assert done == ["asleep", (None, 7)]
