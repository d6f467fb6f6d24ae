"""What ``cuda`` stands for in a kernel that is recorded: the names of numba.cuda that kernels use."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..errors import ArgumentError
from ..gpu.warps import WARP, WarpNames

if TYPE_CHECKING:
    from .recorder import Recorder

_AXES = ("x", "y", "z")


class CudaNames(WarpNames):
    """threadIdx, grid, syncthreads, shared.array: their meaning for the thread whose turn it is."""

    warpsize = WARP

    def __init__(self, recorder: Recorder, blocks: tuple[int, int, int], threads: tuple[int, int, int]) -> None:
        self._recorder = recorder
        self.gridDim = SimpleNamespace(**dict(zip(_AXES, blocks, strict=True)))
        self.blockDim = SimpleNamespace(**dict(zip(_AXES, threads, strict=True)))
        self.blockIdx = SimpleNamespace()  # the recorder sets it
        self.shared = SimpleNamespace(array=lambda shape, dtype: recorder.shared_array(shape, dtype))
        self.local = SimpleNamespace(array=lambda shape, dtype: np.full(shape, unset(dtype), dtype))

    def __getattr__(self, name: str) -> NoReturn:
        raise ArgumentError(f"the recorder does not know cuda.{name}: see minixception/analysis/names.py")

    @property
    def threadIdx(self) -> SimpleNamespace:
        """The place of the thread in its block."""
        return self._recorder.turns.now.place

    @property
    def laneid(self) -> int:
        """The number of the thread in its warp."""
        return self._recorder.turns.now.lane

    def grid(self, dimensions: int) -> Any:
        """The place of the thread in the whole grid: a number, or a tuple for two or three dimensions."""
        place = self.threadIdx
        found = [
            getattr(self.blockIdx, axis) * getattr(self.blockDim, axis) + getattr(place, axis)
            for axis in _AXES[:dimensions]
        ]
        return found[0] if dimensions == 1 else tuple(found)

    def gridsize(self, dimensions: int) -> Any:
        """How many threads the grid has along each dimension."""
        found = [getattr(self.gridDim, axis) * getattr(self.blockDim, axis) for axis in _AXES[:dimensions]]
        return found[0] if dimensions == 1 else tuple(found)

    def syncthreads(self) -> None:
        """Wait for the block."""
        self._recorder.turns.wait("block", sys._getframe(1).f_lineno)

    def wait_for_warp(self, line: int, mask: int, offer: Any, source: int) -> Any:
        """Wait for lanes of the warp."""
        return self._recorder.turns.wait("warp", line, mask, offer, source)


def unset(dtype: Any) -> Any:
    """What new memory is filled with: NaN, so that it shows in a result; 0 for integers."""
    return np.nan if np.dtype(dtype).kind == "f" else 0
