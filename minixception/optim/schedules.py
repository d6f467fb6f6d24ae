"""Learning rates as pure functions of how far the training is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from ..errors import ArgumentError


class Schedule(Protocol):
    """A learning rate as a pure function of how far the training is."""

    def __call__(self, epoch: float, samples: int) -> float:
        """The learning rate after ``epoch`` epochs (1.5: half-way in the second) or ``samples`` samples."""


@dataclass(frozen=True)
class ExponentialDecay:
    """lr * rate ** (progress / every), counted in epochs or in samples; exactly one of the two is given.

    Smooth by default; with ``staircase`` the exponent is rounded down. The paper (section 4.2) names the
    rates and not which of the two forms it used.

    >>> decay = ExponentialDecay(0.045, 0.94, every_epochs=2)
    >>> round(decay(epoch=2, samples=0), 6), round(decay(epoch=3, samples=0), 6)
    (0.0423, 0.041011)
    >>> round(ExponentialDecay(0.001, 0.9, every_samples=3_000_000)(epoch=0, samples=6_000_000), 6)
    0.00081
    """

    lr: float
    rate: float
    every_epochs: float | None = None
    every_samples: float | None = None
    staircase: bool = False

    def __post_init__(self) -> None:
        if (self.every_epochs is None) == (self.every_samples is None):
            raise ArgumentError("expected exactly one of every_epochs and every_samples")
        if not (self.lr >= 0 and 0 < self.rate <= 1 and (self.every_epochs or self.every_samples or 0) > 0):
            raise ArgumentError(f"expected lr >= 0, a rate in 0 .. 1 and a period above 0, got {self}")

    def __call__(self, epoch: float, samples: int) -> float:
        exponent = epoch / self.every_epochs if self.every_epochs else samples / (self.every_samples or 1)
        return self.lr * self.rate ** (math.floor(exponent) if self.staircase else exponent)


@dataclass(frozen=True)
class Cosine:
    """A linear warm-up from ``final_lr`` to ``lr``, then half a cosine down to ``final_lr``.

    Source: Loshchilov and Hutter, SGDR (2017), without restarts.

    Args:
        lr: the highest learning rate, reached after the warm-up.
        epochs: the length of the training; later epochs keep ``final_lr``.
        warmup_epochs: the length of the warm-up, less than ``epochs``.
        final_lr: the lowest learning rate.

    >>> cosine = Cosine(0.1, epochs=10, warmup_epochs=2)
    >>> [round(cosine(epoch, 0), 6) for epoch in (0, 1, 2, 6, 10, 11)]
    [0.0, 0.05, 0.1, 0.05, 0.0, 0.0]
    """

    lr: float
    epochs: float
    warmup_epochs: float = 0
    final_lr: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.final_lr <= self.lr and 0 <= self.warmup_epochs < self.epochs):
            raise ArgumentError(f"expected 0 <= final_lr <= lr and 0 <= warmup_epochs < epochs, got {self}")

    def __call__(self, epoch: float, samples: int) -> float:
        if epoch < self.warmup_epochs:
            share = epoch / self.warmup_epochs
        else:
            progress = min(1.0, (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs))
            share = (1 + math.cos(math.pi * progress)) / 2
        return self.final_lr + (self.lr - self.final_lr) * share
