"""Students' code in a process of its own: it may crash, hang, fill memory and print, and the notebook lives."""

import ctypes
import functools
import os
import signal
import sys
import threading
import types

import numpy as np
import pytest
from numba import njit

import minixception as mx
from minixception.course.checks import Function, Number, apart, judge
from minixception.engine.op import Case
from minixception.errors import ArgumentError

DOUBLE = Function(
    name="double",
    notebook=0,
    title="t",
    reference=lambda x: 2 * x,
    draw=lambda draw: Case((draw.normal(3, 2),)),
    fills=True,
)
FACTOR = 2


def double(x, y):
    y[:] = FACTOR * x


def writes_far_outside(x, y):
    ctypes.memset(y.ctypes.data, 0, 2**40)


def aborts(x, y):
    os.abort()


def leaves(x, y):
    os._exit(3)


def never_ends(x, y):
    while True:
        y[0] += x[0]


@njit(error_model="numpy")
def never_ends_compiled(x, y):
    y[0, 0] = 1
    while y[0, 0] > 0:  # holds the interpreter
        y[0, 0] += x[0, 0] * x[0, 0]


def fills_memory(x, y):
    y[:] = 2 * x + np.zeros(2**38, np.uint8).sum()


def reads(x, y):
    input()


def exits(x, y):
    sys.exit(1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            writes_far_outside,
            "It ended the process that it ran in, by SIGSEGV, when it was run as plain Python on 3x2 float64.",
        ),
        pytest.param(aborts, "by SIGABRT", marks=pytest.mark.slow),
        pytest.param(leaves, "with status 3", marks=pytest.mark.slow),
        (fills_memory, "It raised MemoryError"),
        (reads, "It raised EOFError"),
        (exits, "It raised SystemExit"),
    ],
)
def test_what_ends_a_process_does_not_end_this_one(answer, words):
    verdict = judge(DOUBLE, answer, time=False)
    assert verdict.passed is False and words in verdict.message
    assert judge(DOUBLE, double, time=False)


@mx.lab.cuda_kernel
def never_ends_on_the_gpu(x, y):
    while True:
        y[0] = x[0, 0]


def test_a_cuda_kernel_without_end_is_stopped_and_told(monkeypatch):
    assert judge(DOUBLE, double, time=False)  # the process is there
    monkeypatch.setattr(apart, "PATIENCE", 0.5)
    verdict = judge(mx.lab.EXERCISES["row-sums"], never_ends_on_the_gpu, time=False)
    assert verdict.passed is False and "it had not come to an end" in verdict.message


@pytest.mark.parametrize("answer", [never_ends, pytest.param(never_ends_compiled, marks=pytest.mark.slow)])
def test_a_loop_without_end_is_stopped_and_told(answer, monkeypatch):
    assert judge(DOUBLE, double, time=False)  # the process is there
    monkeypatch.setattr(apart, "PATIENCE", 0.5)
    verdict = judge(DOUBLE, answer, time=False)
    assert verdict.passed is False and "After 0 s it had not come to an end, when it was run as plain Python" in str(
        verdict
    )
    monkeypatch.undo()
    assert judge(DOUBLE, double, time=False)


@pytest.mark.slow
def test_timing_that_takes_too_long_leaves_the_verdict(monkeypatch):
    def slow_when_large(x):
        while x.size > 6:
            pass
        return 2 * x

    large = Case((np.ones((100, 2), np.float32),))
    exercise = Function(
        name="n", notebook=0, title="t", reference=DOUBLE.reference, draw=DOUBLE.draw, peers=dict, timed=lambda: large
    )
    assert judge(DOUBLE, double, time=False)
    monkeypatch.setattr(apart, "PATIENCE_FOR_TIMES", 0.5)
    verdict = judge(exercise, slow_when_large, time=True)
    assert verdict and verdict.times is None and "It was not timed" in verdict.message


