"""Exercises of notebook 09, training it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ...engine.op import Case, RandomDraw
from ..checks import Choice, Function, Mistake, Number, WrongNumber

_Result = tuple[np.ndarray, np.ndarray]


def _step(
    w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, momentum: float, weight_decay: float
) -> tuple[np.ndarray, np.ndarray]:
    v = momentum * v + (g + weight_decay * w)
    return w - lr * v, v


def _rate_in_velocity(
    w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, momentum: float, weight_decay: float
) -> _Result:
    v = momentum * v - lr * (g + weight_decay * w)
    return w + v, v


def _old_velocity(
    w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, momentum: float, weight_decay: float
) -> _Result:
    return w - lr * v, _step(w, v, g, lr, momentum, weight_decay)[1]


def _no_decay(w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, momentum: float, weight_decay: float) -> _Result:
    return _step(w, v, g, lr, momentum, 0.0)


def _uphill(w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, momentum: float, weight_decay: float) -> _Result:
    return _step(w, v, g, -lr, momentum, weight_decay)


def _averaged(w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float, momentum: float, weight_decay: float) -> _Result:
    v = momentum * v + (1 - momentum) * (g + weight_decay * w)
    return w - lr * v, v


def _weights(draw: RandomDraw) -> Case:
    shape = draw.integer(2, 5), draw.integer(2, 5)
    settings = {
        "lr": draw.choice((0.045, 0.1, 0.5)),
        "momentum": draw.choice((0.8, 0.9, 0.95)),
        "weight_decay": draw.choice((0.01, 0.1)),
    }
    return Case((draw.normal(*shape), draw.normal(*shape), draw.normal(*shape)), settings)


def _corners(draw: RandomDraw) -> Iterator[Case]:
    """A bias, the kernel of a convolution; no momentum, no decay."""
    for shape, momentum, weight_decay in (((3,), 0.9, 1e-5), ((3, 3, 2, 4), 0.0, 0.1), ((2, 17), 0.9, 0.0)):
        settings = {"lr": 0.01, "momentum": momentum, "weight_decay": weight_decay}
        yield Case((draw.normal(*shape), draw.normal(*shape), draw.normal(*shape)), settings)


_HALF = 2 * math.log(0.5) / math.log(0.94)  # epochs

EXERCISES = (
    Function(
        name="sgd-step",
        notebook=9,
        title="A step of SGD with momentum",
        reference=_step,
        draw=_weights,
        corners=_corners,
        results=("w", "v"),
        mistakes=(
            Mistake(
                _rate_in_velocity,
                "This is Keras' form, in which the learning rate is part of the velocity. Here v is made of gradients.",
            ),
            Mistake(_old_velocity, "This moves with the velocity of the step before. First v, then w."),
            Mistake(_no_decay, "Weight decay is missing: every weight adds its share to its own gradient."),
            Mistake(_uphill, "This climbs. The gradient points to where the loss grows."),
            Mistake(
                _averaged,
                "This is an average of gradients. In the paper's SGD v is a sum, in which the new one counts fully.",
            ),
        ),
    ),
    Number(
        name="half-the-rate",
        notebook=9,
        title="When the paper's learning rate has halved",
        expected=lambda: _HALF,
        within=0.03,
        why="0.94^(e/2) = 1/2 for e = 2 log(1/2) / log 0.94, a little above 22 epochs.",
        mistakes=(
            WrongNumber(_HALF / 2, "It falls by 0.94 every second epoch, not every epoch."),
            WrongNumber(2 * _HALF, "By then it has fallen to a quarter."),
            WrongNumber(0.5 / 0.06 * 2, "This takes away 6 % of the first rate each time. It is 6 % of what is left."),
        ),
    ),
    Choice(
        name="why-averaging-helps",
        notebook=9,
        title="Why averaged weights do better at a constant rate",
        options={
            "A": "The average has seen more pictures than the weights themselves.",
            "B": "Averaging makes all weights smaller, as weight decay does.",
            "C": "At a constant rate the weights move about the bottom of a valley; their mean lies nearer to it.",
            "D": "The average is the mean of the predictions of many networks.",
        },
        right="C",
        why="It does without training what a falling learning rate does, and where the rate falls to 0 little is left.",
        hints={
            "A": "Both have seen the same: the average is made of the weights of the last steps.",
            "B": "If all weights of the last steps were equal, what would their average be?",
            "D": "Only weights are averaged, and one network is run. Its outputs are no mean of other outputs.",
        },
    ),
)
