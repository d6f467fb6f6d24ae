"""The command line: which command to run, and what an error looks like. The commands are in ``apps/commands/``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from .commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 (a check failed), 2 (bad input) or 130 (Ctrl-C)."""
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print("minixception: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe (head, less) went away
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"minixception: error: {error}", file=sys.stderr)
        return 2


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
