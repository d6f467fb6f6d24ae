"""minixception warmup: kernels compiled ahead."""

from __future__ import annotations

import argparse

from ...tables import Table
from .common import Add, add_json, show


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("warmup", run, "compile the kernels of operators and models now, so that the first run does not wait")
    parser.add_argument("--all", action="store_true", help="float64 and the loops rung too")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Compile, and print how long each kernel took."""
    from ..warmup import warmup

    dtypes = ("float32", "float64") if options.all else ("float32",)
    rows = warmup(dtypes, ("loops", "cpu") if options.all else ("cpu",))
    fields = ("operator", "rung", "dtype", "seconds")
    show(options, [dict(zip(fields, row, strict=True)) for row in rows], Table(fields, rows))
    return 0
