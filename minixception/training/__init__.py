"""Training: recipes, the loop, checkpoints and evaluation."""

from __future__ import annotations

from .checkpoint import Progress, read_checkpoint, write_checkpoint
from .evaluate import evaluate
from .imagenet import crop_for, evaluate_imagenet, imagenet_model
from .recipe import RECIPES, Recipe
from .trained import load
from .trainer import Interrupted, Trainer

__all__ = [
    "RECIPES",
    "Interrupted",
    "Progress",
    "Recipe",
    "Trainer",
    "crop_for",
    "evaluate",
    "evaluate_imagenet",
    "imagenet_model",
    "load",
    "read_checkpoint",
    "write_checkpoint",
]
