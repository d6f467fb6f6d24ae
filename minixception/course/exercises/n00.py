"""Exercises of notebook 00, a network in a minute."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ...engine.op import Case, RandomDraw
from ...ops import OPERATORS
from ..checks import Choice, Function, Mistake, Number, WrongNumber

_CLASSES = 8


def _softmax(logits: np.ndarray) -> np.ndarray:
    return OPERATORS["softmax"].rungs["numpy"].forward(logits)[0]


def _softmax_case(draw: RandomDraw) -> Case:
    return Case((2 * draw.normal(draw.integer(2, 6), draw.integer(2, 9)),))


def _corners(draw: RandomDraw) -> Iterator[Case]:
    for logits in (draw.normal(1, 5), draw.normal(3, 1), 100 * draw.normal(4, 6), 1000 * draw.normal(2, 17)):
        yield Case((logits.astype(draw.dtype),))


def _without_maximum(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


EXERCISES = (
    Function(
        name="softmax",
        notebook=0,
        title="Make probabilities of logits",
        reference=_softmax,
        draw=_softmax_case,
        corners=_corners,
        results=("probabilities",),
        mistakes=(
            Mistake(
                lambda z: _softmax(z.T).T,
                "Each picture's probabilities must add up to 1. Along which axis do the classes lie?",
            ),
            Mistake(
                lambda z: _softmax(z.reshape(-1)).reshape(z.shape),
                "This adds up over the whole batch: one picture's probabilities must not depend on the other pictures.",
            ),
            Mistake(
                lambda z: z / z.sum(axis=-1, keepdims=True),
                "Logits may be negative, and then these are no probabilities. What makes any number positive?",
            ),
            Mistake(
                _without_maximum,
                "exp of a large logit is infinite, and infinite over infinite is nan. Subtract each picture's largest "
                "logit first: it does not change the probabilities.",
            ),
            Mistake(np.exp, "All are positive now, but a picture's values do not add up to 1 yet."),
        ),
    ),
    Number(
        name="untrained-loss",
        notebook=0,
        title="The loss of a network that knows nothing",
        expected=lambda: math.log(_CLASSES),
        within=0.01,
        why="Whichever class is right, it has probability 1/8, and minus the logarithm of 1/8 is log 8.",
        mistakes=(
            WrongNumber(
                1 - 1 / _CLASSES,
                "That is the share of wrong guesses. The loss asks for the probability of the right class.",
            ),
            WrongNumber(1 / _CLASSES, "That is the probability of the right class. The loss is minus its logarithm."),
            WrongNumber(
                math.log2(_CLASSES),
                "That is the logarithm to base 2, the loss in bits. Here logarithms are natural ones.",
            ),
            WrongNumber(
                -math.log(_CLASSES), "A logarithm of a probability is negative; the loss has a minus before it."
            ),
            WrongNumber(0, "A loss of 0 would mean that the right class has probability 1."),
        ),
    ),
    Choice(
        name="step-too-far",
        notebook=0,
        title="Why a large step does not keep the gradient's promise",
        options={
            "A": "The gradient is an estimate from 64 pictures.",
            "B": "The gradient is computed in float32.",
            "C": "The gradient is the slope at the starting point only.",
            "D": "The loss cannot fall below 0.",
        },
        right="C",
        why="The promise is a tangent: right at the starting point, and worse the further one goes along a curve.",
        hints={
            "A": "The loss was measured again on the same 64 pictures. How could the other pictures matter?",
            "B": "Rounding errors would disturb small steps as well, and there the curves agree to a few percent.",
            "D": "A floor could slow the fall down. Could it make the loss rise, as it does at the right end?",
        },
    ),
)
