"""How CUDA kernels are written, compiled and launched: one decorator, and the one place that imports numba.cuda.

A kernel is a plain function that says what one thread does:

    @kernel
    def _scale(x, factor, y):
        i = cuda.grid(1)  # this thread's index in the whole grid
        if i < x.size:
            y[i] = x[i] * factor

    _scale[blocks(n), THREADS](x, dtype.type(2), y)

Two names in it are placeholders, filled in when the kernel is made: ``cuda`` and, as in ``dtype(0)`` or
``cuda.shared.array(32, dtype)``, ``dtype``, that of the first float array it is launched on. So one source serves
float32 and float64, a GPU, Numba's simulator, and whoever wants to watch what its threads do.

MINIXCEPTION_CUDA=simulator in the environment chooses Numba's simulator: each CUDA thread becomes a Python thread.
Slow, but it runs anywhere, can be stepped through, and checks every index.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from types import CellType, FunctionType, SimpleNamespace
from typing import Any

import numpy as np

from ..cpu.cache import make_careful, stamp_of
from ..cpu.jit import closure_name
from ..errors import BackendError
from .launch import Grid, Launcher
from .memory import GpuMemory, Pool, SimulatedMemory
from .simulator import SimulatedCuda, take_turns

VARIABLE = "MINIXCEPTION_CUDA"
THREADS = 128  # per block where a kernel has no reason for more or fewer: four warps, enough of them fit anywhere

cuda: Any = None  # in kernels: numba.cuda
dtype: Any = None  # in kernels: the type of the elements

KERNELS: dict[str, Kernel] = {}  # all of them, by module and name
_machine: Any = None  # a stand-in for a GPU: see analysis/fake_device.py
_recording: Any = None  # what notes launches and copies: see graph.py


def numba_cuda() -> Any:
    """numba.cuda: of the package numba-cuda if it is installed, else Numba's own; its simulator if that is asked for.

    Inside of ``redirected`` it is the stand-in. BackendError for another value of MINIXCEPTION_CUDA, or where the
    simulator comes too late.
    """
    return _imported_numba_cuda() if _machine is None else _machine


@cache
def _imported_numba_cuda() -> Any:
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in ("", "simulator"):
        raise BackendError(f"{VARIABLE} must be 'simulator' or empty, got {wanted!r}")
    import numba

    if wanted == "simulator" and not numba.config.ENABLE_CUDASIM:
        if "numba.cuda" in sys.modules:
            raise BackendError(
                f"{VARIABLE}=simulator comes too late: numba.cuda was imported before. Set NUMBA_ENABLE_CUDASIM=1 as "
                "well, or let minixception import it"
            )
        numba.config.ENABLE_CUDASIM = 1
    from numba import cuda

    if numba.config.ENABLE_CUDASIM:
        take_turns()
    numba.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # a small array has a small grid, and nothing is wrong with that
    return cuda


def is_simulated() -> bool:
    """Whether kernels run in Numba's simulator.

    >>> is_simulated() == (os.environ.get("MINIXCEPTION_CUDA") == "simulator")
    True
    """
    import numba

    numba_cuda()
    return bool(numba.config.ENABLE_CUDASIM)


def is_available() -> bool:
    """Whether kernels can run: on a GPU or in the simulator."""
    return is_simulated() or (find_spec("numba_cuda") is not None and bool(numba_cuda().is_available()))


def require_gpu() -> None:
    """BackendError, saying what to do, unless kernels can run."""
    if not is_available():
        raise BackendError(
            "backend 'cuda' needs an NVIDIA GPU with its driver, and pip install 'minixception[cuda]': one of them was "
            f"not found. To run the same kernels without, slowly, start Python with {VARIABLE}=simulator set"
        )


class Source:
    """A function with placeholders, and what was compiled from it, for each dtype."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._made: dict[Any, Any] = {}
        closure = closure_name(function)
        self.__doc__, self.__qualname__ = function.__doc__, function.__qualname__ + closure
        self._tag = f"_{zlib.crc32(closure.encode()):08x}" if closure else ""  # short enough for the name of a file

    @property
    def name(self) -> str:
        """Module and name."""
        return f"{self.function.__module__}.{self.__qualname__}"

    def with_names(self, cuda: Any, dtype: Any, helper: Callable[[Source], Any]) -> Callable[..., Any]:
        """The function with its placeholders filled in; ``helper`` makes what stands for each ``device_function``."""
        f = self.function
        assert isinstance(f, FunctionType)

        def filled(value: Any) -> Any:
            return helper(value) if isinstance(value, Source) else value

        used = f.__code__.co_names
        names = {name: filled(value) for name, value in (_BUILTINS | f.__globals__).items() if name in used}
        names |= {"cuda": cuda, "dtype": dtype, "__name__": f.__module__}
        cells = tuple(CellType(filled(cell.cell_contents)) for cell in f.__closure__ or ())
        made = FunctionType(f.__code__, names, f.__name__, f.__defaults__, cells)
        made.__qualname__, made.__module__ = f.__qualname__ + self._tag, f.__module__
        return made

    def made_for(self, dtype: Any) -> Any:
        """Compiled for one dtype, np.float32 or np.float64, or made for the simulator; once."""
        if dtype not in self._made:
            simulated = is_simulated()
            cuda = SimulatedCuda() if simulated else numba_cuda()
            function = self.with_names(cuda, dtype, lambda source: source.made_for(dtype))
            plain = simulated and self.is_helper
            self._made[dtype] = function if plain else numba_cuda().jit(device=self.is_helper)(function)
            if not simulated and not self.is_helper:
                _keep_on_disk(self._made[dtype])
        return self._made[dtype]

    is_helper = True


