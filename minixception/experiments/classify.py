"""Pictures of one class each: training with the package's trainer, from a run folder's checkpoint if there is one."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ..data import Dataset, load
from ..training import Trainer
from ..training.run_folder import CHECKPOINT
from .designs import Design

CLASSES = 10


def train(design: Design, data: str, folder: Path) -> list[dict[str, Any]]:
    """The records of one run, an epoch each; data: as for ``data.load``."""
    return Trainer(design, *_pictures(data), folder, resume=(folder / CHECKPOINT).exists()).run()


@cache
def _pictures(data: str) -> tuple[Dataset, Dataset]:
    return load(data, "train"), load(data, "test")
