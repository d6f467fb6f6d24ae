"""Exercises of notebook 06, batch normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from ...engine.op import Case, RandomDraw, Shape
from ...ops.batchnorm.definition import backward_numpy, forward_numpy
from ..checks import Choice, Function, Mistake, Number, WrongNumber

_MOMENTUM = 0.99
Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]


# The backward pass --------------------------------------------------------------------------------------------


def _forward(x: np.ndarray, gamma: np.ndarray, eps: float) -> np.ndarray:
    zero, one = np.zeros_like(gamma), np.ones_like(gamma)
    return forward_numpy(x, gamma, zero, zero, one, training=True, eps=eps)[0]


def _backward(dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float, training: bool = True) -> Gradients:
    zero, one = np.zeros_like(gamma), np.ones_like(gamma)
    *saved, _ = forward_numpy(x, gamma, zero, zero, one, training=True, eps=eps)[1]
    dx, dgamma, dbeta, _, _ = backward_numpy(dy, (*saved, training))
    return dx, dgamma, dbeta


def _case(draw: RandomDraw) -> Case:
    n, h, w, c = (draw.integer(2, 5) for _ in range(4))
    scale = draw.dtype.type(1.5)
    arrays = (draw.normal(n, h, w, c), scale * draw.normal(n, h, w, c) + scale, draw.normal(c))
    return Case(arrays, {"eps": 1e-3})


def _corners(draw: RandomDraw) -> Iterator[Case]:
    for n, h, w, c, eps in ((1, 4, 5, 1, 1e-3), (3, 1, 2, 17, 1e-5), (2, 5, 1, 3, 0.1)):
        yield Case((draw.normal(n, h, w, c), draw.normal(n, h, w, c), draw.normal(c)), {"eps": eps})


def _pixels(shape: Shape) -> int:
    """How many values a channel has in a batch."""
    return math.prod(shape[:-1])


def _terms(mean: int = 1, projection: int = 1, count: Callable[[Shape], int] = _pixels) -> Callable[..., Gradients]:
    """A backward pass that takes dy's mean and its part along xhat away so many times, with sums divided by count."""

    def wrong(dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float) -> Gradients:
        of_dy, dgamma, dbeta = _backward(dy, x, gamma, eps, training=False)  # gamma s dy
        xhat = _forward(x, np.ones_like(gamma), eps)
        s = 1 / np.sqrt(x.var(axis=(0, 1, 2)) + x.dtype.type(eps))
        taken_away = mean * dbeta + projection * xhat * dgamma
        return of_dy - gamma * s * taken_away / x.dtype.type(count(x.shape)), dgamma, dbeta

    return wrong


def _over_pictures(dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float) -> Gradients:
    """Statistics and sums over the first axis alone."""
    columns = math.prod(x.shape[1:])
    repeated = np.broadcast_to(gamma, x.shape[1:]).reshape(columns)
    dx, dgamma, dbeta = _backward(dy.reshape(-1, columns), x.reshape(-1, columns), repeated, eps)
    return dx.reshape(x.shape), dgamma.reshape(x.shape[1:]), dbeta.reshape(x.shape[1:])


def _gamma_of_x(dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float) -> Gradients:
    dx, _, dbeta = _backward(dy, x, gamma, eps)
    return dx, (dy * x).sum(axis=(0, 1, 2)), dbeta


def _no_gamma(dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float) -> Gradients:
    return _backward(dy, x, np.ones_like(gamma), eps)


# Merging statistics -------------------------------------------------------------------------------------------


def _merge(
    mean_a: np.ndarray, m2_a: np.ndarray, mean_b: np.ndarray, m2_b: np.ndarray, count_a: int, count_b: int
) -> tuple[np.ndarray, np.ndarray]:
    share = mean_a.dtype.type(count_b / (count_a + count_b))
    delta = mean_b - mean_a  # (c,)
    return mean_a + delta * share, m2_a + m2_b + delta * delta * share * mean_a.dtype.type(count_a)


def _statistics(draw: RandomDraw) -> Case:
    return _two_sets(draw, (draw.integer(1, 9), draw.integer(10, 30)), draw.integer(1, 6))


def _statistics_corners(draw: RandomDraw) -> Iterator[Case]:
    """One value, as many on both sides, more of the first, many channels."""
    for counts, c in (((1, 1), 2), ((7, 7), 1), ((2000, 3), 3), ((2, 5), 33)):
        yield _two_sets(draw, counts, c)


