"""The command line: which command to run, and what an error looks like. The commands are in ``apps/commands/``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from .commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (a check failed), 2 (bad input) or 130 (Ctrl-C, SIGTERM)."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot show is escaped; files get lines at once
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    out: Any = _ToTheEnd(sys.stdout)
    err: Any = _ToTheEnd(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return _status(arguments)


def _status(arguments: Sequence[str] | None) -> int:
    try:
        try:
            options = parser().parse_args(arguments)
            options.words = list(sys.argv[1:] if arguments is None else arguments)
            command: Callable[[argparse.Namespace], int] = options.command
            with _sigterm_as_ctrl_c():
                return command(options)
        finally:
            sys.stdout.flush()  # here, where a disk that is full is answered for
    except KeyboardInterrupt:
        print("minixception: stopped", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        return _failed(error)
    except MemoryError as error:
        return _failed(f"there is not enough memory: {str(error) or 'take smaller images or batches'}")


class _ToTheEnd:
    """A stream that may end in a pipe whose reader (head, less) went away: the rest is written to nowhere.

    The command itself goes on to its end, since training, for one, is worth more than the lines it prints.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """As the stream's own."""
        with self._readerless():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As the stream's own."""
        with self._readerless():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _readerless(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())  # takes what is still in the buffer, too


def _failed(why: object) -> int:
    print(f"minixception: error: {why}", file=sys.stderr)
    return 2


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """What batch systems and containers send to end a process ends a command as Ctrl-C does, which saves its work."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    root = argparse.ArgumentParser(prog="minixception", description="Xception from scratch in NumPy and Numba.")
    root.add_argument("--version", action="version", version=f"minixception {version('minixception')}")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(command=command)
        return sub

    for command in COMMANDS:
        command.register(add)
    return root


if __name__ == "__main__":
    sys.exit(main())
