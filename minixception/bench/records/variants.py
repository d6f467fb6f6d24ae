"""What the paper's design choices do for training: variants of one recipe, several seeds each.

Variants differ from the baseline in one thing only: the network without its residual connections (figure 9 of Chollet
2017), with ReLU or ELU between depthwise and pointwise convolution (figure 10), the weights without Polyak averaging,
and the paper's decay of the learning rate in place of warm-up and cosine. Runs with the same seed begin with the same
weights and see the same pictures in the same order. The file's ``runs`` are as ``viz.training_bands`` takes them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...data import Dataset, load
from ...errors import ArgumentError
from ...nn import Module, Residual, SeparableConv2d, Sequential
from ...training import RECIPES, Recipe, Trainer
from ..results import write_result
from . import command

SMALL = Recipe(epochs=4, widths=(16, 32), middle_blocks=6, stem=8, lr=0.05, ema_decay=0.98)


@dataclass(frozen=True)
class Variant(Recipe):
    """A recipe whose network may lack its residual connections, or have an activation inside of its separable
    convolutions: between is None, "relu" or "elu".
    """

    residual: bool = True
    between: str | None = None

    def make_model(self, num_classes: int, image_shape: tuple[int, int, int]) -> Module:
        """The network, which begins with the weights of the one that is not varied."""
        model = super().make_model(num_classes, image_shape)
        if not self.residual:
            remove_residuals(model)
        activate_between(model, self.between)
        return model


def remove_residuals(model: Module) -> None:
    """Put the chain of each residual block into its place, in the network itself: the shortcuts are gone.

    >>> from minixception.models import mini_xception
    >>> model = mini_xception(10, widths=(8,), middle_blocks=1, stem=8)
    >>> remove_residuals(model)
    >>> type(model.block2).__name__
    'Sequential'
    """
    for name, block in model.children().items():
        if isinstance(block, Residual):
            setattr(model, name, Sequential(**{layer: getattr(block, layer) for layer in block.chain}))


def activate_between(model: Module, activation: str | None) -> None:
    """Let this activation stand between depthwise and pointwise in each separable convolution, in the network itself.

    >>> from minixception.models import mini_xception
    >>> model = mini_xception(10, widths=(8,), middle_blocks=1, stem=8)
    >>> activate_between(model, "relu")
    >>> model.block2.sepconv1.activation
    'relu'
    """
    for _, module in model.named_modules():
        if isinstance(module, SeparableConv2d):
            module.activation = activation


def variants(recipe: Recipe) -> dict[str, Variant]:
    """The variants of a recipe by what is different in them."""
    base = Variant(**vars(recipe))
    return {
        "baseline": base,
        "no residual connections": replace(base, residual=False),
        "ReLU in between": replace(base, between="relu"),
        "ELU in between": replace(base, between="elu"),
        "no averaging": replace(base, ema_decay=0.0),
        "the paper's decay": replace(base, schedule="exponential", decay_rate=0.94, decay_epochs=2.0),
    }


def train(recipe: Recipe, seed: int, pictures: Dataset, test: Dataset) -> list[dict[str, Any]]:
    """The log of one run, a record for each epoch; what else it writes is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return Trainer(replace(recipe, seed=seed), pictures, test, Path(folder)).run()


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is trained, how often and how long."""
    parser.add_argument("--data", default="shapes", metavar="SPEC", help="shapes, cifar10, cifar10:FOLDER, folder:PATH")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant; default: %(default)s")
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")


def run(options: argparse.Namespace) -> int:
    """Train all variants with all seeds, seed by seed, and write their logs."""
    for name, count in (("seeds", options.seeds), ("epochs", options.epochs)):
        if count is not None and count < 1:
            raise ArgumentError(f"--{name} must be at least 1, got {count}")
    kind = options.data.partition(":")[0]
    recipe = replace(SMALL if kind == "shapes" else RECIPES["cifar10"], data=kind)  # no local folder in the result
    if options.epochs is not None:
        recipe = replace(recipe, epochs=options.epochs)
    pictures, test = load(options.data, "train"), load(options.data, "test")
    chosen = variants(recipe)
    runs: dict[str, list[list[dict[str, Any]]]] = {label: [] for label in chosen}
    start = time.perf_counter()
    for seed in range(options.seeds):
        for label, variant in chosen.items():
            runs[label].append(train(variant, seed, pictures, test))
            last = runs[label][-1][-1]
            print(f"{label}, seed {seed}: test top-1 {last['test_top1']:.1%}", flush=True)
    written_by = command("variants", options.out, data=kind, seeds=options.seeds, epochs=recipe.epochs)
    figures = {
        "seeds": list(range(options.seeds)),
        "recipes": {label: variant.to_json() for label, variant in chosen.items()},
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "runs": runs,
    }
    write_result(options.out, written_by, figures)
    return 0