def _two_sets(draw: RandomDraw, counts: tuple[int, int], c: int) -> Case:
    arrays = []
    for count in counts:
        x = 2 * draw.normal(count, c) + 3 * draw.normal(c)  # (count, c)
        arrays += [x.mean(axis=0), count * x.var(axis=0)]
    return Case(tuple(arrays), {"count_a": counts[0], "count_b": counts[1]})


def _initial_below(share: float, momentum: float = _MOMENTUM) -> int:
    """The first step after which an exponential average holds less than this share of its initial value."""
    return math.ceil(math.log(share) / math.log(momentum))


EXERCISES = (
    Function(
        name="batchnorm-backward",
        notebook=6,
        title="The backward pass of batch normalisation",
        reference=_backward,
        draw=_case,
        corners=_corners,
        results=("dx", "dgamma", "dbeta"),
        mistakes=(
            Mistake(
                partial(_backward, training=False),
                "This takes mean and variance as constants. In training they depend on x, and pass gradients on to it.",
            ),
            Mistake(
                _terms(projection=0),
                "The way through the mean is there. What of the way through the variance, steps 3 and 4?",
            ),
            Mistake(_terms(mean=0), "The way through the variance is there. What of the way through the mean, step 5?"),
            Mistake(
                _terms(count=lambda shape: 1),
                "Mean and variance are averages over m values, and hand on 1/m of their gradient to each.",
            ),
            Mistake(
                _terms(count=lambda shape: shape[0]),
                "m is the number of values of a channel: pictures times pixels, not pictures alone.",
            ),
            Mistake(
                _over_pictures,
                "A channel has one mean, over all pictures and all pixels: sums go over every axis but the last.",
            ),
            Mistake(_gamma_of_x, "gamma multiplies xhat, not x: that is what its gradient is summed with."),
            Mistake(_no_gamma, "y is gamma times xhat, so a factor is missing on the way from y to xhat."),
        ),
    ),
    Choice(
        name="variance-cancels",
        notebook=6,
        title="Why the short formula of the variance fails",
        options={
            "A": "The variance itself grows with the mean.",
            "B": "float32 cannot hold values with a large mean.",
            "C": "The difference of two large, rounded terms is left with their rounding errors.",
            "D": "The squares overflow.",
        },
        right="C",
        why="With mean 1000 both terms are near a million, and the variance is the last of float32's seven digits.",
        hints={
            "A": "Adding a constant to all values does not change their variance, which is 1 throughout.",
            "B": "All three ways are given the same float32 values. Why does the package find their variance?",
            "D": "The largest float32 is about 3e38. How large is the square of the largest mean here?",
        },
    ),
    Function(
        name="merge-statistics",
        notebook=6,
        title="Merge the statistics of two sets of values",
        reference=_merge,
        draw=_statistics,
        corners=_statistics_corners,
        results=("mean", "m2"),
        mistakes=(
            Mistake(
                lambda mean_a, m2_a, mean_b, m2_b, count_a, count_b: (
                    _merge(mean_a, m2_a, mean_b, m2_b, count_a, count_b)[0],
                    m2_a + m2_b,
                ),
                "Both M are deviations from their own means. From the common mean, values deviate by more.",
            ),
            Mistake(
                lambda mean_a, m2_a, mean_b, m2_b, count_a, count_b: (
                    (mean_a + mean_b) / 2,
                    _merge(mean_a, m2_a, mean_b, m2_b, count_a, count_b)[1],
                ),
                "The larger set pulls the common mean towards its own: weigh the means with the counts.",
            ),
            Mistake(
                lambda mean_a, m2_a, mean_b, m2_b, count_a, count_b: (
                    _merge(mean_a, m2_a, mean_b, m2_b, count_a, count_b)[0],
                    m2_a + m2_b + (mean_a - mean_b) ** 2,
                ),
                "The squared distance of the means belongs there, but not once: how often, for n_A and n_B values?",
            ),
        ),
    ),
    Number(
        name="momentum-memory",
        notebook=6,
        title="How long a running mean remembers its start",
        expected=lambda: _initial_below(0.01),
        why="After k steps the initial value counts 0.99^k, and 0.99^459 is the first power below 0.01.",
        mistakes=(
            WrongNumber(100, "After 1/(1 - p) = 100 steps it still counts 0.99^100, more than a third."),
            WrongNumber(_initial_below(0.01, 0.9), "That would be a momentum of 0.9."),
            WrongNumber(1, "That would be PyTorch's momentum, which is 1 - p. Here the running value keeps 99 %."),
            WrongNumber(_initial_below(0.01) - 1, "One step too few: 0.99 to this power is just above 0.01."),
            WrongNumber(_initial_below(0.5), "That is where the initial value counts half."),
        ),
    ),
)
