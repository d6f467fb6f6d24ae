"""Exercises of notebook 13, many processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...cluster.plan import Link
from ...cluster.tree import Node, total
from ...engine.op import Case, RandomDraw
from ..checks import Choice, Function, Mistake, Number, WrongNumber

_LINK = Link(bandwidth=10e9, latency=2e-6)
_MEAN = 1e3 * _LINK.mean_seconds(92e6, 1024)  # ms


def _tree_sum(terms: np.ndarray) -> np.ndarray:
    return total(Node(0, number, term.copy()) for number, term in enumerate(terms))


def _one_after_the_other(terms: np.ndarray) -> np.ndarray:
    result = terms[0].copy()
    for term in terms[1:]:
        result += term
    return result


def _in_halves(terms: np.ndarray) -> np.ndarray:
    half = len(terms) // 2
    return _in_halves(terms[:half]) + _in_halves(terms[half:]) if half else terms[0].copy()


def _far_ones(terms: np.ndarray) -> np.ndarray:
    while len(terms) > 1:
        half = -(-len(terms) // 2)
        terms = np.concatenate([terms[: len(terms) - half] + terms[half:], terms[len(terms) - half : half]])
    return terms[0].copy()


def _last_is_lost(terms: np.ndarray) -> np.ndarray:
    while len(terms) > 1:
        terms = terms[: len(terms) // 2 * 2 : 2] + terms[1::2]
    return terms[0].copy()


def _terms(draw: RandomDraw) -> Case:
    """Small numbers between large ones that cancel: what is added to a large one is rounded away."""
    return _rows(draw, draw.integer(3, 11))


def _rows(draw: RandomDraw, count: int) -> Case:
    elements = draw.integer(4, 9)
    large = draw.dtype.type(2.0 ** (np.finfo(draw.dtype).nmant + 3))
    terms = np.clip(draw.normal(count, elements), -3, 3)
    for column in range(elements):
        first, second = (draw.integer(0, count - 1) for _ in range(2))
        if first != second:
            terms[first, column], terms[second, column] = large, -large
    return Case((terms,), {})


def _corners(draw: RandomDraw) -> Iterator[Case]:
    """A single shard; eight of them; seven, of which the last goes up alone."""
    for count in (1, 8, 7):
        yield _rows(draw, count)


EXERCISES = (
    Number(
        name="allreduce-bytes",
        notebook=13,
        title="What a process sends in a ring",
        expected=lambda: 2 * 4 / 5 * 20,
        within=0.005,
        why="Four slices of a fifth to add them up, and four more to spread the sums: 2 (P - 1) / P of the gradient.",
        mistakes=(
            WrongNumber(80, "That is the whole gradient to each of the others. A message of the ring holds a slice."),
            WrongNumber(16, "Then the sums lie where they were made. Everybody needs all of them."),
            WrongNumber(40, "Nearly, and nearer with more processes: nobody sends his own slice to himself."),
            WrongNumber(4, "That is one slice, and there are P - 1 steps of each kind."),
        ),
    ),
    Function(
        name="tree-sum",
        notebook=13,
        title="A sum in an order of its own",
        reference=_tree_sum,
        draw=_terms,
        corners=_corners,
        mistakes=(
            Mistake(_one_after_the_other, "This adds one term after the other. Which two are added first?"),
            Mistake(_in_halves, "Halves are not neighbours: six terms are four and two here, not three and three."),
            Mistake(_far_ones, "This adds each term of the first half to one of the second. Neighbours come first."),
            Mistake(_last_is_lost, "Who has no right neighbour goes up alone, and is not forgotten."),
        ),
    ),
    Choice(
        name="ghost-batches",
        notebook=13,
        title="What shards change",
        options={
            "A": "Nothing but the time: the mean of the shards' gradients is the gradient of the batch.",
            "B": "Each image is normalised with the 7 others of its shard: it has another loss and another gradient.",
            "C": "Only the running statistics, and with them only the accuracy on test images.",
            "D": "The gradient becomes eight times as large, so that the learning rate must be divided by eight.",
        },
        right="B",
        why="Without batchnorm it would be A. With it, what the network computes for an image depends on its shard.",
        hints={
            "A": "That holds if an image's loss depends on this image alone. Which layer looks at the others?",
            "C": "Running statistics are for test images. What does batchnorm use in training?",
            "D": "The mean over shards, each of which is a mean over its images, is a mean over all images.",
        },
    ),
    Number(
        name="mean-seconds",
        notebook=13,
        title="How long a mean over 1024 processes takes",
        expected=lambda: _MEAN,
        within=0.01,
        why="Bandwidth takes 18.4 ms, nearly as with any other number of processes; latency 4.1 ms, and grows with it.",
        mistakes=(
            WrongNumber(9.2, "So long it takes to send the gradient once. Each process sends nearly twice as much."),
            WrongNumber(18.382, "And the latency of 2 * 1023 messages?"),
            WrongNumber(4.092, "That is the latency. And the bytes?"),
            WrongNumber(20.43, "There are P - 1 messages to add the slices up, and as many to spread the sums."),
        ),
    ),
)
