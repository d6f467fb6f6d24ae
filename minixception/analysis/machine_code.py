"""Compile every CUDA kernel without a GPU and tell what it needs; bench/records/gpu_counts.py writes it down.

1. Which kernels, and for which arguments: the samples of all operators and a step of every optimiser run on a
   fake device, which notes the launches and computes nothing.
2. Each kernel, for each dtype, becomes PTX for three architectures. Numba does it with NVVM: that of the
   package numba-cuda[cu12], or of an installed CUDA toolkit.
3. ptxas, where there is one, makes machine code of the PTX and says how many registers and bytes it takes; from these
   follows the occupancy, the share of a multiprocessor's warps that can be resident at once. Registers that do not fit
   are spilled to memory: slow, and never necessary in a fast kernel.
"""

from __future__ import annotations

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import BackendError
from ..gpu import kernel as gpu
from ..gpu.vectors import Access
from ..tables import Table
from .fake_device import HostArray, dim3
from .kernel_runs import of_operators, others
from .occupancy import ARCHITECTURES, occupancy

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Usage:
    """What ptxas says of one kernel: registers of a thread, and bytes (shared: of a block, the others: of a thread)."""

    registers: int
    shared: int
    stack: int
    spills: int


@dataclass(frozen=True)
class Compiled:
    """One kernel for one dtype and one architecture; ``error`` where it could not be compiled.

    threads: of its largest block. rungs: who launches it, as in "relu cuda". usage: None without ptxas.
    """

    kernel: str
    dtype: str
    architecture: str
    threads: int
    rungs: tuple[str, ...] = ()
    usage: Usage | None = None
    error: str = ""

    @property
    def is_fast(self) -> bool:
        """Whether the fastest rung of an operator launches it; what no rung launches (optimisers) must be fast too."""
        return any(rung.split()[-1] in ("cuda", "cuda_fused") for rung in self.rungs)

    @property
    def occupancy(self) -> float | None:
        """See the function ``occupancy``."""
        if self.usage is None:
            return None
        return occupancy(self.architecture, self.threads, self.usage.registers, self.usage.shared)

    def faults(self) -> list[str]:
        """What is wrong: it does not compile; or it is fast, and spills, or (in float32) fills less than half a GPU."""
        where = f"{self.kernel} {self.dtype} {self.architecture}"
        if self.error:
            return [f"{where}: {self.error}"]
        found = []
        if self.is_fast and self.usage is not None and self.occupancy is not None:
            if self.usage.spills or self.usage.stack:
                found.append(f"{where}: spills {self.usage.spills} bytes, stack frame of {self.usage.stack} bytes")
            if self.dtype == "float32" and self.occupancy < 0.5:
                found.append(f"{where}: occupancy of {self.occupancy:.0%}, {self.usage}, {self.threads} threads")
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"occupancy": self.occupancy}


# 1. Which kernels, for which arguments ----------------------------------------------------------------------------


@dataclass
class Signature:
    """A kernel with the types of its arguments, the largest block it was launched with, and who launched it.

    arguments: (dtype, number of dimensions) each; a tuple is ("tuple", the same for each of its scalars).
    """

    kernel: gpu.Kernel
    dtype: Any  # np.float32 or np.float64
    arguments: tuple[tuple[str, Any], ...]
    threads: int = 0
    rungs: tuple[str, ...] = ()


def _kind(argument: Any) -> tuple[str, Any]:
    if isinstance(argument, tuple):
        return "tuple", tuple(map(_kind, argument))
    if isinstance(argument, HostArray):
        return argument.dtype.name, argument.ndim
    return np.asarray(argument).dtype.name, 0


