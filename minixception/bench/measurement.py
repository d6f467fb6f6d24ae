"""One measured thing: the times of all who did it, its cost, and the least time the machine could take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .limits import Limits
from .timing import Timing

OURS = "minixception"
EQUAL = 1e-5  # relative L2 distance of two float32 results that count as equal


@dataclass(frozen=True)
class Measurement:
    """Times of one job by the name of who ran it.

    flop: operations it takes, two for a multiply-accumulate; nbytes: of inputs and outputs, each once; bound: the
    least seconds that both allow on this machine; differences: relative L2 distances of the others' results from ours.
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

    def share(self, who: str = OURS) -> float:
        """Share of the machine's limit that was reached: the bound over the median."""
        return self.bound / self.times[who].median

    def to_json(self) -> dict[str, Any]:
        """Plain data, with everybody's share of the limit."""
        return asdict(self) | {"share_of_limit": {who: self.share(who) for who in self.times}}


def summary(
    name: str,
    direction: str,
    limits: Limits,
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


def require_equal(what: str, ours: np.ndarray, theirs: np.ndarray, limit: float) -> float:
    """The relative L2 distance of two results; ArithmeticError if it is more than ``limit``, or not a number.

    >>> require_equal("sums", np.array([3.0, 4.0]), np.array([3.0, 4.0]), 1e-5)
    0.0
    """
    distance = float(np.linalg.norm(ours.ravel() - theirs.ravel()) / np.linalg.norm(theirs))
    if not distance <= limit:
        raise ArithmeticError(f"{what}: the results differ by {distance:.1e}, more than {limit:.0e}; nothing was timed")
    return distance