def _keep_on_disk(dispatcher: Any) -> None:
    """Cache what is compiled; any edit of the package makes it stale, for kernels call helpers of other files."""
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no folder that the cache could be written to
        return
    make_careful(dispatcher, _sources_stamp())
    # What a kernel closes over stands in the file's name. Numba's own key would hold random numbers of intrinsics.
    code = dispatcher.py_func.__code__
    dispatcher._cache._py_func = SimpleNamespace(__code__=code, __closure__=None)


@cache
def _sources_stamp() -> str:
    return stamp_of(Path(__file__).parents[1].rglob("*.py"))


class Kernel(Source):
    """A CUDA kernel: ``kernel[blocks, threads](*arguments)`` runs it on arrays of the device."""

    is_helper = False

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        assert self.name not in KERNELS, f"two kernels are called {self.name}"
        KERNELS[self.name] = self
        self._launcher = Launcher(self._compiled_for)

    def __getitem__(self, grid: Grid) -> Callable[..., None]:
        return partial(self._launch, grid)

    def _launch(self, grid: Grid, *arguments: Any) -> None:
        if _machine is not None:
            _machine.launch(self, grid, arguments)
        else:
            queue(partial(self._simulated if is_simulated() else self._launcher, grid, stream()), arguments)

    def _simulated(self, grid: Grid, stream: Any, arguments: Sequence[Any]) -> None:
        """Run by the simulator."""
        self.made_for(element_type(arguments))[(*grid, stream)](*arguments)

    def _compiled_for(self, arguments: Sequence[Any]) -> Any:
        """The driver's kernel for such arguments."""
        dispatcher = self.made_for(element_type(arguments))
        types = tuple(map(dispatcher.typeof_pyval, arguments))
        return dispatcher.compile(types).library.get_cufunc().kernel


def element_type(arguments: Sequence[Any]) -> type[np.floating[Any]]:
    """What ``dtype`` stands for in a kernel launched on these arguments; float32 where no array holds floats."""
    floats = (a.dtype.type for a in arguments if getattr(a, "ndim", 0) and a.dtype.kind == "f")
    return next(floats, np.float32)


