"""Exercises of notebook 12, what it is worth."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ...engine.op import Case, RandomDraw
from ..checks import Choice, Function, Mistake, Number, WrongNumber

_WIDTH = math.sqrt((9 * 192 + 192**2) / 9)


def _interval(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    differences = one - other
    return np.array([differences.mean(), differences.std(ddof=1) / np.sqrt(len(differences))])


def _turned(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return _interval(other, one)


def _not_paired(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    error = np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / len(one))
    return np.array([one.mean() - other.mean(), error])


def _spread_of_seeds(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    differences = one - other
    return np.array([differences.mean(), differences.std(ddof=1)])


def _divided_by_n(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    differences = one - other
    return np.array([differences.mean(), differences.std() / np.sqrt(len(differences))])


def _seeds(draw: RandomDraw) -> Case:
    """Seeds that are good or bad for both networks alike; accuracies are float64, whatever the networks were."""
    count = draw.integer(3, 10)
    level, one, other = (draw.normal(count).astype(np.float64) for _ in range(3))
    return Case((0.8 + 0.02 * level + 0.005 * one, 0.79 + 0.02 * level + 0.005 * other), {})


def _corners(draw: RandomDraw) -> Iterator[Case]:
    """Two seeds, the fewest; a difference that is the same for all."""
    yield Case((np.array([0.8, 0.82]), np.array([0.79, 0.8])), {})
    yield Case((np.array([0.75, 0.5, 0.625]), np.array([0.5, 0.25, 0.375])), {})


EXERCISES = (
    Number(
        name="equal-parameters",
        notebook=12,
        title="The regular convolution that costs as much as a separable one",
        expected=lambda: _WIDTH,
        within=0.005,
        why="9 c^2 = 9 * 192 + 192^2: two thirds off the width pay for nine weights at every pair of channels.",
        mistakes=(
            WrongNumber(192 / 9, "Both numbers of channels shrink: parameters fall with the square of the width."),
            WrongNumber(64, "Almost: the depthwise half has parameters, too."),
            WrongNumber((9 * 192 + 192**2) / 9, "That is c^2."),
            WrongNumber(math.sqrt(9 * 192 + 192**2), "A regular one has nine weights for each pair of channels."),
        ),
    ),
    Function(
        name="paired-difference",
        notebook=12,
        title="A difference seed by seed, and how uncertain it is",
        reference=_interval,
        draw=_seeds,
        corners=_corners,
        mistakes=(
            Mistake(_turned, "The sign is turned: a positive difference should say that the first network is ahead."),
            Mistake(
                _not_paired,
                "This compares two groups of seeds. A seed that is good for both networks says nothing about their "
                "difference: subtract first, seed by seed.",
            ),
            Mistake(_spread_of_seeds, "This is how far single differences lie apart. Their mean is less uncertain."),
            Mistake(
                _divided_by_n,
                "The mean was computed from the same numbers, which makes them look too close to it: divide by n - 1.",
            ),
        ),
    ),
    Choice(
        name="not-separated",
        notebook=12,
        title="What an interval around zero says",
        options={
            "A": "The two networks are equally good.",
            "B": "The first network is better, for the mean is above zero.",
            "C": "These seeds leave open which of the two is better, and how much it could be at most.",
            "D": "The experiment was made wrongly.",
        },
        right="C",
        why="An interval bounds the difference. More seeds make it narrower, with the square root of their number.",
        hints={
            "A": "Zero is one of the values in the interval. What are the others?",
            "B": "With other seeds the mean would be another one, and the interval says how far away.",
            "D": "Two networks may be nearly alike. What would an experiment that tells them apart have more of?",
        },
    ),
)
