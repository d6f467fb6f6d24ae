"""One training step of ours, as all measurements take it, on random images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from ..engine.tensor import Tensor
from ..gpu.device import to_cpu
from ..nn import Module
from ..ops import cross_entropy
from ..optim import SGD, Optimizer
from ..training.batch import Gradients
from .peers import Step


def random_batch(model: Module, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (size, h, w, c) of the model's own shape with values from -1 to 1, and labels from 0 to 9; seed 0."""
    assert model.input_shape is not None
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (size, *model.input_shape)).astype(np.float32), rng.integers(0, 10, size)


def training_step(
    model: Module, x: Tensor, labels: np.ndarray, optimizer: Optimizer, update: bool = True
) -> Callable[[], Tensor]:
    """A function that takes one step on always the same batch and returns the loss; update: also change the weights."""

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(x), labels)
        loss.backward()
        if update:
            optimizer.step()
        return loss

    return step


def _trainers_step(model: Module, x: Tensor, labels: np.ndarray, optimizer: Optimizer) -> Callable[[], Any]:
    gradients = Gradients(model, int(labels.max()) + 1, label_smoothing=0.0)

    def step() -> None:
        gradients(x, labels)
        optimizer.step()

    return step


def our_training(
    model: Module, x: np.ndarray, labels: np.ndarray, threads: int, lr: float, device: str = "cpu", eager: bool = False
) -> Step:
    """A step of SGD with momentum, and the gradients that it left: what ``peers.TRAINING`` does, by ourselves.

    As the Trainer does it: compiled on the CPU, recorded and replayed on a GPU; or, eager, layer by layer.
    """
    numba.set_num_threads(threads)
    model.train().to(device)
    sgd = SGD(model.parameters(), lr=lr, momentum=0.9)
    images = Tensor(x).to(device)
    make = training_step if eager else _trainers_step
    step = make(model, images, labels, sgd)
    return step, lambda: [to_cpu(p.grad) for p in model.parameters() if p.grad is not None]
