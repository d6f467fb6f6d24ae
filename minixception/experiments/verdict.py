"""What differences between seeds allow to say: a paired comparison with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ArgumentError

# The 0.975 quantile of Student's t with n degrees of freedom: 1, 2, 3 and so on.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, in points of accuracy, and its 95 % interval."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def separated(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        words = "separated" if self.separated else "not separated"
        return f"{self.mean:+.2f} points [{self.low:+.2f}, {self.high:+.2f}], {self.pairs} seeds: {words}"


def paired(one: Sequence[float], other: Sequence[float]) -> Difference:
    """By how many points the accuracies (shares) of ``one`` exceed those of ``other``, seed by seed.

    Runs of one seed see the same pictures in the same order, so their difference varies less than either. The interval
    is Student's, mean +- t s / sqrt(n): it holds if differences are about normal, and is wide for three seeds. Raises
    ArgumentError for less than 2 pairs, or more than 10, or other numbers of each.

    >>> print(paired([0.8, 0.81, 0.82], [0.78, 0.79, 0.81]))
    +1.67 points [+0.23, +3.10], 3 seeds: separated
    """
    if len(one) != len(other) or not 2 <= len(one) <= len(_T) + 1:
        raise ArgumentError(f"expected 2 to {len(_T) + 1} accuracies of each, got {len(one)} and {len(other)}")
    differences = 100 * (np.asarray(one) - np.asarray(other))
    mean, count = float(differences.mean()), len(differences)
    half = _T[count - 2] * float(differences.std(ddof=1)) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)
