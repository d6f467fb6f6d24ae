"""What was promised, beside what was measured: ratios within one run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...tables import Table
from ..measurement import Measurement
from .limits import GpuLimits


@dataclass(frozen=True)
class Target:
    """A ratio that should be at least so large; measured: None where there is nothing to compare with."""

    job: str
    what: str
    at_least: float
    measured: float | None

    @property
    def verdict(self) -> str:
        """Met, missed or not measured.

        >>> Target("depthwise", "speed of PyTorch", 1.0, 0.93).verdict
        'missed'
        """
        if self.measured is None:
            return "not measured"
        return "met" if self.measured >= self.at_least else "missed"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"verdict": self.verdict}


Ratio = Callable[[Measurement, GpuLimits], float | None]


def _speed(row: Measurement, limits: GpuLimits) -> float | None:
    """How many times as fast as PyTorch in its better layout our fastest is."""
    theirs = [time.median for who, time in row.times.items() if who.startswith("torch")]
    return min(theirs) / row.ours.median if theirs else None


def _bandwidth(crossings: float = 1) -> Ratio:
    """The share of the measured bandwidth, for an operator that must move ``crossings`` times its nbytes."""

    def share(row: Measurement, limits: GpuLimits) -> float:
        return crossings * row.nbytes / limits.copy / row.ours.median

    return share


_TORCH = "speed of PyTorch's eager float32"
_FORWARD, _BACKWARD, _STEP = "forward", "backward", "training step"

# (jobs whose name begins so, direction, what, at least, ratio). Batchnorm in training cannot write a result before it
# has seen every pixel, and arrays of these sizes do not stay in a cache: forward reads x twice and writes y (3 arrays
# for nbytes of 2), backward reads x and dy twice and writes dx (5 for 3).
_RULES: tuple[tuple[str, str, str, float, Ratio], ...] = (
    ("depthwise", _FORWARD, _TORCH, 1.0, _speed),
    ("depthwise", _BACKWARD, _TORCH, 1.0, _speed),
    ("depthwise", _FORWARD, "share of bandwidth", 0.7, _bandwidth()),
    ("batchnorm", _FORWARD, "share of bandwidth, x read twice", 0.7, _bandwidth(3 / 2)),
    ("batchnorm", _BACKWARD, "share of bandwidth, x and dy read twice", 0.7, _bandwidth(5 / 3)),
    ("pointwise", _FORWARD, "speed of PyTorch's cuBLAS or cuDNN, TF32 off", 0.6, _speed),
    ("pointwise", _BACKWARD, "speed of PyTorch's cuBLAS or cuDNN, TF32 off", 0.6, _speed),
    ("Xception 299, batch 32", _FORWARD, _TORCH, 1.0, _speed),
    ("Xception 299, batch 32", _STEP, _TORCH, 1 / 1.3, _speed),
)


def judge(rows: Iterable[Measurement], limits: GpuLimits) -> list[Target]:
    """Every target that one of the rows is about."""
    return [
        Target(f"{row.name}, {row.direction}", what, at_least, ratio(row, limits))
        for row in rows
        for job, direction, what, at_least, ratio in _RULES
        if row.name.startswith(job) and row.direction == direction
    ]


def table(targets: Sequence[Target]) -> Table:
    """A row for each."""
    rows = [
        (one.job, one.what, f"{one.at_least:.2f}", "" if one.measured is None else f"{one.measured:.2f}", one.verdict)
        for one in targets
    ]
    return Table(("target", "ratio", "at least", "measured", "verdict"), rows)
