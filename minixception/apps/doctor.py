"""What this machine offers the package, and what to do about what it does not."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BackendError
from ..tables import Table


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
    """Versions, threads, vector width, GPU and cache folder of this machine. Compiles one small kernel for the CPU.

    >>> "threads" in dict(examine().facts)
    True
    """
    import llvmlite
    import numba

    from ..cpu.simd import REGISTER_BYTES, lanes
    from ..engine.op import RandomDraw
    from ..ops import OPERATORS
    from ..ops.depthwise.cpu import _forward_loops as kernel

    case = OPERATORS["depthwise_conv2d"].sample(RandomDraw(0, np.float32))
    OPERATORS["depthwise_conv2d"].rungs["cpu"].forward(*case.arrays, **case.params)  # starts the threading layer
    cache = kernel.stats.cache_path and Path(kernel.stats.cache_path)  # None where Numba finds no folder to write to
    root = cache and _cache_root(cache)
    compiled = len(list(root.rglob("*.nbc"))) if root else 0
    facts = [
        ("minixception", version("minixception")),
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
        *_gpu_facts(),
        ("kernel cache", f"{root}, {compiled} compiled kernels" if root else "none: no folder can be written to"),
    ]
    return Report(facts, _advice(numba, compiled, cache))


def _cache_root(cache: Path) -> Path:
    """The folder that holds the compiled kernels of all files, from the one of a single file."""
    package = Path(__file__).parents[1]
    return package if cache.is_relative_to(package) else cache.parent  # in __pycache__ folders, or all in one place


def _gpu_facts() -> list[tuple[str, str]]:
    """Which numba.cuda there is, and what its kernels would run on or why they cannot."""
    from ..gpu.kernel import is_simulated, numba_cuda

    try:
        cuda = numba_cuda()
    except (BackendError, ImportError) as error:
        return [("numba.cuda", "cannot be imported"), ("GPU", f"none: {_first_line(error)}")]
    package = "numba-cuda" if _is_nvidias(cuda) else "numba"
    source = f"of the package {package} {version(package)}"
    if is_simulated():
        return [("numba.cuda", f"{source}, its simulator"), ("GPU", "none: the simulator runs the kernels, slowly")]
    return [("numba.cuda", source), ("GPU", _gpu(cuda))]


def _gpu(cuda: Any) -> str:
    """Name, compute capability and memory of the GPU, or in one line why there is none; and what it takes to use it."""
    try:
        usable = cuda.is_available() and _is_nvidias(cuda)  # the first also starts the driver
        if error := cuda.cuda_error():
            return f"none: {_first_line(error)}"
        device = cuda.get_current_device()
        memory = cuda.current_context().get_memory_info().total
    except Exception as error:  # what a driver raises depends on what it lacks
        return f"none: {_first_line(error)}"
    name = device.name if isinstance(device.name, str) else device.name.decode()  # bytes in Numba's own numba.cuda
    major, minor = device.compute_capability
    found = f"{name}, compute capability {major}.{minor}, {memory / 2**30:.1f} GiB"
    missing = "to use it: make setup CUDA=1 in a clone, elsewhere pip install 'minixception[cuda]'"
    return found if usable else f"{found}; without numba-cuda and NVVM {missing}"


def _is_nvidias(cuda: Any) -> bool:
    """Whether it is the package numba-cuda; of Numba's own, the package uses the simulator alone."""
    return getattr(cuda, "implementation", "") == "NVIDIA"


def _first_line(error: object) -> str:
    """The first line of an error's text that says something; the error's kind if none does."""
    return next((text for line in str(error).splitlines() if (text := line.strip(" .:"))), type(error).__name__)


def _advice(numba: Any, compiled: int, cache: Path | None) -> list[str]:
    advice = []
    if cache and compiled < len(_cpu_rungs()):
        advice.append("Most kernels are not compiled yet. Run: minixception warmup")
    if numba.get_num_threads() < (os.cpu_count() or 1):
        advice.append(f"Only {numba.get_num_threads()} of {os.cpu_count()} cores are used. Unset NUMBA_NUM_THREADS.")
    if numba.threading_layer() == "workqueue":
        advice.append("On workqueue, kernels of several Python threads wait for each other. Run: pip install tbb")
    if not cache or not os.access(cache if cache.exists() else cache.parent, os.W_OK):
        folder = cache or "The folder for compiled kernels"
        advice.append(f"{folder} cannot be written to, so kernels compile anew every time. Set NUMBA_CACHE_DIR.")
    return advice


def _cpu_rungs() -> list[str]:
    from ..ops import OPERATORS

    return [name for name, op in OPERATORS.items() if "cpu" in op.rungs]
