"""A finished training run as a result file and a figure for the docs.

minixception train --recipe cifar10 --out runs/cifar10
python -m minixception.bench.records.training_run runs/cifar10 docs/results/cifar10.json
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ... import viz
from ...training import read_checkpoint
from ...training.trainer import CHECKPOINT
from ..results import write_result


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the recipe and the record of every epoch as JSON, and the curves as SVG beside it."""
    parser = argparse.ArgumentParser(description="Write a training run's result file and curves.")
    parser.add_argument("run", type=Path, help="the folder that train wrote")
    parser.add_argument("out", type=Path, help="result file, ending in .json")
    options = parser.parse_args(arguments)
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


if __name__ == "__main__":
    raise SystemExit(main())
