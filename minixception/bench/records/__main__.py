"""``python -m minixception.bench.records NAME OUT [options]``: measure, and write one file of docs/results."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from . import cluster, fusions, gpu_counts, gpu_page, growth, ladder, process, tape, training_run

RECORDS = {
    "ladder": ladder,
    "process": process,
    "tape": tape,
    "training_run": training_run,
    "growth": growth,
    "fusions": fusions,
    "cluster": cluster,
    "gpu_counts": gpu_counts,
    "gpu_page": gpu_page,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one record; returns the exit status: 0, or 1 if the record has found a fault."""
    parser = argparse.ArgumentParser(prog="python -m minixception.bench.records", description=(__doc__ or "").strip())
    names = parser.add_subparsers(required=True, metavar="NAME", dest="name")
    for name, record in RECORDS.items():
        first, _, _ = (record.__doc__ or "").partition("\n")
        options = names.add_parser(name, help=first, description=first)
        options.add_argument("out", type=Path, help="the file to write")
        record.add_options(options)
    chosen = parser.parse_args(arguments)
    try:
        return RECORDS[chosen.name].run(chosen)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    raise SystemExit(main())