def test_a_notebook_that_is_interrupted_stops_the_process(monkeypatch):
    assert judge(DOUBLE, double, time=False)
    process = apart._checker._process
    threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        judge(DOUBLE, never_ends, time=False)
    assert process.wait(1800) == -signal.SIGKILL
    assert judge(DOUBLE, double, time=False)


@pytest.mark.slow
def test_what_an_earlier_answer_overwrote_is_not_blamed_on_the_next(monkeypatch):
    assert judge(DOUBLE, double, time=False)
    os.kill(apart._checker._process.pid, signal.SIGSEGV)
    assert judge(DOUBLE, double, time=False)


@pytest.mark.slow
def test_a_process_whose_notebook_is_gone_ends(monkeypatch):
    assert judge(DOUBLE, double, time=False)
    process = apart._checker._process
    process.stdin.close()
    assert process.wait(1800) == 0


def prints(x, y):
    print("x is", x.shape)
    print("beware", file=sys.stderr)
    y[:] = 2 * x


def prints_without_end(x, y):
    print("x" * 1000)
    y[:] = 2 * x


def test_what_the_code_prints_is_printed_here(capfd):
    assert judge(DOUBLE, prints, time=False)
    out, err = capfd.readouterr()
    assert "x is (3, 2)\n" in out and "beware\n" in err
    assert judge(DOUBLE, prints_without_end, time=False)
    assert apart.PRINTED < len(capfd.readouterr().out) < apart.PRINTED + 2000


# What is taken along ------------------------------------------------------------------------------------------------


def in_module(factor):
    """A module that is in no file, as a student's own might be."""
    module = types.ModuleType("students_kernels")
    module.__file__ = os.path.abspath("students_kernels.py")
    exec(f"FACTOR = {factor}\ndef double(x, y):\n    y[:] = FACTOR * x\n", module.__dict__)
    return module


def test_an_answer_is_judged_as_it_is_now(monkeypatch):
    for factor, passed in ((2, True), (3, False), (2, True)):
        module = in_module(factor)
        monkeypatch.setitem(sys.modules, "students_kernels", module)
        assert judge(DOUBLE, module.double, time=False).passed is passed
        assert judge(DOUBLE, functools.partial(module.double), time=False).passed is passed


@pytest.mark.slow
def test_a_compiled_function_and_its_helpers_come_along():
    helper = njit(lambda value: 2 * value)

    @njit
    def compiled(x, y):
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                y[i, j] = helper(x[i, j])

    assert judge(DOUBLE, compiled, time=False)


def test_what_cannot_come_along_is_an_error():
    lock = threading.Lock()
    with pytest.raises(ArgumentError, match="double: the answer must work in a process of its own"):
        judge(DOUBLE, lambda x, y: lock.acquire(), time=False)


def test_errors_of_the_check_itself_are_raised(monkeypatch):
    with pytest.raises(ArgumentError, match="the answer must be a function, got int"):
        judge(DOUBLE, 5, time=False)
    with pytest.raises(ArgumentError, match="or a cuda_kernel, got partial"):
        judge(mx.lab.EXERCISES["row-sums"], functools.partial(double), time=False)
    broken = Function(name="b", notebook=0, title="t", reference=lambda x: 1 / 0, draw=DOUBLE.draw)
    with pytest.raises(RuntimeError, match=r"the check itself failed:(.|\n)*ZeroDivisionError"):
        judge(broken, abs, time=False)


def test_the_backend_comes_along():
    exercise = Function(
        name="b",
        notebook=0,
        title="t",
        reference=lambda x: np.full_like(x, mx.current_backend() == "numpy"),
        draw=DOUBLE.draw,
    )
    with mx.use_backend("numpy"):
        assert judge(exercise, np.ones_like, time=False)


def test_numbers_need_no_process(monkeypatch):
    monkeypatch.setattr(apart, "_packed", None)
    assert judge(Number(name="n", notebook=0, title="t", expected=lambda: 4, why="w"), 4, time=False)
