"""minixception train: training by a recipe, with checkpoints."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from ...cluster.launch import check_count, start, starts_others
from ...cluster.ranks import ALONE, Ranks
from ...cluster.session import together
from ...data import load
from ...training import RECIPES, Interrupted, Trainer, read_checkpoint
from ...training.run_folder import CHECKPOINT
from .common import Add, add_device, chosen_device, device_words, positive

_SHARDS = 8  # under mpiexec: the same result with 1, 2, 4 or 8 processes


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("train", run, "train a small Xception by a recipe; stop with Ctrl-C, go on with --resume")
    parser.add_argument(
        "--recipe", choices=RECIPES, help="default: photos for folder:PATH, else cifar10; with --resume, the run's own"
    )
    parser.add_argument("--data", metavar="SPEC", help="shapes, cifar10, cifar10:FOLDER or folder:PATH")
    parser.add_argument(
        "--image-size", type=positive, metavar="PIXELS", help="height and width, of folder:PATH or shapes; default: 32"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="checkpoint and log; default: runs/ and the name of the data or recipe"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="in all; more of them, with --resume, extend a run")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--shards",
        type=positive,
        metavar="N",
        help="parts of a batch that are normalised apart, for up to N processes; default: 8 under mpiexec, else 1",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on from the checkpoint in --out, with the same data, on any device"
    )
    parser.add_argument(
        "--eager", action="store_true", help="run the step layer by layer, not compiled: slower, and as it is written"
    )
    parser.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="share the work among N, on this machine: mpiexec -n N does that",
    )
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    """Train, alone or as one of the processes that mpiexec has started, and say where the log is."""
    if starts_others(options.processes):
        return start(options.processes, options.words)
    with together() as ranks:
        check_count(options.processes, ranks)
        return _train(options, ranks)


def _train(options: argparse.Namespace, ranks: Ranks) -> int:
    device = chosen_device(options)
    name = options.recipe or ("photos" if (options.data or "").startswith("folder:") else "cifar10")
    folder = options.out or Path("runs") / (_name(options.data) if options.data else name)
    checkpoint = read_checkpoint(folder / CHECKPOINT) if options.resume else None
    saved = checkpoint.recipe if checkpoint else RECIPES[name]
    recipe = replace(RECIPES[name], epochs=saved.epochs) if options.recipe else saved
    changes = {
        name: value
        for name in ("data", "epochs", "batch_size", "lr", "seed", "shards")
        if (value := getattr(options, name)) is not None
    }
    if ranks is not ALONE and not options.resume:
        changes.setdefault("shards", _SHARDS)
    recipe = replace(recipe, **changes)
    size = options.image_size or (checkpoint.image_shape[0] if checkpoint else 32)
    train, test = (load(recipe.data, split, image_size=size, seed=recipe.seed) for split in ("train", "test"))
    trainer = Trainer(recipe, train, test, folder, options.resume, device, options.eager, ranks)
    parameters = trainer.model.num_parameters(trainable=True)
    print(
        f"{len(train):,} training and {len(test):,} test images of {size}x{size} pixels, {parameters:,} parameters, "
        f"run in {folder}"
    )
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
        start = [] if ranks is ALONE else ["mpiexec", "-n", str(ranks.size)]
        words = [*device_words(options), *["--eager"] * options.eager]
        again = shlex.join([*start, "minixception", "train", "--out", str(folder), "--resume", *words])
        print(
            f"stopped in epoch {done.epoch + 1} after step {done.step} of {trainer.steps}; go on with: {again}",
            file=sys.stderr,
        )
        return 130
    print(f"test top-1 {records[-1]['test_top1']:.2%} after {len(records)} epochs; log: {folder / 'log.jsonl'}")
    print(f"use it: {shlex.join(['minixception', 'predict', str(folder), 'PHOTO'])}")
    return 0


def _name(data: str) -> str:
    """What a run on this data is called: the folder of photos, or the kind of data."""
    kind, _, place = data.partition(":")
    return (Path(place).resolve().name if kind == "folder" else "") or kind
