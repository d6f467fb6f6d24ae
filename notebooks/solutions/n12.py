"""Solutions of notebook 12, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np


def paired_difference(one, other):
    d = one - other
    return np.array([d.mean(), np.sqrt(d.var(ddof=1) / d.size)])


SOLUTIONS: dict[str, Any] = {
    "equal-parameters": 65.5,
    "paired-difference": paired_difference,
    "not-separated": "C",
}


def turned(one, other):
    return paired_difference(other, one)


def two_groups(one, other):
    return np.array([one.mean() - other.mean(), np.sqrt(one.var(ddof=1) / one.size + other.var(ddof=1) / other.size)])


def spread(one, other):
    d = one - other
    return np.array([d.mean(), d.std(ddof=1)])


def spread_of_population(one, other):
    d = one - other
    return np.array([d.mean(), d.std() / np.sqrt(d.size)])


MISTAKES: list[tuple[str, Any, str]] = [
    ("equal-parameters", 21.3, "the square of the width"),
    ("equal-parameters", 64, "depthwise half"),
    ("equal-parameters", 4288, "That is c^2"),
    ("equal-parameters", 196.4, "nine weights for each pair"),
    ("paired-difference", turned, "sign is turned"),
    ("paired-difference", two_groups, "two groups of seeds"),
    ("paired-difference", spread, "Their mean is less uncertain"),
    ("paired-difference", spread_of_population, "divide by n - 1"),
    ("not-separated", "A", "What are the others"),
    ("not-separated", "B", "With other seeds"),
    ("not-separated", "D", "have more of"),
]
