"""Training: recipes, the loop, checkpoints and evaluation."""

from __future__ import annotations

from .checkpoint import Progress, read_checkpoint, write_checkpoint
from .evaluate import evaluate
from .recipe import RECIPES, Recipe
from .trainer import Interrupted, Trainer

__all__ = [
    "RECIPES",
    "Interrupted",
    "Progress",
    "Recipe",
    "Trainer",
    "evaluate",
    "read_checkpoint",
    "write_checkpoint",
]
