"""Edited checkpoints and scores of stopped evaluations: what reads them goes on, or says with a typed error why not.

    python -m tests.by_hand.fuzz_runs --files 500

changes a checkpoint, or the score of an unfinished evaluation, in one of the ways below, and does with it what ``train
--resume``, ``evaluate`` and ``evaluate --model --resume`` do. Any exception but those of ``minixception.errors``, and
any OSError that names no file, is a failure. File number i is made from the seed and i alone: ``--only i`` makes it
again.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np

from minixception import errors
from minixception.data import shapes
from minixception.data.imagenet_folder import Crop
from minixception.engine import random as package_random
from minixception.models import mini_xception
from minixception.optim import EMA
from minixception.training import Interrupted, Progress, Recipe, Trainer, read_checkpoint
from minixception.training.imagenet import SavedScore, Score
from minixception.training.run_folder import CHECKPOINT
from minixception.weights import read_tensors, write_tensors
from tests.by_hand.fuzz_changes import ANY, SAFETENSORS, edit_json, edit_text

SEED = 161002357
TYPED = tuple(error for error in vars(errors).values() if isinstance(error, type))
DATA = shapes("train", size=24, image_size=16), shapes("test", size=8, image_size=16)
BASE = Recipe(epochs=2, batch_size=8, seed=7, widths=(8,), middle_blocks=1, stem=4)
RECIPES = (BASE, replace(BASE, optimizer="adam"), replace(BASE, optimizer="rmsprop", schedule="exponential"))

MEASURES = ("lr", "train_loss", "train_top1", "test_loss", "test_top1", "seconds")
RECORD = {"epoch": 1} | dict.fromkeys(MEASURES, 0.25)


# The files ------------------------------------------------------------------------------------------------------------


class Folder:
    """A thousand images, as a score sees them."""

    def __len__(self):
        return 1000

    def fingerprint(self):
        return "of the images"


def saved_score(path, resume):
    """What ``evaluate --model`` has between two batches."""
    package_random.seed(0)  # the same weights again
    return SavedScore(path, mini_xception(8, (8,), 0, 4), Folder(), Crop(16), resume)


def base_files(folder):
    """Checkpoints in the middle of the second epoch, one for each optimiser, and a score: the bytes of each by name."""
    files = {}
    for recipe in RECIPES:
        run = Trainer(recipe, *DATA, Path(folder) / recipe.optimizer)
        run.progress = Progress(epoch=1, step=1, seconds=0.5, records=[RECORD])
        run.loss.update(2.0, 8)
        run.top1.update(0.5, 8)
        run.save()
        files[recipe.optimizer] = run.path.read_bytes()
    path = Path(folder) / "score.json"
    score = saved_score(path, resume=False)
    score.score = Score(96, 60, 80, 12.5)
    score.write()
    files["score"] = path.read_bytes()
    return files


def make(bases, number, folder):
    """(name of the base, name of the change, bytes) of file ``number``."""
    rng = random.Random(SEED * 1_000_003 + number)
    name = rng.choice(sorted(bases))
    data = bases[name]
    if name == "score":
        change = rng.choice((*10 * (edit_json,), edit_text, *ANY))
        return name, change.__name__, change(data, rng)
    change = rng.choice((*20 * (edit_json,), *4 * (edit_arrays,), edit_text, *ANY, *SAFETENSORS))
    if change in (edit_json, edit_text):
        return name, change.__name__, _described_otherwise(data, rng, change, folder)
    return name, change.__name__, change(data, rng) if change is not edit_arrays else edit_arrays(data, rng, folder)


def _described_otherwise(data, rng, change, folder):
    """The same arrays with another description of the run, or other metadata."""
    arrays, metadata = _parts(data, folder)
    text = change(metadata["run"].encode(), rng).decode("utf-8", "replace")
    metadata = rng.choice(6 * ({"run": text},) + ({"run": text, "format": "x"}, {"format": metadata["format"]}))
    return _whole(arrays, {"format": _parts(data, folder)[1]["format"]} | metadata, folder)


def edit_arrays(data, rng, folder):
    """One array gets other values, another shape or dtype, another name, or goes."""
    arrays, metadata = _parts(data, folder)
    counts = [name for name in arrays if arrays[name].ndim == 0]
    name = rng.choice(counts if rng.random() < 0.5 else sorted(arrays))
    array = arrays.pop(name)
    changes = (
        lambda: {name: np.full_like(array, rng.choice((-1, -10, -(2**63), 2**63 - 1) if array.ndim == 0 else (-1, 9)))},
        lambda: {name: np.zeros((*array.shape, 2), array.dtype)},
        lambda: {name: array.astype(rng.choice(("f2", "f8", "i4", "u1", "?")))},
        lambda: {rng.choice(("x", "", "/", "model/", "other/" + name)): array},
        lambda: {},
    )
    return _whole(arrays | rng.choice(changes)(), metadata, folder)


def _parts(data, folder):
    path = Path(folder) / "before.safetensors"
    path.write_bytes(data)
    return read_tensors(path)


def _whole(arrays, metadata, folder):
    path = Path(folder) / "after.safetensors"
    write_tensors(path, arrays, metadata)
    return path.read_bytes()


# What reads them ------------------------------------------------------------------------------------------------------


def go_on(path, name):
    """All that is ever done with the file; Ctrl-C comes after the first step."""
    if name == "score":
        with saved_score(path, resume=True) as saved:
            score = saved.score
            list(range(score.images, 1000, 100))  # as the batches are taken
            json.dumps(replace(score, images=score.images + 8).to_json(), allow_nan=False)
            return
    checkpoint = read_checkpoint(path)
    model = checkpoint.recipe.make_model(len(checkpoint.class_names), checkpoint.image_shape)
    model.load_state_dict(checkpoint.parts["model"])
    EMA([t for _, t in model.named_tensors()], checkpoint.recipe.ema_decay).load_state_dict(checkpoint.parts["ema"])
    for recipe in (checkpoint.recipe, next(r for r in RECIPES if r.optimizer == name)):
        run = Trainer(recipe, *DATA, path.parent, resume=True)
        run._stop = True
        try:
            records = run.run()
            assert f"{records[-1]['test_top1']:.2%}"
        except Interrupted:
            read_checkpoint(path)


def check(path, name):
    """ "went on" or "refused"; any other exception is a failure."""
    try:
        go_on(path, name)
    except TYPED as error:
        assert str(error), "an error that says nothing"
        return "refused"
    except OSError as error:
        assert error.filename, f"{error!r} names no file"
        return "refused"
    return "went on"


def fuzz(files, first=0):
    """Run them all; returns ({(base, change, outcome): count}, failures)."""
    outcomes, failures = Counter(), []
    quiet = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(quiet), redirect_stderr(quiet):
        bases = base_files(folder)
        for number in range(first, first + files):
            name, change, data = make(bases, number, folder)
            path = Path(folder) / name / CHECKPOINT if name != "score" else Path(folder) / "score.json"
            path.write_bytes(data)
            try:
                with np.errstate(over="ignore", invalid="ignore"):  # weights that have become huge
                    outcome = check(path, name)
            except Exception as error:
                outcome = "FAILED"
                failures.append((number, f"{name}, {change}: {type(error).__name__}: {error}"[:300]))
            outcomes[name, change, outcome] += 1
    return outcomes, failures


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--only", type=int, help="make and read this one file")
    options = parser.parse_args()
    first, files = (0, options.files) if options.only is None else (options.only, 1)
    outcomes, failures = fuzz(files, first)
    kinds = ("went on", "refused", "FAILED")
    print(f"{'':28}" + "".join(f"{kind:>9}" for kind in kinds))
    for what in sorted({(name, change) for name, change, _ in outcomes}):
        print(f"{', '.join(what):28}" + "".join(f"{outcomes[*what, kind]:>9}" for kind in kinds))
    for number, what in failures:
        print(f"file {number}: {what}")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
