"""Judge students' code in a process of its own, which it may crash, hang or fill without harm to the notebook.

The process is kept for the next check, and replaced when it has died or was stopped. Exercise and answer reach it
pickled by value, as they stand in the notebook. It reports what it does next, so that whoever waits can say at which
shapes the code crashed or did not come to an end. What the code prints is printed here.
"""

from __future__ import annotations

import atexit
import importlib.util
import io
import linecache
import os
import pickle
import queue
import signal
import subprocess
import sys
import sysconfig
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic
from types import ModuleType
from typing import Any, BinaryIO

from numba import cloudpickle  # Numba brings its own, and needs it to the same end

from ...engine.backend import current_backend, use_backend
from ...errors import ArgumentError
from ...gpu.kernel import Kernel
from .exercise import Exercise
from .judging import source
from .verdict import Verdict

PATIENCE = 60.0  # seconds for one step: to compile a function and run it on small arrays
PATIENCE_FOR_TIMES = 30.0  # seconds for its timing
MEMORY = 4 * 2**30  # bytes that the process may ask for
PRINTED = 10_000  # characters of one check
CRASHED = (
    "Compiled code that writes outside of an array overwrites what lies there, and goes on until it meets something "
    "that matters. At which border does an index leave the array?"
)
ENDLESS = "Which loop does not end, or has far more rounds than there is work?"
SLOW = " It was not timed: that took more than {:.0f} s. Is there a loop that Numba does not compile?"


def judge(exercise: Exercise, answer: Any, time: bool) -> Verdict:
    """The verdict on an answer; where that runs a student's code, from a process of its own.

    Raises ArgumentError for an answer that is not of the kind asked for, or that uses what cannot be taken along.
    """
    if not exercise.runs_code or not (callable(answer) or isinstance(answer, Kernel)):
        return exercise.judge(answer, time)
    message = _packed(exercise, answer, time)
    with _checker.lock:
        is_new = _checker.start()
        try:
            return _checker.judge(exercise, message)
        except _DiedError as died:
            death = died
        if not is_new:  # what an answer before this one has overwritten may show only now
            _checker.start()
            try:
                return _checker.judge(exercise, message)
            except _DiedError as died:
                death = died
    return exercise.verdict(False, f"It ended the process that it ran in, {death}.", CRASHED)


class _DiedError(Exception):
    """The process is gone: how, and what it was doing."""


