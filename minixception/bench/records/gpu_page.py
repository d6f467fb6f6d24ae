"""The page about the GPU, docs/results/gpu.md, from the result files in its folder.

What the CUDA kernels ask of memory and what the compiler gave them (gpu.json) is counted without a GPU, and how long
the processor is busy with a step (gpu_host.json) is measured on a driver that does nothing. What only a GPU can tell
(bench_cuda.json, sanitizer.json) has a section of its own, which says so where nobody has measured it yet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...files import atomic_path
from ...tables import Table
from ..cuda.command import GpuReport

_HEAD = """# On a GPU: counted, compiled, measured

Nothing here is typed in by hand: `python -m minixception.bench.records gpu_page docs/results/gpu.md` writes this page
from the JSON files beside it. [docs/gpu.md](../gpu.md) explains the kernels.
"""
STEPS = {
    "first": "every rung against its definition, compile times, what launches cost, the kernels beside PyTorch's",
    "products": "matrix products of Xception's sizes beside PyTorch's, the fused kernel, what a profiler counts",
    "tests": "the tests marked gpu, NVIDIA's sanitizers",
    "models": "networks, inference and training, beside PyTorch's; what notebook 07 times",
}
"""The steps of `make gpu`, and what each tells."""

_HOW_TO_RUN = """\
On a machine with an NVIDIA GPU, in a clone of this repository, two commands run all steps and write this page anew:

    make setup && .venv/bin/python -m pip install --editable '.[peers]'
    make gpu

One step, ten minutes at most, for a machine that is lent for minutes:

    python -m tests.by_hand.check_gpu --out docs/results --only first
"""
_NOT_MEASURED = """\
No time and no bandwidth was measured on a GPU yet: that is the step `first`, and for networks `models`. The targets
that they are compared with are those of `minixception/bench/cuda/targets.py`.
"""
_NOT_CHECKED = """Not run yet: it needs an NVIDIA GPU and compute-sanitizer, which comes with the CUDA toolkit.

    python -m tests.by_hand.check_sanitizer --out docs/results/sanitizer.json
"""
_NOT_TIMED = """Not measured yet: `python -m tests.by_hand.host_time docs/results/gpu_host.json`.
"""
_NOT_COUNTED = """Not counted yet: `python -m minixception.bench.records gpu_counts docs/results/gpu.json`.
"""


def page(folder: Path) -> str:
    """The whole page as Markdown, from the files in the folder."""
    sections = {
        "What has run on a GPU": _what_has_run(folder),
        "Counted and compiled": _section(folder / "gpu.json", _counted, _NOT_COUNTED),
        "The processor's share": _section(folder / "gpu_host.json", _host_time, _NOT_TIMED),
        "Measured on a GPU": _section(folder / "bench_cuda.json", _measured, _NOT_MEASURED),
        "Sanitizers": _section(folder / "sanitizer.json", _checked, _NOT_CHECKED),
    }
    return "\n".join([_HEAD, *(f"## {title}\n\n{text}" for title, text in sections.items())])


def _what_has_run(folder: Path) -> str:
    """A row for each step, also for those that nobody has run."""
    rows = []
    for step, what in STEPS.items():
        path = folder / f"gpu_{step}.jsonl"
        where, faults = "not run", ""
        if path.exists():
            first, *rest = map(json.loads, path.read_text(encoding="utf-8").splitlines())
            where, faults = first["device"], str(sum("error" in row for row in rest))
        rows.append((step, what, where, faults))
    nothing = "" if any(where != "not run" for _, _, where, _ in rows) else "Nothing has run on a GPU yet.\n\n"
    return f"{nothing}{Table(('step', 'what it tells', 'run on', 'faults'), rows).markdown()}\n\n{_HOW_TO_RUN}"


def _section(path: Path, written: Callable[[dict[str, Any]], str], missing: str) -> str:
    if not path.exists():
        return missing
    result = json.loads(path.read_text(encoding="utf-8"))
    machine = result["machine"]
    made = f"`{result['command']}`, {result['date']}, {machine['processor']}, {machine['system']}"
    return f"{written(result)}\n[{path.name}]({path.name}): {made}.\n"


def _counted(result: dict[str, Any]) -> str:
    """The ladders, and the worst of what the compiler gave the fast kernels."""
    header = ("operator", "direction", "rung", "reads", "sectors per access", "bytes moved", "least bytes")
    ladders = [[row[name] for name in header] for row in result["traffic"]]
    text = f"""\
Without a GPU. What each rung asks of memory per output, as the recorder counts it; the least bytes are each input and
output once.

{Table(header, ladders).markdown()}
"""
    if kernels := [row for row in result["kernels"] if row["usage"]]:
        names = {row["kernel"] for row in kernels}
        text += f"""
What `ptxas` gave {len(names)} kernels: the worst of the fast ones, which are those of each operator's fastest rung.

{_compiled(kernels).markdown()}
"""
    return text


def _host_time(result: dict[str, Any]) -> str:
    """What a step costs the processor, one launch at a time and as a graph."""
    header = ("what", "how", "launches", "ms, median", "least", "most")
    rows = [(what, how, launches, *(f"{ms:.3g}" for ms in times)) for what, how, launches, *times in result["rows"]]
    return f"""\
On a driver that does nothing: how long Python and the libraries beneath it take until the GPU has all of its work. A
GPU that is done sooner waits for the processor. Replayed, the launches are one CUDA graph.

{Table(header, rows).markdown()}
"""


def _compiled(kernels: list[dict[str, Any]]) -> Table:
    """A row for each architecture and dtype."""
    rows = []
    for architecture, dtype in sorted({(row["architecture"], row["dtype"]) for row in kernels}):
        fast = [
            row
            for row in kernels
            if (row["architecture"], row["dtype"]) == (architecture, dtype)
            and any(rung.split()[-1] == "cuda" for rung in row["rungs"])
        ]
        spills, least = sum(row["usage"]["spills"] for row in fast), min(row["occupancy"] for row in fast)
        registers = max(row["usage"]["registers"] for row in fast)
        rows.append((architecture, dtype, len(fast), registers, spills, f"{least:.0%}"))
    return Table(("architecture", "dtype", "fast kernels", "most registers", "bytes spilled", "least occupancy"), rows)


def _measured(result: dict[str, Any]) -> str:
    report = GpuReport.from_json(result)
    sections = [f"### {title}\n\n{table.markdown()}\n" for title, table in report.tables()]
    return "\n".join([f"On {report.limits.device}.\n", *sections, *(f"{note}\n" for note in report.notes())])


def _checked(result: dict[str, Any]) -> str:
    """A row for each check by compute-sanitizer."""
    header = ("check", "verdict", "errors", "warnings", "cases", "planted mistake")
    rows = [
        (one["check"], one["verdict"], one["errors"], one["warnings"], one["cases"], one["planted"])
        for one in result["checks"]
    ]
    return (
        f"On {result['device']}: one small case of each operator, rung and direction; and, for each check, a kernel "
        "with a mistake of the kind that it is there to find. All but the last give each array memory of its own."
        f"\n\n{Table(header, rows).markdown()}\n"
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> int:
    """Write the page."""
    with atomic_path(options.out) as temporary:
        temporary.write_text(page(options.out.parent), encoding="utf-8")
    return 0
