"""What the commands share: the type of options, and printing a table or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any, Protocol


class Add(Protocol):
    """Adds a command to the command line: its name, its function (returns the exit status) and a line about it."""

    def __call__(
        self, name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser: ...


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json, which ``show`` obeys."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def show(options: argparse.Namespace, data: Any, text: Any) -> None:
    """Print the data as JSON if that was asked for, else the text."""
    print(json.dumps(data, indent=2) if options.json else text)


def positive(text: str) -> int:
    """The value of an option that counts something."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return number