class _Checker:
    """The process, seen from the notebook."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()

    def start(self) -> bool:
        """Start the process unless it is there; whether it is new."""
        if self._process is not None and self._process.poll() is None:
            return False
        self.stop()
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        places = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=places, start_new_session=True, **pipes)
        self._said = queue.SimpleQueue()
        threading.Thread(target=_listen, args=(self._process.stdout, self._said.put), daemon=True).start()
        return True

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what was to be sent can no longer be
                    pipe.close()
            self._process = None

    def judge(self, exercise: Exercise, message: bytes) -> Verdict:
        """Its verdict; _DiedError if there will be none."""
        try:
            return self._judge(exercise, message)
        except BaseException:  # also when the notebook is interrupted
            self.stop()
            raise

    def _judge(self, exercise: Exercise, message: bytes) -> Verdict:
        assert self._process is not None and self._process.stdin is not None
        doing: str = "before it was run"
        so_far: Verdict | None = None
        until = monotonic() + PATIENCE
        with suppress(OSError):  # it has died since: that is found below
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        while True:
            try:
                kind, value = self._said.get(timeout=0.1)  # an interrupt may have to wait for the end of that
            except queue.Empty:
                if monotonic() < until:
                    continue
                self.stop()
                if so_far is not None:
                    return replace(so_far, message=so_far.message + SLOW.format(PATIENCE_FOR_TIMES))
                return exercise.verdict(False, f"After {PATIENCE:.0f} s it had not come to an end, {doing}.", ENDLESS)
            if kind == "verdict":
                return value
            if kind == "error":
                raise value
            if kind == "gone":
                raise _DiedError(f"{_how(self._process.wait())}, {doing}")
            if kind == "printed":
                stream, text = value
                print(text, end="", file=sys.stdout if stream == "stdout" else sys.stderr)
            else:
                doing, so_far = f"when it was {value[0]}", value[1]
                until = monotonic() + (PATIENCE if so_far is None else PATIENCE_FOR_TIMES)


def _how(status: int) -> str:
    """How a process has ended, in words."""
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def _listen(stream: BinaryIO, hear: Callable[[tuple[str, Any]], None]) -> None:
    """Hear what is said at the other end of a pipe, until that is gone."""
    while True:
        try:
            said = pickle.load(stream)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            return hear(("gone", None))
        hear(said)


_checker = _Checker()
atexit.register(_checker.stop)


# What is sent ------------------------------------------------------------------------------------------------------


def _packed(exercise: Exercise, answer: Any, time: bool) -> bytes:
    function = source(answer)
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    used = [function, *(source(names[name]) for name in getattr(code, "co_names", ()) if name in names)]
    files = {one.__code__.co_filename for one in used if hasattr(one, "__code__")}
    lines = {file: linecache.getlines(file) for file in files}  # cells of a notebook are in no file
    try:
        with _by_value(sys.modules.get(getattr(function, "__module__", None) or type(answer).__module__)):
            return cloudpickle.dumps((exercise, answer, time, current_backend(), lines))
    except (pickle.PicklingError, TypeError) as error:
        raise ArgumentError(
            f"{exercise.name}: the answer must work in a process of its own, and cannot be taken there: {error}. Let "
            "it use only what it is given, functions and arrays"
        ) from error


@contextmanager
def _by_value(module: ModuleType | None) -> Iterator[None]:
    """A student's own module goes along as it is now: its file may say something else by then."""
    if module is None or module.__name__ == "__main__" or not _is_own(module):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _is_own(module: ModuleType) -> bool:
    """Whether a module is neither installed nor this package's."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    file = getattr(module, "__file__", None)
    package = module.__name__.partition(".")[0]
    return file is not None and package != __name__.partition(".")[0] and not any(map(file.startswith, installed))


# The process itself ------------------------------------------------------------------------------------------------


def serve() -> None:
    """Judge what comes through the standard input, until that ends; answers leave through the standard output."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # students' code reads nothing,
    os.dup2(2, 1)  # and what it prints by other ways than Python's does not get between the answers
    turn = threading.Lock()

    def say(kind: str, value: Any) -> None:
        with turn:
            pickle.dump((kind, value), answers)
            answers.flush()

    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def hear(said: Any) -> None:
        if said == ("gone", None):  # the notebook is
            os._exit(0)
        heard.put(said)

    threading.Thread(target=_listen, args=(requests, hear), daemon=True).start()
    _limit_memory()
    while True:
        message = heard.get()
        sys.stdout, sys.stderr = _Printed("stdout", say), _Printed("stderr", say)
        _answer(message, say)


def _answer(message: bytes, say: Callable[[str, Any], None]) -> None:
    """Say the verdict, or the error to raise."""

    def report(doing: str, so_far: Verdict | None = None) -> None:
        _limit_seconds()
        say("report", (doing, so_far))

    try:
        exercise, answer, time, backend, lines = pickle.loads(message)
        for file, text in lines.items():
            linecache.cache[file] = (sum(map(len, text)), None, text, file)
        with use_backend(backend):
            say("verdict", exercise.judge(answer, time, report))
    except ArgumentError as error:
        say("error", error)
    except BaseException:  # a mistake of ours
        say("error", RuntimeError(f"the check itself failed:\n{traceback.format_exc()}"))


class _Printed(io.TextIOBase):
    """What students' code prints, on its way to the notebook."""

    def __init__(self, stream: str, say: Callable[[str, Any], None]) -> None:
        self._stream, self._say, self._left = stream, say, PRINTED

    def write(self, text: str) -> int:
        if self._left > 0:
            self._say("printed", (self._stream, text if len(text) <= self._left else f"{text[: self._left]} ...\n"))
            self._left -= len(text)
        return len(text)


def _limit_memory() -> None:
    """Let an array that is far too large be an error, not a machine that stands still."""
    _limit("RLIMIT_DATA", MEMORY)


def _limit_seconds() -> None:
    """End compiled code in time if the notebook is gone: a loop that holds the interpreter hears nothing of that."""
    _limit("RLIMIT_CPU", int(sum(os.times()[:2]) + 2 * PATIENCE * (os.cpu_count() or 1)))


def _limit(name: str, value: int) -> None:
    """Limit what this process may use, where the system can do that."""
    if importlib.util.find_spec("resource") is not None:
        import resource

        kind = getattr(resource, name)
        most = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if most == resource.RLIM_INFINITY else min(value, most), most))
