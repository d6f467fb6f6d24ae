"""minixception demo: a first training in a minute."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import Add, add_device, chosen_device


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("demo", run, "train a small Xception on drawn pictures, in a minute or two, and show what it learned")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Train, and write the pictures."""
    from .. import demo

    demo.run(options.out, chosen_device(options))
    return 0
