"""A finished training run: its recipe and every epoch as a result file, and the curves as SVG beside it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ... import viz
from ...training import read_checkpoint
from ...training.run_folder import CHECKPOINT
from ..results import write_result


def add_options(parser: argparse.ArgumentParser) -> None:
    """Where the run is."""
    parser.add_argument("--run", type=Path, required=True, metavar="DIR", help="the folder that train wrote")


def run(options: argparse.Namespace) -> int:
    """Write the recipe and the record of every epoch as JSON, and the curves as SVG beside it."""
    checkpoint = read_checkpoint(options.run / CHECKPOINT)
    recipe = checkpoint.recipe.to_json() | {"data": checkpoint.recipe.data.partition(":")[0]}  # no local folder
    records = checkpoint.progress.records
    figures = {
        "seed": checkpoint.recipe.seed,
        "recipe": recipe,
        "test_top1": records[-1]["test_top1"],
        "minutes": sum(record["seconds"] for record in records) / 60,
        "epochs": records,
    }
    write_result(options.out, "minixception train --recipe cifar10", figures)
    viz.training_curves(records).save(options.out.with_suffix(".svg"))
    print(f"{options.out}: test top-1 {figures['test_top1']:.2%} in {figures['minutes']:.1f} minutes")
    return 0
