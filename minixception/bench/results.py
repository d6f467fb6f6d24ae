"""Result files: every figure in the docs comes from one, with the machine and the versions it was measured on."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ..cpu.simd import REGISTER_BYTES
from ..errors import ArgumentError
from ..files import atomic_path

_MALLOC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def machine() -> dict[str, Any]:
    """Processor, vector width, cores and system of this machine, and how its memory and waiting threads are set.

    >>> machine()["cores"] >= 1
    True
    """
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "simd_bits": 8 * REGISTER_BYTES,
        "system": f"{platform.system()} {platform.machine()}",
        "malloc": "tuned" if all(name in os.environ for name in _MALLOC) else "default",
        "gomp_spincount": os.environ.get("GOMP_SPINCOUNT", "default"),
    }


def write_result(path: Path, command: str, figures: dict[str, Any], packages: tuple[str, ...] = ()) -> None:
    """Write figures as JSON with the command that makes them, machine, versions and date; whole or not at all."""
    named = ("numpy", "numba", "llvmlite", *packages)
    result = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in named}},
        **figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")


def results_folder() -> Path:
    """Where the committed result files lie: docs/results of a clone, or their copy in an installed package.

    >>> (results_folder() / "ladder.json").exists()
    True
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "results"
    return installed if installed.exists() else package.parent / "docs" / "results"


def read_result(name: str) -> dict[str, Any]:
    """The figures of one committed result file; ArgumentError if there is none of that name.

    >>> read_result("ladder")["limits"]["dtype"]
    'float32'
    """
    path = results_folder() / f"{name}.json"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in results_folder().glob("*.json"))) or "none"
        raise ArgumentError(f"there is no result {name!r}; there are {known}")
    result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return result


def _processor() -> str:
    """The processor's name; on Linux from /proc/cpuinfo, because platform.processor() is empty there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
