"""What this machine offers the package, and what to do about what it does not."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .tables import Table


@dataclass(frozen=True)
class Report:
    """(name, value) pairs that were found, and advice in full sentences."""

    facts: list[tuple[str, str]]
    advice: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"facts": dict(self.facts), "advice": self.advice}

    def __str__(self) -> str:
        advice = "\n".join(f"- {line}" for line in self.advice) or "- Nothing: all is well. Try: minixception demo"
        return f"{Table(('what', 'value'), self.facts)}\n\nWhat to do next\n{advice}"


def examine() -> Report:
    """Versions, threads, vector width, GPU and cache folder of this machine. Compiles one small kernel.

    >>> "threads" in dict(examine().facts)
    True
    """
    import llvmlite
    import numba

    from . import __version__
    from .kernels.simd import REGISTER_BYTES, lanes
    from .op import RandomDraw
    from .ops import OPERATORS
    from .ops.depthwise.cpu import _forward as kernel

    case = OPERATORS["depthwise_conv2d"].sample(RandomDraw(0, np.float32))
    OPERATORS["depthwise_conv2d"].rungs["cpu"].forward(*case.arrays, **case.params)  # starts the threading layer
    cache = Path(kernel.stats.cache_path)
    root = _cache_root(cache)
    compiled = len(list(root.rglob("*.nbc")))
    facts = [
        ("minixception", __version__),
        ("Python", f"{platform.python_version()} ({platform.system()}, {platform.machine()})"),
        ("NumPy", np.__version__),
        ("Numba", f"{numba.__version__}, llvmlite {llvmlite.__version__}"),
        ("cores", str(os.cpu_count())),
        ("threads", f"{numba.get_num_threads()} of at most {numba.config.NUMBA_NUM_THREADS}"),
        ("threading layer", numba.threading_layer()),
        (
            "vector registers",
            f"{8 * REGISTER_BYTES} bits: {lanes(np.float32)} float32, {lanes(np.float64)} float64",
        ),
        ("GPU", _gpu()),
        ("kernel cache", f"{root}, {compiled} compiled kernels"),
    ]
    return Report(facts, _advice(numba, compiled, cache))


def _cache_root(cache: Path) -> Path:
    """The folder that holds the compiled kernels of all files, from the one of a single file."""
    package = Path(__file__).parent
    return package if cache.is_relative_to(package) else cache.parent  # in __pycache__ folders, or all in one place


def _gpu() -> str:
    """The GPU that kernels would run on."""
    from .kernels.gpu import is_simulated, numba_cuda

    if is_simulated():
        return "Numba's simulator, which runs the kernels without one, slowly"
    cuda = numba_cuda()
    if not cuda.is_available():
        return "none that Numba can use"
    return str(cuda.get_current_device().name.decode())


def _advice(numba: Any, compiled: int, cache: Path) -> list[str]:
    advice = []
    if compiled < len(_cpu_rungs()):
        advice.append("Most kernels are not compiled yet. Run: minixception warmup")
    if numba.get_num_threads() < (os.cpu_count() or 1):
        advice.append(f"Only {numba.get_num_threads()} of {os.cpu_count()} cores are used. Unset NUMBA_NUM_THREADS.")
    if not os.access(cache if cache.exists() else cache.parent, os.W_OK):
        advice.append(f"{cache} cannot be written to, so kernels compile anew every time. Set NUMBA_CACHE_DIR.")
    return advice


def _cpu_rungs() -> list[str]:
    from .ops import OPERATORS

    return [name for name, op in OPERATORS.items() if "cpu" in op.rungs]
