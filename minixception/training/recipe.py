"""Recipes: everything that decides the outcome of a run, as plain data that a checkpoint can carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import ArgumentError
from ..models import mini_xception
from ..nn import Module
from ..optim import SGD, Adam, Cosine, ExponentialDecay, Optimizer, RMSprop
from ..optim.common import MOST
from .plain_data import is_count, is_number

_KINDS: dict[type, tuple[str, Callable[[Any], bool]]] = {
    str: ("a text", lambda value: isinstance(value, str)),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    int: ("an integer", lambda value: is_count(value, -MOST)),
    float: ("a finite number", is_number),
    tuple: (
        "integers of at least 1",
        lambda value: isinstance(value, tuple | list) and len(value) > 0 and all(is_count(v, 1) for v in value),
    ),
}


@dataclass(frozen=True)
class Recipe:
    """How to train a mini_xception. Two runs of one recipe on one data set are equal bit for bit.

    data: a text for ``data.load``. widths, middle_blocks, stem, dropout: the network. optimizer: "sgd", "rmsprop" or
    "adam", with lr, momentum (of the first two) and weight_decay (L2, kernels only). schedule: "cosine" with
    warmup_epochs, or "exponential" with decay_rate every decay_epochs, the paper's. clip_norm: largest norm of the
    gradient, 0 for none. ema_decay: of the averaged weights used for evaluation, 0 for none. shards: parts of a batch
    that are normalised apart, as many processes may share the work; see shards.py.
    """

    data: str = "shapes"
    epochs: int = 8
    batch_size: int = 64
    seed: int = 0
    widths: tuple[int, ...] = (64, 128, 256)
    middle_blocks: int = 4
    stem: int = 32
    dropout: float = 0.0
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    decay_rate: float = 0.94
    decay_epochs: float = 2.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.999
    augment: bool = True
    shards: int = 1

    def __post_init__(self) -> None:
        for field in fields(Recipe):  # a subclass checks its own
            value = getattr(self, field.name)
            kind, fits = _KINDS[type(field.default)]
            if not fits(value):
                raise ArgumentError(f"{field.name} must be {kind}, got {value!r:.80}")
        for name, low in (
            ("epochs", 1),
            ("batch_size", 1),
            ("seed", 0),
            ("stem", 1),
            ("middle_blocks", 0),
            ("shards", 1),
        ):
            if getattr(self, name) < low:
                raise ArgumentError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.batch_size % self.shards:
            raise ArgumentError(
                f"a batch of {self.batch_size} images cannot be divided into {self.shards} equal shards"
            )
        if self.optimizer not in ("sgd", "rmsprop", "adam"):
            raise ArgumentError(f"optimizer must be sgd, rmsprop or adam, got {self.optimizer!r}")
        if self.schedule not in ("cosine", "exponential"):
            raise ArgumentError(f"schedule must be cosine or exponential, got {self.schedule!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain data, as ``from_json`` takes it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Recipe:
        """The recipe of ``to_json``.

        >>> Recipe.from_json(Recipe(epochs=3).to_json()) == Recipe(epochs=3)
        True
        """
        whole: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in dict(values).items()}
        return cls(**whole)

    def make_model(self, num_classes: int, image_shape: tuple[int, int, int]) -> Module:
        """The network with fresh weights from the package's generator."""
        return mini_xception(num_classes, self.widths, self.middle_blocks, self.stem, image_shape, self.dropout)

    def make_optimizer(self, model: Module) -> Optimizer:
        """The optimiser over all of the model's parameters."""
        parameters = model.parameters()
        if self.optimizer == "sgd":
            return SGD(parameters, self.lr, self.momentum, self.weight_decay)
        if self.optimizer == "rmsprop":
            return RMSprop(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        return Adam(parameters, self.lr, weight_decay=self.weight_decay)

    def make_schedule(self) -> Cosine | ExponentialDecay:
        """The learning rate over (epoch, samples)."""
        if self.schedule == "cosine":
            return Cosine(self.lr, self.epochs, min(self.warmup_epochs, self.epochs / 4))
        return ExponentialDecay(self.lr, self.decay_rate, every_epochs=self.decay_epochs)


RECIPES: dict[str, Recipe] = {
    "demo": Recipe(data="shapes", epochs=4, widths=(32, 64), middle_blocks=1, stem=16, lr=0.05, ema_decay=0.98),
    "cifar10": Recipe(data="cifar10", epochs=8, label_smoothing=0.1, weight_decay=5e-4),
    # The network that comes with the package: half as many parameters, and twice the time for them.
    "cifar10-small": Recipe(
        data="cifar10", epochs=16, widths=(48, 96, 192), stem=24, label_smoothing=0.1, weight_decay=5e-4
    ),
    # A few hundred: small steps, and so many of them that batchnorm's statistics and the averages have time to follow.
    "photos": Recipe(
        data="folder:photos",
        epochs=40,
        batch_size=16,
        lr=0.02,
        label_smoothing=0.1,
        weight_decay=5e-4,
        ema_decay=0.98,
    ),
}
