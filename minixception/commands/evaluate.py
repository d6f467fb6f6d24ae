"""minixception evaluate: loss and accuracy over a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import DataError
from ..tables import Table
from .common import Add, add_json, show


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("evaluate", run, "loss and accuracy of a trained run")
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder that train wrote, or its checkpoint")
    parser.add_argument("--data", metavar="SPEC", help="default: what the run was trained on")
    parser.add_argument("--split", choices=("train", "test"), default="test", help="default: %(default)s")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Print the measures of a run."""
    from ..data import load
    from ..optim import EMA
    from ..training import evaluate, read_checkpoint
    from ..training.trainer import CHECKPOINT

    path = options.run / CHECKPOINT if options.run.is_dir() else options.run
    checkpoint = read_checkpoint(path)
    recipe = checkpoint.recipe
    dataset = load(options.data or recipe.data, options.split, seed=recipe.seed)
    if dataset.class_names != checkpoint.class_names:
        expected, got = ", ".join(checkpoint.class_names), ", ".join(dataset.class_names)
        raise DataError(f"{path} was trained on the classes {expected}; the data has {got}")
    model = recipe.make_model(len(checkpoint.class_names), checkpoint.image_shape)
    model.load_state_dict(checkpoint.parts["model"])
    ema = EMA([t for _, t in model.named_tensors()], recipe.ema_decay)
    ema.load_state_dict(checkpoint.parts["ema"])
    with ema.averaged():
        result = evaluate(model, dataset, recipe.batch_size)
    rows = [(name, f"{value:.4f}") for name, value in result.items()]
    show(options, {"images": len(dataset), **result}, Table(("measure", f"{len(dataset):,} images"), rows))
    return 0