def kernel(function: Callable[..., Any]) -> Kernel:
    """Make a CUDA kernel of a function that says what one thread does; see the head of this file."""
    return Kernel(function)


def device_function(function: Callable[..., Any]) -> Any:
    """Make a helper that kernels may call; ``cuda`` and ``dtype`` in it are placeholders too."""
    return Source(function)


def blocks(items: int, threads: int = THREADS) -> int:
    """How many blocks of so many threads have at least one thread for each item.

    >>> blocks(1000, 128)
    8
    """
    return -(-items // threads)


# Python's min and max of two: Numba 0.68's own CUDA target cannot compile them, and libdevice's pass over a NaN.


@device_function
def smaller(a: Any, b: Any) -> Any:
    """What ``min(a, b)`` means in a kernel."""
    return b if b < a else a


@device_function
def larger(a: Any, b: Any) -> Any:
    """What ``max(a, b)`` means in a kernel."""
    return b if b > a else a


_BUILTINS = {"min": smaller, "max": larger}


@contextmanager
def redirected(machine: Any) -> Iterator[None]:
    """Send new arrays, copies and launches inside of the block to ``machine``; not for several threads at once."""
    global _machine
    before, _machine = _machine, machine
    try:
        yield
    finally:
        _machine = before


def is_redirected() -> bool:
    """Whether this is inside of ``redirected``."""
    return _machine is not None


def record(recording: Any) -> None:
    """From now on give this what is queued, and take new arrays from its pool; None ends it. See graph.py."""
    global _recording
    _recording = recording


def recording() -> Any:
    """What notes launches and copies here; None where they just run."""
    return _recording


def require_running(what: str) -> None:
    """RecordingError where work is recorded and not run, and this cannot be done."""
    if _recording is not None:
        _recording.refuse(what)


def queue(work: Callable[[Sequence[Any]], None], arguments: Sequence[Any]) -> None:
    """Call work(arguments), which queues a launch or a copy, or let it be noted."""
    if _recording is None:
        work(arguments)
    else:
        _recording.note(work, arguments)


def flat(array: Any) -> Any:
    """The elements of a device array, one after the other: a view of one dimension."""
    return array if array.ndim == 1 else array.reshape(array.size)


def elementwise(kernel: Kernel, *arrays: Any) -> Any:
    """Run a kernel of one thread per element on flat views of the arrays and of a new one, which it returns."""
    out = empty(arrays[0].shape, arrays[0].dtype)
    if out.size:
        kernel[blocks(out.size), THREADS](*map(flat, (*arrays, out)))
    return out


def stream() -> Any:
    """The stream in which all kernels and copies of the package are queued, in the order they were launched.

    A stream is a queue: the processor puts work in and goes on. ``synchronize`` waits until it is done. This one is not
    the default stream, but CUDA orders the two: work that other libraries put into the default stream and ours run one
    after the other. 0 inside of ``redirected``.
    """
    return 0 if _machine is not None else _made_stream()


@cache
def _made_stream() -> Any:
    return _imported_numba_cuda().stream()


def synchronize() -> None:
    """Wait until the GPU has done all the work that was queued; RecordingError where it is recorded, not run."""
    require_running("wait for the GPU")
    if _machine is None:
        stream().synchronize()


@cache
def pool() -> Pool:
    """The memory of the GPU's arrays: see gpu/memory.py."""
    cuda = _imported_numba_cuda()
    import numba

    return Pool(SimulatedMemory() if numba.config.ENABLE_CUDASIM else GpuMemory(cuda))


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialised C-contiguous array on the device, from the pool; DeviceMemoryError where no memory is left."""
    if _machine is not None:
        return _machine.device_array(shape, np.dtype(dtype))
    return (pool() if _recording is None else _recording.pool).empty(shape, dtype)
