"""minixception doctor: what this machine offers."""

from __future__ import annotations

import argparse

from .common import Add, add_json, show


def register(add: Add) -> None:
    """The command and its options."""
    add_json(add("doctor", run, "what this machine offers, and what to do next"))


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from ..doctor import examine

    report = examine()
    show(options, report.to_json(), report)
    return 0
