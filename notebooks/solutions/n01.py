"""Solutions of notebook 01, and wrong answers with words of the verdict that they get."""

from __future__ import annotations

from typing import Any

import numpy as np


def diamond_backward(dy, x, b):
    z = x + b  # (n, c)
    by_relu = dy * x * (z > 0)  # (n, c)
    by_factor = dy * np.maximum(z, 0)  # (n, c)
    return by_relu + by_factor, by_relu.sum(axis=0)


SOLUTIONS: dict[str, Any] = {
    "diamond-backward": diamond_backward,
    "paths-of-cubes": 531_441,
    "step-too-small": "B",
}


def diamond_overwritten(dy, x, b):
    z = x + b
    dx = dy * np.maximum(z, 0)
    dx = dz = dy * x * (z > 0)
    return dx, dz.sum(axis=0)


def diamond_second_factor_only(dy, x, b):
    z = x + b
    dz = dy * x * (z > 0)
    return dy * np.maximum(z, 0), dz.sum(axis=0)


def diamond_without_sum(dy, x, b):
    z = x + b
    dz = dy * x * (z > 0)
    return dz + dy * np.maximum(z, 0), dz


def diamond_mean(dy, x, b):
    z = x + b
    dz = dy * x * (z > 0)
    return dz + dy * np.maximum(z, 0), dz.mean(axis=0)


def diamond_without_dy(dy, x, b):
    z = x + b
    dz = x * (z > 0)
    return dz + np.maximum(z, 0), dz.sum(axis=0)


def diamond_without_mask(dy, x, b):
    dz = dy * x
    return dz + dy * np.maximum(x + b, 0), dz.sum(axis=0)


MISTAKES: list[tuple[str, Any, str]] = [
    ("diamond-backward", diamond_overwritten, "add what reaches it as the second factor"),
    ("diamond-backward", diamond_second_factor_only, "add what reaches it through the ReLU"),
    ("diamond-backward", diamond_without_sum, "the sum over the rows"),
    ("diamond-backward", diamond_mean, "Whether to average"),
    ("diamond-backward", diamond_without_dy, "Where is dy?"),
    ("diamond-backward", diamond_without_mask, "lets no gradient through"),
    ("paths-of-cubes", 2**12, "how many times does z itself enter"),
    ("paths-of-cubes", 36, "once for each path"),
    ("paths-of-cubes", 24, "number of nodes"),
    ("paths-of-cubes", 4**12, "not z"),
    ("step-too-small", "A", "grows as the step shrinks"),
    ("step-too-small", "C", "the same for any step"),
]
