"""What ``minixception bench`` does: limits, and kernels, layers and models beside them; tables, JSON and a figure."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ..tables import Table
from . import contestants, kernels, layers, limits, models, peers, spectrum, tile
from .apart import Apart
from .limits import Limits
from .measurement import OURS, Measurement

if TYPE_CHECKING:
    from ..viz.style import VectorFigure


KINDS = ("kernels", "spectrum", "layers", "models")


@dataclass
class Report:
    """Everything that one run measured."""

    limits: list[Limits] = field(default_factory=list)
    kernels: list[Measurement] = field(default_factory=list)
    spectrum: list[Measurement] = field(default_factory=list)
    layers: list[Measurement] = field(default_factory=list)
    models: list[Measurement] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data; seconds, FLOP and bytes."""
        return {
            "limits": [asdict(one) for one in self.limits],
            "kernels": [one.to_json() for one in self.kernels],
            "spectrum": [one.to_json() for one in self.spectrum],
            "layers": [one.to_json() for one in self.layers],
            "models": [one.to_json() for one in self.models],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Report:
        """The report that ``to_json`` made this of; other entries of a result file are passed over."""
        kinds = (list(map(Measurement.from_json, data.get(kind, []))) for kind in KINDS)
        return cls(list(map(Limits.from_json, data["limits"])), *kinds)

    def __str__(self) -> str:
        parts = [("The machine's limits", self._limits_table())]
        if self.kernels:
            parts.append(("Operators", _kernels_table(self.kernels)))
        if self.spectrum:
            parts.append(("The spectrum from regular to depthwise", _kernels_table(self.spectrum)))
        for count in dict.fromkeys(row.threads for row in self.layers):
            steps = [row for row in self.layers if row.threads == count]
            parts.append((f"Layers of a compiled network, {_on(count)}", layers.table(steps)))
        if self.models:
            parts.append(("Networks", rows_table(self.models, "network")))
        return "\n\n".join(f"{title}\n{table}" for title, table in parts)

    def figure(self) -> VectorFigure:
        """The roofline with all operators that have multiply-accumulates, for the largest number of threads.

        Without operators the spectrum: time along the number of segments.
        """
        if not self.kernels:
            return spectrum.figure(self.spectrum)
        from ..viz import RooflinePoint, roofline

        most = max(self.limits, key=lambda one: one.threads)
        points = [
            RooflinePoint(row.name, row.direction, row.flop / row.nbytes, row.flop / row.ours.median)
            for row in self.kernels
            if row.threads == most.threads and row.flop and row.nbytes
        ]
        return roofline(most, points)

    def _limits_table(self) -> Table:
        header = ("threads", "FMA GFLOP/s", "read GB/s", "copy GB/s", "triad GB/s", "copy GB/s by MiB touched")
        rows = []
        for one in self.limits:
            copies = ", ".join(f"{nbytes / 2**20:.0f}: {rate / 1e9:.1f}" for nbytes, rate in one.copies.items())
            rates = [rate / 1e9 for rate in (one.fma_flops, one.read, one.copy, one.triad)]
            rows.append((one.threads, *rates, copies))
        return Table(header, rows)


def _kernels_table(rows: Sequence[Measurement]) -> Table:
    header = ("operator", "direction", "threads", OURS, "GFLOP/s", "GB/s", "limit", "share", "torch", "torch / ours")
    cells = []
    for row in rows:
        time, torch = row.ours, row.times.get("torch")
        cells.append((
            row.name, row.direction, row.threads, str(time), row.flop / time.median / 1e9,
            row.nbytes / time.median / 1e9, row.limited_by, f"{row.share(OURS):.0%}", str(torch or ""),
            f"{torch.median / time.median:.2f}" if torch else "",
        ))  # fmt: skip
    return Table(header, cells)


def rows_table(rows: Sequence[Measurement], kind: str) -> Table:
    """A row for each job and each who did it; kind: the title of the first column."""
    header = (kind, "job", "threads", "by", "time", "over ours", "share of limit", "difference")
    cells = []
    for row in rows:
        for who, time in row.times.items():
            over = time.median / row.ours.median
            difference = f"{row.differences[who]:.1e}" if who in row.differences else ""
            cells.append((
                row.name, row.direction, row.threads, who, str(time), over, f"{row.share(who):.0%}", difference,
            ))  # fmt: skip
    return Table(header, cells)


def run(what: str, threads: Sequence[int], repeats: int, beside: bool) -> Report:
    """Measure ``what`` (one of KINDS, or "all") with each number of threads; ``beside``: peers, too.

    Progress and peers that are left out are printed on stderr. Raises ValueError for more threads than Numba has,
    ArithmeticError if a peer's result is not ours, ChildProcessError if a process ends while it is timed.
    """
    from tqdm import tqdm

    beside = beside and what != "layers"
    inference = peers.installed(peers.INFERENCE, say) if beside else {}
    training = peers.installed(peers.TRAINING, lambda line: None) if beside else {}  # the line has been said
    report = Report()
    for count in threads:
        on = _on(count)
        say(f"measuring the machine's limits, {on}")
        report.limits.append(limit := limits.measure(count))
        if what in ("kernels", "all"):
            with tqdm(total=repeats, desc=f"register tile, {on}", leave=False, disable=None) as bar:
                report.kernels.append(tile.measure(limit, repeats, bar))
            for layer in kernels.WORKLOADS:
                with tqdm(total=2 * repeats, desc=f"{layer.name}, {on}", leave=False, disable=None) as bar:
                    report.kernels += kernels.measure(layer, limit, repeats, "torch eager" in inference, bar)
        if what in ("spectrum", "all"):
            for layer in spectrum.WORKLOADS.values():
                with tqdm(total=2 * repeats, desc=f"{layer.name}, {on}", leave=False, disable=None) as bar:
                    report.spectrum += kernels.measure(layer, limit, repeats, "torch eager" in inference, bar)
        if what in ("layers", "all"):
            net = layers.WORKLOAD
            with tqdm(total=repeats, desc=f"layers of {net.name}, {on}", leave=False, disable=None) as bar:
                report.layers += layers.measure(net, limit, repeats, bar)
        if what in ("models", "all"):
            for net in models.WORKLOADS:
                everybody = contestants.ours(net.training) | (training if net.training else inference)
                with tqdm(total=repeats, desc=f"{net.name}, batch {net.batch}, {on}", leave=False, disable=None) as bar:
                    report.models.append(models.measure(net, limit, repeats, everybody, bar, Apart))
    return report


def _on(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def say(text: str) -> None:
    """Print progress, on stderr."""
    print(text, file=sys.stderr, flush=True)
