"""``python -m minixception.experiments NAME OUT``: train in pieces, and write a result file.

``mpiexec -n 5 python -m minixception.experiments NAME OUT`` has four processes train, on one machine or on many that
share OUT's folder, each with its share of the cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ..cluster.ranks import ALONE, Ranks
from ..cluster.session import together
from .runs import run
from .table import EXPERIMENTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing; returns 0 when the experiment is complete, 3 where runs are left for another call."""
    parser = argparse.ArgumentParser(
        prog="python -m minixception.experiments", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("name", choices=tuple(EXPERIMENTS))
    parser.add_argument("out", type=Path, help="the result file, which a later call goes on with")
    parser.add_argument("--data", metavar="SPEC", help="cifar10:FOLDER; default: the data of the recipe")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--minutes", type=float, default=55, help="begin no run after these; default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="processes, without mpiexec; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        with together() as ranks:
            complete = _run(options, ranks)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if not complete:
        print("there are runs left: call again")
    return 0 if complete else 3


def _run(options: argparse.Namespace, ranks: Ranks) -> bool:
    """Here, or as rank 0 of mpiexec's processes, which has the others train; they end when it does."""
    what = options.name, options.out, options.data, options.minutes
    if ranks is ALONE:
        return run(*what, options.jobs, options.epochs)
    with ranks.workers() as pool:
        complete = pool is None or run(*what, max(1, ranks.size - 1), options.epochs, lambda jobs: nullcontext(pool))
    return bool(ranks.from_first(complete, "the end"))


if __name__ == "__main__":
    raise SystemExit(main())
