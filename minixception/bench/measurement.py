"""One measured thing: the times of all who did it, its cost, and the least time the machine could take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from ..timing import Timing

OURS = "minixception"
EQUAL = 1e-5  # relative L2 distance of two float32 results that count as equal


class Bound(Protocol):
    """What a machine can do at most, of a CPU or of a GPU."""

    @property
    def threads(self) -> int:
        """Of the CPU: those that compute, or the one that drives a GPU."""

    @property
    def fma_flops(self) -> float:
        """FLOP/s."""

    def seconds(self, flop: int, nbytes: int) -> float:
        """The least time for ``flop`` operations on ``nbytes`` bytes, each moved once."""


@dataclass(frozen=True)
class Measurement:
    """Times of one job by the name of who ran it, our fastest first.

    flop: operations it takes, two for a multiply-accumulate; nbytes: of inputs and outputs, each once; bound: the
    least seconds that both allow on this machine; differences: relative L2 distances, of the others' results from
    ours, and in training of everybody's gradients from those in float64.
    """

    name: str
    direction: str
    threads: int
    flop: int
    nbytes: int
    bound: float
    limited_by: str
    times: dict[str, Timing]
    differences: dict[str, float]

    @property
    def ours(self) -> Timing:
        """The first of the times."""
        return next(iter(self.times.values()))

    def share(self, who: str) -> float:
        """Share of the machine's limit that was reached: the bound over the median."""
        return self.bound / self.times[who].median

    def to_json(self) -> dict[str, Any]:
        """Plain data, with everybody's share of the limit."""
        return asdict(self) | {"share_of_limit": {who: self.share(who) for who in self.times}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """The measurement that ``to_json`` made this of."""
        own = {name: value for name, value in data.items() if name != "share_of_limit"}
        return cls(**own | {"times": {who: Timing(**time) for who, time in data["times"].items()}})


def summary(
    name: str,
    direction: str,
    limits: Bound,
    flop: int,
    nbytes: int,
    times: Mapping[str, Timing],
    differences: Mapping[str, float] | None = None,
) -> Measurement:
    """The measurement with its bound by ``limits``."""
    bound = limits.seconds(flop, nbytes)
    limited_by = "arithmetic" if flop / limits.fma_flops == bound else "memory"
    return Measurement(
        name, direction, limits.threads, flop, nbytes, bound, limited_by, dict(times), dict(differences or {})
    )


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative L2 distance of a from b.

    >>> distance(np.array([3.0, 4.5]), np.array([3.0, 4.0]))
    0.1
    """
    return float(np.linalg.norm(a.ravel() - b.ravel()) / np.linalg.norm(b))


def require_equal(what: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The relative L2 distance of two results; ArithmeticError if it is more than 1e-5, or not a number."""
    return require_near(what, distance(ours, theirs), EQUAL)


def require_near(what: str, value: float, limit: float) -> float:
    """The distance, if it is at most ``limit``; else ArithmeticError."""
    if not value <= limit:
        raise ArithmeticError(f"{what}: the results differ by {value:.1e}, more than {limit:.1e}; nothing was timed")
    return value
