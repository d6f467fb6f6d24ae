"""Pictures with several labels each, as of Google's JFT: a logistic regression for each label, and MAP.

The paper's way (sections 4.1 and 4.2): sigmoids and no softmax, RMSprop, a learning rate that decays step by step,
Polyak averages for evaluation, and the mean average precision of the ranked labels.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..compiler import compile as compiled
from ..data import preprocess
from ..engine import random
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..errors import ArgumentError
from ..nn import Module
from ..ops import binary_cross_entropy_with_logits
from ..optim import EMA
from ..training.metrics import Mean, mean_average_precision
from .designs import Design
from .mosaics import Mosaics, mosaics

LABELS = 24
_AT_ONCE = 250  # pictures in an evaluation


def train(design: Design, data: str, folder: Path) -> list[dict[str, Any]]:
    """The records of one run, an epoch each. A run takes a minute or two, and is begun anew if it was stopped.

    Raises ArgumentError for other data than "mosaics".
    """
    pictures, test = _pictures(data)
    random.seed(design.seed)
    model = design.make_model(len(pictures.names), pictures.images.shape[1:])
    optimizer, schedule = design.make_optimizer(model), design.make_schedule()
    averages = EMA([tensor for _, tensor in model.named_tensors()], design.ema_decay)
    step = compiled(model, binary_cross_entropy_with_logits, optimizer)
    steps, begun, records = len(pictures.images) // design.batch_size, time.monotonic(), []
    for epoch in range(design.epochs):
        order = np.random.default_rng([design.seed, epoch]).permutation(len(pictures.images))
        loss = Mean()
        for number in range(steps):
            chosen = order[number * design.batch_size : (number + 1) * design.batch_size]
            optimizer.lr = schedule(epoch + number / steps, 0)
            x, targets = preprocess(pictures.images[chosen]), pictures.targets[chosen].astype(np.float32)
            loss.update(step(x, targets).item())
            averages.update()
        with averages.averaged():
            precision = _precision(model, test)
        seconds, begun = round(time.monotonic() - begun, 2), time.monotonic()
        records.append({"epoch": epoch + 1, "train_loss": loss.value, "test_map": precision, "seconds": seconds})
    return records


def _precision(model: Module, test: Mosaics) -> float:
    """MAP over all labels, of the model in inference mode."""
    with model.inference(), no_grad():
        parts = np.split(test.images, range(_AT_ONCE, len(test.images), _AT_ONCE))
        scores = np.concatenate([model(Tensor(preprocess(part))).numpy() for part in parts])
    return mean_average_precision(scores, test.targets)


@cache
def _pictures(data: str) -> tuple[Mosaics, Mosaics]:
    if data != "mosaics":
        raise ArgumentError(f"pictures with several labels are drawn: expected the data 'mosaics', got {data!r}")
    return mosaics("train"), mosaics("test")
