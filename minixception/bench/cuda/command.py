"""What ``minixception bench --device cuda`` does: limits, then kernels and networks beside them, then the targets."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ...errors import BackendError
from ...gpu import kernel as gpu
from ...gpu.device import empty_cache
from ...models import Xception, mini_xception
from ...tables import Table
from .. import models
from ..command import rows_table, say
from ..contestants import Contestant, Here, Workload, ours
from ..measurement import Measurement
from ..peers import on_gpu
from . import kernels, limits, targets
from .limits import GpuLimits
from .timing import EventClock, QueuedClock

NETWORKS = (
    Workload("Xception 299", Xception, 32, training=False),
    Workload("Xception 299", Xception, 32, training=True),
    Workload("mini_xception 32", mini_xception, 64, training=False),
    Workload("mini_xception 32", mini_xception, 64, training=True),
)


@dataclass
class GpuReport:
    """Everything that one run measured.

    peer: the settings of PyTorch, or why it was not timed. late: kernels whose times hold some of Python's, because it
    could not be kept out. left_out: networks that could not be measured, and why. wrong: what has other results than
    it should, and was not timed.
    """

    limits: GpuLimits
    peer: dict[str, Any]
    kernels: list[Measurement] = field(default_factory=list)
    models: list[Measurement] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GpuReport:
        """The report that ``to_json`` made this of; other entries of a result file are passed over."""
        return cls(
            GpuLimits(**data["limits"]),
            data["peer"],
            [Measurement.from_json(row) for row in data["kernels"]],
            [Measurement.from_json(row) for row in data["models"]],
            data["late"],
            data["left_out"],
            data["wrong"],
        )

    @property
    def targets(self) -> list[targets.Target]:
        """What was promised of what was measured."""
        return targets.judge([*self.kernels, *self.models], self.limits)

    def to_json(self) -> dict[str, Any]:
        """Plain data; seconds, FLOP and bytes."""
        return {
            "limits": self.limits.to_json(),
            "peer": self.peer,
            "kernels": [one.to_json() for one in self.kernels],
            "models": [one.to_json() for one in self.models],
            "targets": [one.to_json() for one in self.targets],
            "late": self.late,
            "left_out": self.left_out,
            "wrong": self.wrong,
        }

    def tables(self) -> list[tuple[str, Table]]:
        """Titles and tables, those without rows left out."""
        parts = [
            ("The GPU's limits", limits.table(self.limits)),
            ("Kernels: the GPU's time alone", rows_table(self.kernels, "operator")),
            ("Networks: as long as a user waits", rows_table(self.models, "network")),
            ("Targets", targets.table(self.targets)),
        ]
        return [(title, table) for title, table in parts if table.rows]

    def notes(self) -> list[str]:
        """What the tables do not say."""
        settings = ", ".join(f"{name} {value}" for name, value in self.peer.items())
        notes = [f"PyTorch: {settings}."]
        if self.late:
            notes.append(f"Times that hold some of Python's: {'; '.join(self.late)}.")
        notes += [f"Left out: {reason}." for reason in self.left_out]
        return notes + [f"Wrong: {difference}." for difference in self.wrong]

    def __str__(self) -> str:
        return "\n\n".join([*(f"{title}\n{table}" for title, table in self.tables()), *self.notes()])


Keep = Callable[[GpuReport], Any]


def require_device() -> None:
    """BackendError that says what is missing, unless there is a GPU to measure; the simulator is none."""
    if gpu.is_simulated():
        raise BackendError(
            "bench --device cuda measures times, and those of the simulator mean nothing: it needs an NVIDIA GPU, and "
            f"{gpu.VARIABLE} empty"
        )
    if not gpu.is_available():
        problem = " ".join(str(gpu.numba_cuda().cuda_error() or "Numba finds no NVVM library").split())
        raise BackendError(
            f"bench --device cuda needs an NVIDIA GPU, its driver and NVVM. Missing: {problem} "
            "NVVM comes with pip install 'minixception[cuda]'; 'minixception doctor' says what is there"
        )


def run(what: str, repeats: int, beside: bool, keep: Keep = lambda report: None) -> GpuReport:
    """Measure ``what`` ("kernels", "models" or "all") on the GPU; ``beside``: PyTorch too, where it has CUDA.

    keep(report) is called with each new row: who is stopped has what was measured so far. BackendError without a GPU.
    """
    require_device()
    cuda, stream = gpu.numba_cuda(), gpu.stream()
    queued = QueuedClock(cuda, stream, limits.filler())
    say("measuring the GPU's limits")
    found = limits.measure(cuda.get_current_device(), queued)
    with _peer(beside, stream) as settings:
        report = GpuReport(found, settings)
        has_peer = "torch" in settings
        if what != "models":
            measure_kernels(report, repeats, has_peer, queued, keep)
        if what != "kernels":
            measure_networks(report, repeats, has_peer, EventClock(cuda, stream), keep)
    return report


def measure_kernels(report: GpuReport, repeats: int, beside: bool, clock: QueuedClock, keep: Keep) -> None:
    """Add a row for each workload and direction; what computes something else is not timed, and named."""
    from tqdm import tqdm

    for layer in kernels.WORKLOADS:
        before = clock.late
        try:
            with tqdm(total=2 * repeats, desc=layer.name, leave=False, disable=None) as bar:
                report.kernels += kernels.measure(layer, report.limits, repeats, beside, clock, bar)
        except ArithmeticError as error:
            report.wrong.append(str(error))
        if clock.late > before:
            report.late.append(layer.name)
        keep(report)


def measure_networks(report: GpuReport, repeats: int, beside: bool, clock: Callable[..., float], keep: Keep) -> None:
    """Add a row for each network and job; one that does not fit into the GPU's memory is left out, with the reason."""
    from tqdm import tqdm

    def here(build: Callable[..., Contestant]) -> Here:
        return Here(partial(build, clock=clock))

    for net in NETWORKS:
        kind = "training" if net.training else "inference"
        everybody = ours(net.training, "cuda") | (on_gpu(kind) if beside else {})
        try:
            with tqdm(total=repeats, desc=f"{net.name}, {kind}", leave=False, disable=None) as bar:
                row = models.measure(net, report.limits, repeats, everybody, bar, here)
        except ArithmeticError as error:
            report.wrong.append(str(error))
        except Exception as error:
            if not (isinstance(error, MemoryError) or "out of memory" in str(error)):  # ours, or PyTorch's
                raise
            report.left_out.append(f"{net.name}, batch {net.batch}, {kind}: the GPU's memory is too small")
            say(report.left_out[-1])
        else:
            report.models.append(row)
        keep(report)
        empty_cache()  # room for PyTorch


@contextmanager
def _peer(beside: bool, stream: Any) -> Iterator[dict[str, Any]]:
    """PyTorch in our stream: its settings; or why it is left out."""
    reason = "not asked for" if not beside else ""
    if not reason and importlib.util.find_spec("torch") is None:
        reason = "torch is not installed"
    if not reason:
        from .torch_gpu import compared, why_not

        if not (reason := why_not()):
            with compared(int(stream)) as settings:
                yield settings
            return
    say(f"PyTorch is left out: {reason}")
    yield {"left out": reason}
