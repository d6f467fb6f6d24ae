"""Solutions of notebook 13, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np


def tree_sum(terms):
    while len(terms) > 1:
        pairs = terms[: len(terms) // 2 * 2]
        terms = np.concatenate([pairs[::2] + pairs[1::2], terms[len(pairs) :]])
    return terms[0]


SOLUTIONS: dict[str, Any] = {
    "allreduce-bytes": 32,
    "tree-sum": tree_sum,
    "ghost-batches": "B",
    "mean-seconds": 22.47,
}


def in_turn(terms):
    result = np.zeros_like(terms[0])
    for term in terms:
        result = result + term
    return result


def halves(terms):
    if len(terms) == 1:
        return terms[0]
    middle = len(terms) // 2
    return halves(terms[:middle]) + halves(terms[middle:])


def folded(terms):
    while len(terms) > 1:
        rest, half = len(terms) % 2, len(terms) // 2
        terms = np.concatenate([terms[:half] + terms[half + rest :], terms[half : half + rest]])
    return terms[0]


def without_the_last(terms):
    while len(terms) > 1:
        half = len(terms) // 2
        terms = terms[: 2 * half : 2] + terms[1 : 2 * half : 2]
    return terms[0]


MISTAKES: list[tuple[str, Any, str]] = [
    ("allreduce-bytes", 80, "holds a slice"),
    ("allreduce-bytes", 16, "Everybody needs all"),
    ("allreduce-bytes", 40, "own slice to himself"),
    ("allreduce-bytes", 4, "P - 1 steps"),
    ("tree-sum", in_turn, "one term after the other"),
    ("tree-sum", halves, "Halves are not neighbours"),
    ("tree-sum", folded, "Neighbours come first"),
    ("tree-sum", without_the_last, "goes up alone"),
    ("ghost-batches", "A", "Which layer looks"),
    ("ghost-batches", "C", "use in training"),
    ("ghost-batches", "D", "a mean over all images"),
    ("mean-seconds", 9.2, "nearly twice as much"),
    ("mean-seconds", 18.38, "latency of 2 * 1023"),
    ("mean-seconds", 4.09, "And the bytes"),
    ("mean-seconds", 20.43, "as many to spread"),
]