class LaunchRecorder:
    """A fake device that computes nothing and notes every launch in ``signatures``."""

    def __init__(self) -> None:
        self.signatures: dict[Any, Signature] = {}
        self.rung = ""  # who launches

    def device_array(self, shape: tuple[int, ...], dtype: Any) -> HostArray:
        """Zeros."""
        return HostArray(np.zeros(shape, dtype))

    def to_device(self, array: np.ndarray) -> HostArray:
        """A copy."""
        return HostArray(np.array(array))

    def launch(self, kernel: gpu.Kernel, grid: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        """Note it."""
        dtype, kinds = gpu.element_type(arguments), tuple(map(_kind, arguments))
        seen = self.signatures.setdefault((kernel.name, dtype, kinds), Signature(kernel, dtype, kinds))
        seen.threads = max(seen.threads, math.prod(dim3(grid[1])))
        if self.rung not in seen.rungs:
            seen.rungs += (self.rung,)


def signatures(samples: int = 4) -> list[Signature]:
    """Those of all kernels that operators (``samples`` cases of each), optimisers and training launch."""
    recorder = LaunchRecorder()
    with gpu.redirected(recorder):
        for dtype in DTYPES:
            for rung, run in (*of_operators(dtype, samples), *others(dtype)):
                recorder.rung = rung
                try:
                    run()
                except Exception as error:
                    error.add_note(f"in {rung}, {dtype}")
                    raise
    return list(recorder.signatures.values())


def never_launched(found: Iterable[Signature]) -> list[str]:
    """The package's kernels that no signature was found for: nothing checks them."""
    launched = {signature.kernel.name for signature in found}
    package = __name__.split(".")[0]
    return sorted(name for name in gpu.KERNELS if name.startswith(f"{package}.") and name not in launched)


# 2. PTX --------------------------------------------------------------------------------------------------------


def require_nvvm() -> None:
    """BackendError unless PTX can be made here."""
    if gpu.is_simulated():
        raise BackendError(f"kernels are compiled in a process without the simulator: unset {gpu.VARIABLE}")
    try:
        from numba.cuda.cudadrv.nvvm import NVVM

        NVVM()
    except Exception as error:  # which one differs between Numba and numba-cuda, and between their versions
        raise BackendError(
            "compiling CUDA kernels needs NVIDIA's NVVM library, and none was found. Install "
            "'minixception[cuda]', or set CUDA_HOME to a CUDA toolkit"
        ) from error


@contextmanager
def _pretended_device(capability: tuple[int, int]) -> Iterator[None]:
    """Numba compiles a device function for the GPU it finds; inside of the block it finds this one."""
    dispatcher: Any = importlib.import_module("numba.cuda.dispatcher")
    before = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = before


@cache  # what Numba makes of a helper is linked into many kernels, and is the same for all architectures
def _helper(dtype: Any, source: gpu.Source) -> Any:
    if isinstance(source, Access):
        return source.instruction()
    cuda = gpu.numba_cuda()
    return cuda.jit(device=True)(source.with_names(cuda, dtype, partial(_helper, dtype)))


def ptx(signature: Signature, architecture: str) -> str:
    """The PTX of a kernel; whatever Numba raises, if it cannot be compiled."""
    from numba import from_dtype, types

    cuda = gpu.numba_cuda()
    capability = int(architecture[3:-1]), int(architecture[-1])

    def numba_type(name: str, shape: Any) -> Any:
        if name == "tuple":
            return types.Tuple([numba_type(*kind) for kind in shape])
        scalar = from_dtype(np.dtype(name))
        return types.Array(scalar, shape, "C") if shape else scalar

    with _pretended_device(capability):
        function = signature.kernel.with_names(cuda, signature.dtype, partial(_helper, signature.dtype))
        code, _ = cuda.compile_ptx(function, tuple(numba_type(*one) for one in signature.arguments), cc=capability)
    return str(code)


# 3. ptxas ------------------------------------------------------------------------------------------------------


def find_ptxas() -> str | None:
    """ptxas of an NVIDIA package beside Numba, of CUDA_HOME, or on PATH."""
    folders = [Path(entry) / "nvidia" for entry in sys.path]
    found = [str(file) for folder in folders for file in sorted(folder.glob("*/bin/ptxas*")) if file.is_file()]
    if found:
        return found[0]
    home = os.environ.get("CUDA_HOME")
    return shutil.which("ptxas", path=str(Path(home) / "bin") if home else None) or shutil.which("ptxas")


def assemble(ptxas: str, code: str, architecture: str) -> Usage:
    """Machine code from PTX: what it takes. RuntimeError with what ptxas says if it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(code, encoding="utf-8")
        command = [ptxas, "-v", f"-arch={architecture}", "-o", str(source.with_suffix(".cubin")), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ptxas: {done.stdout}{done.stderr}".strip())
    return read_usage(done.stdout + done.stderr)


def read_usage(text: str) -> Usage:
    """What ``ptxas -v`` printed, of all functions in it.

    >>> read_usage("8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads, Used 32 registers, 64 bytes smem")
    Usage(registers=32, shared=64, stack=8, spills=8)
    """

    def integers(pattern: str) -> list[int]:
        return [int(text) for text in re.findall(pattern, text)]

    return Usage(
        registers=max(integers(r"Used (\d+) registers")),
        shared=max(integers(r"(\d+) bytes smem"), default=0),
        stack=max(integers(r"(\d+) bytes stack frame"), default=0),
        spills=sum(integers(r"(\d+) bytes spill")),
    )


def compile_all(found: Iterable[Signature]) -> list[Compiled]:
    """Compile and assemble each for each architecture; one that fails has its ``error`` set."""
    ptxas = find_ptxas()
    return [_compile(signature, architecture, ptxas) for signature in found for architecture in ARCHITECTURES]


def _compile(signature: Signature, architecture: str, ptxas: str | None) -> Compiled:
    usage, error = None, ""
    try:
        code = ptx(signature, architecture)
        usage = assemble(ptxas, code, architecture) if ptxas else None
    except Exception as problem:  # any of Numba's
        error = f"{type(problem).__name__}: {problem}"
    dtype = np.dtype(signature.dtype).name
    return Compiled(signature.kernel.name, dtype, architecture, signature.threads, signature.rungs, usage, error)


def _share(part: int, parts: int) -> list[Compiled]:
    return compile_all(signatures()[part::parts])


def compile_package() -> list[Compiled]:
    """``compile_all`` of the package's kernels: in as many processes as there are processors, 0.15 s for each row."""
    parts = os.cpu_count() or 1
    with ProcessPoolExecutor(parts, get_context("spawn")) as pool:
        shares = list(pool.map(_share, range(parts), [parts] * parts))
    return sorted((row for share in shares for row in share), key=lambda row: (row.kernel, row.dtype, row.architecture))


def table(rows: Sequence[Compiled]) -> Table:
    """A row for each kernel, dtype and architecture."""
    header = ("kernel", "dtype", "arch", "threads", "registers", "shared", "stack", "spills", "occupancy")
    cells: list[tuple[Any, ...]] = []
    for row in rows:
        first = row.kernel.removeprefix("minixception."), row.dtype, row.architecture, row.threads
        if row.usage is None or row.occupancy is None:
            cells.append((*first, "", "", "", "", "failed" if row.error else "compiled, no ptxas"))
        else:
            use = row.usage
            cells.append((*first, use.registers, use.shared, use.stack, use.spills, f"{row.occupancy:.0%}"))
    return Table(header, cells)


def faults(rows: Iterable[Compiled]) -> list[str]:
    """What is wrong with the package's kernels: those that no sample launches, and what each row says of its own."""
    found = [f"{name}: launched by no sample" for name in never_launched(signatures())]
    return found + [fault for row in rows for fault in row.faults()]
