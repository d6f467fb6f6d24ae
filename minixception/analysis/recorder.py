"""Runs CUDA kernels on the processor and notes every access of every thread to memory.

The recorder takes the place of a GPU. Its notes show what a result does not: how often each element is read, which
addresses the threads of a warp touch together, and where two threads race for one address.
"""

from __future__ import annotations

import dis
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn, Self

import numpy as np

from ..errors import ArgumentError, KernelError
from ..gpu import kernel as gpu
from ..gpu.scheduler import Scheduler, ThreadNames, places, this_thread
from ..gpu.vectors import VECTOR, VECTOR_BYTES, Access
from ..gpu.warps import WARP
from .fake_device import HostArray, dim3

GLOBAL, SHARED = 0, 1
COLUMNS = ("space", "address", "width", "write", "block", "thread", "phase", "warp_phase", "instruction", "ordinal")


class RecordedArray(HostArray):
    """An array whose elements are noted when a kernel reads or writes them; ``address`` is its first byte's."""

    def __init__(self, data: np.ndarray, recorder: Recorder, space: int, address: int) -> None:
        super().__init__(data)
        self._recorder, self._space, self.address = recorder, space, address
        self._width, self._strides = data.itemsize, data.strides

    def __len__(self) -> int:
        return len(self.data)

    def reshape(self, *shape: Any) -> Self:
        """The same memory in another shape."""
        return type(self)(self.data.reshape(*shape), self._recorder, self._space, self.address)

    def _address(self, place: tuple[Any, ...]) -> int:
        address = self.address
        for i, size, stride in zip(place, self.shape, self._strides, strict=False):
            if not 0 <= i < size:
                self._recorder.outside(f"index {tuple(map(int, place))} is outside of an array of shape {self.shape}")
            address += int(i) * stride
        return address

    def __getitem__(self, index: Any) -> Any:
        place = index if isinstance(index, tuple) else (index,)
        address = self._address(place)
        if len(place) < self.ndim:
            return type(self)(self.data[place], self._recorder, self._space, address)
        self._recorder.note(self._space, address, self._width, False)
        return self.data[place]

    def __setitem__(self, index: Any, value: Any) -> None:
        place = index if isinstance(index, tuple) else (index,)
        self._recorder.note(self._space, self._address(place), self._width, True)
        self.data[place] = value

    def load4(self, at: int) -> tuple[Any, ...]:
        """``gpu.vectors.load4``: one access to four elements."""
        elements, address = self._vector(at)
        self._recorder.note(self._space, address, self._width, False, VECTOR)
        return tuple(elements)

    def store4(self, at: int, *values: Any) -> None:
        """``gpu.vectors.store4``."""
        elements, address = self._vector(at)
        self._recorder.note(self._space, address, self._width, True, VECTOR)
        elements[:] = values

    def _vector(self, at: int) -> tuple[np.ndarray, int]:
        """The four elements from a place in the flat array on, and the address of the first."""
        if at % VECTOR or not 0 <= at <= self.size - VECTOR:
            self._recorder.outside(f"no vector of {VECTOR} begins at element {int(at)} of {self.size}")
        return self.data.reshape(-1)[int(at) : int(at) + VECTOR], self.address + int(at) * self._width


