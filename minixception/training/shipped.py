"""``python -m minixception.training.shipped RUN``: make a run the small trained network that comes with the package.

It is a checkpoint like any other, with the recipe and the record of every epoch, but its weights are the averaged ones,
in 16 bits, and the optimiser's state is not in it: there is no going on with it. The weights are our own work. Of
CIFAR-10's pictures (Krizhevsky 2009), which were collected from the web and come without a licence, it holds none.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from .checkpoint import read_checkpoint, write_checkpoint
from .trained import SHIPPED, checkpoint_path, trained_model


def ship(run: Path, path: Path) -> None:
    """Write the averaged weights of a run as float16, with its recipe and its records, but not where its data lay.

    Raises CheckpointError if there is no whole run.
    """
    checkpoint = read_checkpoint(checkpoint_path(run))
    recipe = replace(checkpoint.recipe, data=checkpoint.recipe.data.partition(":")[0])
    weights = trained_model(checkpoint).state_dict()
    halves = {name: array.astype(np.float16) for name, array in weights.items()}
    write_checkpoint(path, replace(checkpoint, recipe=recipe, parts={"model": halves}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the file into the package, under the name of the data that the run was trained on."""
    parser = argparse.ArgumentParser(prog="python -m minixception.training.shipped", description=__doc__)
    parser.add_argument("run", type=Path, help="a folder that train wrote")
    run = parser.parse_args(arguments).run
    ship(run, SHIPPED[read_checkpoint(checkpoint_path(run)).recipe.data.partition(":")[0]])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
