"""An object in a process of its own, so that the threads of one library take nothing of what another is timed with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

# Threads that wait for more work spin for a while before they sleep. Measured after a forward pass of Xception on two
# cores: 45 ms with ONNX Runtime, 9 ms with OpenMP (PyTorch, and our own where Numba uses it), less than 8 ms with
# OpenVINO, TensorFlow and LiteRT. None is told to spin less, which would slow it down; instead a process answers
# only when its threads are seen to be asleep.
_GLANCE, _ASLEEP = 0.01, 0.05  # seconds of one look, and the share of them that a process at rest may use
_PATIENCE = 10.0  # seconds
_FAREWELL = 5.0  # seconds
_SAID = 200  # characters of an error: some libraries add pages of their source


class Apart:
    """What ``build()`` returns, in a new process that lives for the length of a ``with`` block.

    build must be picklable, as must be what goes there and comes back. ChildProcessError with the reason if building or
    a call raises, or if the process ends; a process that has answered uses no processor until it is asked again.

    >>> with Apart(dict) as empty:
    ...     empty.ask("get", "nothing", 7)
    7
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        spawn = get_context("spawn")  # a fork would take our threads' locks along, and what is imported here
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, build), daemon=True)
        self._process.start()
        theirs.close()  # with the process the last of these ends is gone, and whoever reads here is told
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, method: str, *arguments: Any) -> Any:
        """What that method of the object returns."""
        with suppress(OSError):  # it has ended: that is said below
            self._pipe.send((method, arguments))
        return self._answer()

    def close(self) -> None:
        """End the process, whatever it does."""
        self._pipe.close()  # it reads that nobody will ask again, and leaves in order
        self._process.join(_FAREWELL)
        self._process.kill()
        self._process.join()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> Any:
        try:
            failure, answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise ChildProcessError(f"its process ended {_how(self._process.exitcode)}") from None
        if failure is not None:
            raise ChildProcessError(failure)
        return answer


def _how(status: int | None) -> str:
    """How a process has ended, in words."""
    return f"by {signal.Signals(-status).name}" if status is not None and status < 0 else f"with status {status}"


# In the process itself ------------------------------------------------------------------------------------------------


def _serve(pipe: Connection, build: Callable[[], Any]) -> None:
    """Build the object and answer until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both, and who asks ends this process
    os.dup2(2, 1)  # what libraries print is no part of a command's output
    try:
        built = build()
        _send(pipe, None)
        while True:
            method, arguments = pipe.recv()
            _send(pipe, getattr(built, method)(*arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):  # who asked has gone
        return
    except BaseException as error:
        pipe.send((f"{type(error).__name__}: {' '.join(str(error).split())[:_SAID]}", None))


def _send(pipe: Connection, answer: Any) -> None:
    _fall_asleep()
    pipe.send((None, answer))


def _fall_asleep() -> None:
    """Return when the threads of this process use no processor any more."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        begun, used = time.monotonic(), time.process_time()
        time.sleep(_GLANCE)
        if time.process_time() - used < _ASLEEP * (time.monotonic() - begun):
            return
    raise TimeoutError(f"its threads are still busy {_PATIENCE:.0f} s after it has answered")