@dataclass
class Launch:
    """One kernel run by the recorder.

    grid: blocks and threads, (x, y, z) each. ran: the indices of the blocks that ran. arrays: (name of the argument,
    array). shared: the arrays of a block in shared memory.
    accesses: a row for each element that is accessed, its columns as in ``COLUMNS``. phase counts the block's barriers
    before it, warp_phase its warp's; instruction is a place in the code, and ordinal how often the thread had executed
    it: the elements of a vector have it in common.
    """

    kernel: gpu.Kernel
    grid: tuple[tuple[int, int, int], tuple[int, int, int]]
    ran: Sequence[int]
    arrays: list[tuple[str, RecordedArray]]
    shared: list[RecordedArray] = field(default_factory=list)
    accesses: np.ndarray = field(default_factory=lambda: np.zeros((0, len(COLUMNS)), np.int64))

    def column(self, name: str, rows: Any = slice(None)) -> np.ndarray:
        """A column of ``accesses``, of all rows or of some."""
        return self.accesses[rows, COLUMNS.index(name)]

    def element(self, space: int, address: int) -> str:
        """What lies at an address, as in "x[0, 3]"."""
        shared = [(f"shared array {i}", array) for i, array in enumerate(self.shared)]
        for name, array in shared if space == SHARED else self.arrays:
            if 0 <= address - array.address < array.data.nbytes:
                index = np.unravel_index((address - array.address) // array.dtype.itemsize, array.shape)
                return f"{name}[{', '.join(map(str, index))}]"
        return f"address {address}"


class OutsideError(KernelError):
    """A thread reads or writes outside of an array."""


class Recorder:
    """A fake device that notes what kernels do, for ``gpu.kernel.redirected``.

    blocks: how many blocks of a launch run at most, spread evenly over its grid; None for all of them.
    """

    def __init__(self, blocks: int | None = None) -> None:
        if blocks is not None and blocks < 1:
            raise ArgumentError(f"a recorder runs at least 1 block, got {blocks}")
        self.launches: list[Launch] = []
        self._most_blocks = blocks
        self._block = 0
        self._logs: list[list[tuple[int, ...]]] = []  # of each thread of the block that runs
        self._ordinals: list[dict[int, int]] = []  # how often each thread has executed each instruction
        self._instructions: dict[tuple[int, int], int] = {}  # by code object and offset in it
        self._shared: dict[int, RecordedArray] = {}
        self._kept: list[np.ndarray] = []  # memory is never given back: no address is used twice

    def device_array(self, shape: tuple[int, ...], dtype: Any) -> RecordedArray:
        """A new array."""
        return self.to_device(np.full(shape, _unset(dtype), dtype))

    def to_device(self, array: np.ndarray) -> RecordedArray:
        """A copy that begins at a multiple of 256 bytes, as on a GPU."""
        memory = np.empty(array.nbytes + 256, np.uint8)
        self._kept.append(memory)
        start = -memory.ctypes.data % 256
        data = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        data[...] = array
        return RecordedArray(data, self, GLOBAL, memory.ctypes.data + start)

    def launch(self, kernel: gpu.Kernel, grid: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
        """Run a kernel and add it to ``launches``; KernelError if it can not be run to its end."""
        blocks, threads = dim3(grid[0]), dim3(grid[1])
        count = math.prod(blocks)
        ran = np.linspace(0, count - 1, min(count, self._most_blocks or count)).astype(int).tolist()
        names = kernel.function.__code__.co_varnames
        arrays = [(name, a) for name, a in zip(names, arguments, strict=False) if isinstance(a, RecordedArray)]
        launch = Launch(kernel, (blocks, threads), ran, arrays)
        self.launches.append(launch)
        cuda = CudaNames(self, blocks, threads)
        run = _filled(kernel, cuda, gpu.element_type(arguments))

        def thread() -> None:
            with np.errstate(all="ignore"):  # NaN and Inf are values like others on a GPU
                run(*arguments)

        rows: list[tuple[int, ...]] = []
        where = list(places(blocks))
        with Scheduler(thread, threads) as scheduler:
            for self._block in ran:
                self._shared.clear()
                self._logs = [[] for _ in scheduler.threads]
                self._ordinals = [{} for _ in scheduler.threads]
                try:
                    scheduler.run_block(where[self._block])
                except KernelError as error:
                    raise type(error)(f"{kernel.name}, block {self._block}: {error}") from None
                launch.shared = list(self._shared.values())
                rows += itertools.chain.from_iterable(self._logs)
        if rows:
            launch.accesses = np.array(rows, np.int64)

    def note(self, space: int, address: int, width: int, write: bool, elements: int = 1) -> None:
        """An access of the thread that runs, called by the array that a kernel uses.

        Of several elements: a row for each, and as many executions of the instruction as there are 16 bytes.
        """
        thread, instruction = this_thread(), self._instruction(sys._getframe(2))
        ordinals = self._ordinals[thread.number]
        ordinal = ordinals.get(instruction, 0)
        ordinals[instruction] = ordinal + -(-elements * width // VECTOR_BYTES)
        self._logs[thread.number] += [
            (
                space, address + i * width, width, write, self._block, thread.number, thread.phase, thread.warp_phase,
                instruction, ordinal + i * width // VECTOR_BYTES,
            )
            for i in range(elements)
        ]  # fmt: skip

    def shared_array(self, shape: Any, dtype: Any) -> RecordedArray:
        """The block's array of that place in the code, which is new for the first thread there."""
        place = self._instruction(sys._getframe(2))
        if place not in self._shared:
            end = max((array.address + array.data.nbytes for array in self._shared.values()), default=0)
            data = np.full(shape, _unset(dtype), dtype)
            self._shared[place] = RecordedArray(data, self, SHARED, -(-end // 16) * 16)
        return self._shared[place]

    def _instruction(self, frame: FrameType) -> int:
        """The instruction that a frame executes, as an index of ours."""
        code, offset = frame.f_code, frame.f_lasti
        if (found := self._instructions.get((id(code), offset))) is None:
            # Once Python has specialised an instruction, f_lasti may point into the cache entries behind it.
            start = max(one.offset for one in dis.get_instructions(code) if one.offset <= offset)
            found = self._instructions.setdefault((id(code), start), len(self._instructions))
            self._instructions[id(code), offset] = found
        return found

    def outside(self, text: str) -> None:
        """OutsideError of the thread that runs."""
        raise OutsideError(f"thread {this_thread().number}: {text}")


class CudaNames(ThreadNames):
    """What ``cuda`` stands for in a kernel that is recorded: the names of numba.cuda that kernels use."""

    warpsize = WARP

    def __init__(self, recorder: Recorder, blocks: tuple[int, int, int], threads: tuple[int, int, int]) -> None:
        self.gridDim = SimpleNamespace(**dict(zip("xyz", blocks, strict=True)))
        self.blockDim = SimpleNamespace(**dict(zip("xyz", threads, strict=True)))
        self.shared = SimpleNamespace(array=lambda shape, dtype: recorder.shared_array(shape, dtype))
        self.local = SimpleNamespace(array=lambda shape, dtype: np.full(shape, _unset(dtype), dtype))

    def __getattr__(self, name: str) -> NoReturn:
        raise ArgumentError(f"the recorder does not know cuda.{name}: see CudaNames in {__name__}")

    @property
    def threadIdx(self) -> SimpleNamespace:
        """The place of the thread in its block."""
        return this_thread().threadIdx

    @property
    def blockIdx(self) -> SimpleNamespace:
        """The place of its block in the grid."""
        return this_thread().blockIdx

    def grid(self, dimensions: int) -> Any:
        """The place of the thread in the whole grid: an index, or a tuple for two or three dimensions."""
        thread, block, size = self.threadIdx, self.blockIdx, self.blockDim
        found = [getattr(block, i) * getattr(size, i) + getattr(thread, i) for i in "xyz"[:dimensions]]
        return found[0] if dimensions == 1 else tuple(found)

    def gridsize(self, dimensions: int) -> Any:
        """How many threads the grid has along each dimension."""
        found = [getattr(self.gridDim, i) * getattr(self.blockDim, i) for i in "xyz"[:dimensions]]
        return found[0] if dimensions == 1 else tuple(found)


def _unset(dtype: Any) -> Any:
    """What new memory is filled with: NaN, so that it shows in a result; 0 for integers."""
    return np.nan if np.dtype(dtype).kind == "f" else 0


def _filled(source: gpu.Source, cuda: CudaNames, dtype: Any) -> Callable[..., Any]:
    """A kernel or a helper as a plain Python function."""
    if isinstance(source, Access):
        return getattr(RecordedArray, source.function.__name__)
    return source.with_names(cuda, dtype, lambda helper: _filled(helper, cuda, dtype))
