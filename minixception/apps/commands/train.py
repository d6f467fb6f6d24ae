"""minixception train: training by a recipe, with checkpoints."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from ...data import load
from ...training import RECIPES, Interrupted, Trainer, read_checkpoint
from ...training.run_folder import CHECKPOINT
from .common import Add, add_device, chosen_device, device_words


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("train", run, "train a small Xception by a recipe; stop with Ctrl-C, go on with --resume")
    parser.add_argument("--recipe", choices=RECIPES, help="default: cifar10, or with --resume the run's own")
    parser.add_argument("--data", metavar="SPEC", help="shapes, cifar10, cifar10:FOLDER or folder:PATH")
    parser.add_argument("--out", type=Path, metavar="DIR", help="checkpoint and log; default: runs/RECIPE")
    parser.add_argument("--epochs", type=int, metavar="N", help="in all; more of them, with --resume, extend a run")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in --out, with the same data, on any device"
    )
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Train, and say where the log is."""
    device = chosen_device(options)
    name = options.recipe or "cifar10"
    folder = options.out or Path("runs") / name
    saved = read_checkpoint(folder / CHECKPOINT).recipe if options.resume else RECIPES[name]
    recipe = replace(RECIPES[name], epochs=saved.epochs) if options.recipe else saved
    changes = {
        name: value
        for name in ("data", "epochs", "batch_size", "lr", "seed")
        if (value := getattr(options, name)) is not None
    }
    recipe = replace(recipe, **changes)
    train, test = load(recipe.data, "train", seed=recipe.seed), load(recipe.data, "test", seed=recipe.seed)
    trainer = Trainer(recipe, train, test, folder, resume=options.resume, device=device)
    parameters = trainer.model.num_parameters(trainable=True)
    print(f"{len(train):,} training and {len(test):,} test images, {parameters:,} parameters, run in {folder}")
    if options.resume and saved.epochs != recipe.epochs:
        print(
            f"{recipe.epochs} epochs instead of {saved.epochs}: the learning rate follows the schedule of "
            f"{recipe.epochs} from epoch {trainer.progress.epoch + 1} on, where it is "
            f"{trainer.learning_rate(trainer.progress.step):.4g}"
        )
    try:
        records = trainer.run()
    except Interrupted:
        done = trainer.progress
        print(
            f"stopped in epoch {done.epoch + 1} after step {done.step} of {trainer.steps}; "
            f"go on with: {' '.join(['minixception train --out', str(folder), '--resume', *device_words(options)])}",
            file=sys.stderr,
        )
        return 130
    print(f"test top-1 {records[-1]['test_top1']:.2%} after {len(records)} epochs; log: {folder / 'log.jsonl'}")
    print(f"use it: {shlex.join(['minixception', 'predict', str(folder), 'PHOTO'])}")
    return 0
