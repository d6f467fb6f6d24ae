"""What ``cuda`` stands for in a kernel that is recorded: the names of numba.cuda that kernels use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..errors import ArgumentError, KernelError
from .turns import ALL_LANES, WARP, CudaThread

if TYPE_CHECKING:
    from .recorder import Recorder

_AXES = ("x", "y", "z")


class CudaNames:
    """threadIdx, grid, syncthreads, shared.array, shuffles: their meaning for the thread whose turn it is."""

    warpsize = WARP

    def __init__(self, recorder: Recorder, blocks: tuple[int, int, int], threads: tuple[int, int, int]) -> None:
        self._recorder = recorder
        self.gridDim = SimpleNamespace(**dict(zip(_AXES, blocks, strict=True)))
        self.blockDim = SimpleNamespace(**dict(zip(_AXES, threads, strict=True)))
        self.blockIdx = SimpleNamespace()  # the recorder sets it
        self.shared = SimpleNamespace(array=lambda shape, dtype: recorder.shared_array(shape, dtype))
        self.local = SimpleNamespace(array=lambda shape, dtype: np.full(shape, unset(dtype), dtype))

    def __getattr__(self, name: str) -> NoReturn:
        raise ArgumentError(f"the recorder does not know cuda.{name}: see minixception/lab/names.py")

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
        self._recorder.turns.wait("block")

    def syncwarp(self, mask: int = ALL_LANES) -> None:
        """Wait for the warp."""
        self._recorder.turns.wait("warp", mask)

    def shfl_sync(self, mask: int, value: Any, lane: int) -> Any:
        """The value of one lane."""
        return self._recorder.turns.wait("warp", mask, value, self._from(lambda _: lane))

    def shfl_up_sync(self, mask: int, value: Any, delta: int) -> Any:
        """The value of the lane so many below; the lowest lanes keep their own."""
        return self._recorder.turns.wait("warp", mask, value, self._from(lambda me: me - delta))

    def shfl_down_sync(self, mask: int, value: Any, delta: int) -> Any:
        """The value of the lane so many above; the highest lanes keep their own."""
        return self._recorder.turns.wait("warp", mask, value, self._from(lambda me: me + delta))

    def shfl_xor_sync(self, mask: int, value: Any, flip: int) -> Any:
        """The value of the lane whose number differs in these bits."""
        return self._recorder.turns.wait("warp", mask, value, self._from(lambda me: me ^ flip))

    def _from(self, source: Callable[[int], int]) -> Callable[[Sequence[CudaThread]], Any]:
        """What the thread takes in a shuffle: the offer of the lane ``source`` names."""
        me = self._recorder.turns.now

        def take(lanes: Sequence[CudaThread]) -> Any:
            wanted = source(me.lane)
            if not 0 <= wanted < WARP:
                return me.offer
            for lane in lanes:
                if lane.lane == wanted and me.mask >> wanted & 1:
                    return lane.offer
            raise KernelError(
                f"thread {me.number} takes the value of lane {wanted}, which takes no part in the shuffle"
            )

        return take


def unset(dtype: Any) -> Any:
    """What new memory is filled with: NaN, so that it shows in a result; 0 for integers."""
    return np.nan if np.dtype(dtype).kind == "f" else 0
