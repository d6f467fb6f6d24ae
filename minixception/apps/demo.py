"""The main job on an embedded default: train a small Xception on drawn pictures and show what it learned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import viz
from ..data import Dataset, load, preprocess
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..errors import ArgumentError
from ..files import atomic_path
from ..tables import Table
from ..training import RECIPES, Trainer, read_checkpoint
from ..training.run_folder import CHECKPOINT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run(folder: Path, device: str = "cpu") -> None:
    """Train on "cpu" or "cuda", print what was learned, and write two figures to the folder, over an earlier demo's."""
    recipe = RECIPES["demo"]
    train, test = load(recipe.data, "train", seed=recipe.seed), load(recipe.data, "test", seed=recipe.seed)
    if (folder / CHECKPOINT).exists() and read_checkpoint(folder / CHECKPOINT).recipe != recipe:
        raise ArgumentError(f"{folder} holds a run that is not a demo: name another folder with --out")
    (folder / CHECKPOINT).unlink(missing_ok=True)
    trainer = Trainer(recipe, train, test, folder, device=device)
    print(
        f"Training a small Xception ({trainer.model.num_parameters(trainable=True):,} parameters) on {len(train):,} "
        f"drawn {train.images.shape[1]}x{train.images.shape[2]} pictures of {train.num_classes} classes.\n"
        "Telling the classes apart takes shape and colour together, as separable convolutions learn them."
    )
    records = trainer.run()
    with trainer.ema.averaged():
        predicted = _predict(trainer, test)
    _report(test, predicted)
    figures = {
        "curves.svg": viz.training_curves(records),
        "samples.png": _samples(test, predicted),
    }
    for name, figure in figures.items():
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, format=name.rsplit(".", 1)[1])
        print(f"wrote {folder / name}")


def _predict(trainer: Trainer, dataset: Dataset) -> np.ndarray:
    """The most likely class of each image, (n,)."""
    with trainer.model.inference(), no_grad():
        parts = np.array_split(dataset.images, max(1, len(dataset) // 250))
        return np.concatenate(
            [trainer.model(Tensor(preprocess(p)).to(trainer.device)).numpy().argmax(axis=1) for p in parts]
        )


def _samples(dataset: Dataset, predicted: np.ndarray) -> Figure:
    """A sheet of 24 test pictures; up to 6 of them, the first, are mistakes."""
    wrong = np.flatnonzero(predicted != dataset.labels)[:6]
    right = np.flatnonzero(predicted == dataset.labels)[: 24 - len(wrong)]
    shown = np.concatenate([wrong, right])
    names = dataset.class_names
    titles = [(names[predicted[i]], names[dataset.labels[i]]) for i in shown]
    return viz.sample_sheet(dataset.images[shown], titles)


def _report(dataset: Dataset, predicted: np.ndarray) -> None:
    right = predicted == dataset.labels
    rows = [
        (name, int((dataset.labels == label).sum()), f"{right[dataset.labels == label].mean():.1%}")
        for label, name in enumerate(dataset.class_names)
    ]
    print(f"\n{Table(('class', 'test pictures', 'recognised'), rows)}\n")
    print(
        f"It recognises {right.mean():.1%} of {len(dataset):,} pictures it has never seen; guessing would get "
        f"{1 / dataset.num_classes:.1%}."
    )
