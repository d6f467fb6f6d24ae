"""``python -m minixception.experiments NAME OUT``: train in pieces, and write a result file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .runs import run
from .table import EXPERIMENTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing; returns 0 when the experiment is complete, 3 where runs are left for another call."""
    parser = argparse.ArgumentParser(prog="python -m minixception.experiments", description=(__doc__ or "").strip())
    parser.add_argument("name", choices=tuple(EXPERIMENTS))
    parser.add_argument("out", type=Path, help="the result file, which a later call goes on with")
    parser.add_argument("--data", metavar="SPEC", help="cifar10:FOLDER; default: the data of the recipe")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--minutes", type=float, default=55, help="begin no run after these; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="processes that train; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        complete = run(options.name, options.out, options.data, options.minutes, options.jobs, options.epochs)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not complete:
        print("there are runs left: call again")
    return 0 if complete else 3


if __name__ == "__main__":
    raise SystemExit(main())
