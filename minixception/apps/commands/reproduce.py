"""minixception reproduce: the paper's tables beside ours."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...data import ImageNetFolder
from .common import Add, add_json, check_outputs, positive, progress, show

if TYPE_CHECKING:
    from ...training.imagenet import Score
    from ..reproduce import Report


def register(add: Add) -> None:
    """The command and its options: those of each table are its own."""
    parser = add("reproduce", run, "a table of the paper, beside what can be measured here")
    tables = parser.add_subparsers(required=True, metavar="TABLE", dest="table")
    table1 = tables.add_parser("table1", help="accuracy on ImageNet")
    table1.add_argument("--data", metavar="imagenet:DIR", help="the validation images, a folder for each synset")
    table1.add_argument(
        "--weights", nargs="+", default=[], metavar="NAME=FILE", help="trained weights, as in xception=xception.h5"
    )
    table2 = tables.add_parser("table2", help="MAP@100 on JFT")
    table3 = tables.add_parser("table3", help="parameters and training speed")
    table3.add_argument("--steps", type=positive, default=15, metavar="N", help="to time; default: %(default)s")
    table3.add_argument("--batch-size", type=positive, default=4, metavar="N", help="default: %(default)s")
    for table in (table1, table2, table3):
        table.add_argument("--out", type=Path, metavar="FILE", help="result file (JSON), with tables.md beside it")
        table.set_defaults(usage_error=table.error)
        add_json(table)


def run(options: argparse.Namespace) -> int:
    """Print the table, and write the files asked for."""
    from ..reproduce import write_report

    check_outputs(options.out)
    report, settings = {"table1": _table1, "table2": _table2, "table3": _table3}[options.table](options)
    if options.out:
        write_report(options.out, " ".join(["minixception reproduce", options.table, *settings]), report)
    show(options, report.to_json(), report)
    return 0


def _table1(options: argparse.Namespace) -> tuple[Report, list[str]]:
    from ..reproduce import table1
    from ..reproduce.tables import TABLE1

    kind, _, folder = (options.data or "").partition(":")
    weights = dict(text.split("=", 1) for text in options.weights if "=" in text)
    if bool(options.data) != bool(options.weights) or (options.data and not (kind == "imagenet" and folder)):
        options.usage_error("accuracy needs both --data imagenet:DIR and --weights NAME=FILE")
    if len(weights) < len(options.weights) or not weights.keys() <= TABLE1.keys():
        options.usage_error(f"--weights takes NAME=FILE once for each NAME out of {', '.join(TABLE1)}")
    if not options.data:
        return table1(), []
    images = ImageNetFolder(Path(folder))
    with progress(len(images) * len(weights), unit=" images") as bar:

        def after_batch(name: str, score: Score) -> None:
            bar.set_description(name, refresh=False)
            bar.set_postfix(top1=f"{score.top1:.2%}", refresh=False)
            bar.update(len(images) * list(weights).index(name) + score.images - bar.n)

        report = table1(images, weights, after_batch)
    return report, ["--data", "imagenet:DIR", "--weights", *(f"{name}=FILE" for name in weights)]  # no local paths


def _table2(options: argparse.Namespace) -> tuple[Report, list[str]]:
    from ..reproduce import table2

    return table2(), []


def _table3(options: argparse.Namespace) -> tuple[Report, list[str]]:
    from ..reproduce import table3

    with progress(options.steps, desc="training both in turn, compiling first", unit=" rounds") as bar:
        report = table3(options.steps, options.batch_size, bar.update)
    return report, ["--steps", str(options.steps), "--batch-size", str(options.batch_size)]
