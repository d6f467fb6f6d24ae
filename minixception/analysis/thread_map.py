"""One block of a trace as planes of the input: how often each element is read, and which thread writes over it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..engine.op import Case
from ..ops.window import extents
from ..viz.cuda_threads import ThreadPanel
from .recorder import GLOBAL, Launch, RecordedArray

MOST_CELLS = 64  # along each side of a panel


def panels(launches: Sequence[Launch], case: Case, x: RecordedArray, y: RecordedArray) -> list[ThreadPanel]:
    """Of x (n, h, w, c): rows and columns of one channel, columns and channels of one row; of other x, all of it.

    launches: of an operator's forward pass on the arrays x and y. The launch that is drawn is one that reads x and
    writes y, if there is one, and the block the middle one of those that ran.
    """

    def interest(launch: Launch) -> tuple[int, int]:
        reads, writes = _touches(launch, x, write=False), _touches(launch, y, write=True)
        return int(np.sum(reads) > 0) + int(np.sum(writes) > 0), int(np.sum(reads))

    launch = max(launches, key=interest)
    reads, writers = _reads(launch, x), _writers(launch, case, x, y)
    if x.ndim < 4:
        c = x.shape[-1]
        return [_panel("all of x", reads.reshape(-1, c), writers.reshape(-1, c), ("row", "channel"))]
    n, i, _, c = np.argwhere(writers >= 0)[0] if (writers >= 0).any() else np.argwhere(reads)[0]
    return [
        _panel(f"channel {c}", reads[n, :, :, c], writers[n, :, :, c], ("row", "column")),
        _panel(f"row {i}", reads[n, i], writers[n, i], ("column", "channel")),
    ]


def _touches(launch: Launch, array: RecordedArray, write: bool) -> np.ndarray:
    """Which accesses of the launch's middle block are to this array: (accesses,)."""
    address = launch.column("address")
    inside = (address >= array.address) & (address < array.address + array.data.nbytes)
    block = launch.ran[len(launch.ran) // 2]
    space = launch.column("space") == GLOBAL
    return space & inside & (launch.column("block") == block) & (launch.column("write") == write)


def _elements(launch: Launch, array: RecordedArray, rows: np.ndarray) -> np.ndarray:
    """The flat index in the array of each of these accesses."""
    return (launch.column("address", rows) - array.address) // array.dtype.itemsize


def _reads(launch: Launch, x: RecordedArray) -> np.ndarray:
    """How often the block reads each element of x."""
    return np.bincount(_elements(launch, x, _touches(launch, x, write=False)), minlength=x.size).reshape(x.shape)


def _writers(launch: Launch, case: Case, x: RecordedArray, y: RecordedArray) -> np.ndarray:
    """Which thread writes the output whose window has its middle at each element of x, or -1 for none of the block."""
    found: np.ndarray = np.full(x.shape, -1)
    if y.ndim != x.ndim:
        return found
    rows = _touches(launch, y, write=True)
    place: tuple[Any, ...] = np.unravel_index(_elements(launch, y, rows), y.shape)
    if y.ndim == 4:
        middle = _middles(case)
        place = (place[0], *(first + step * i for (first, step), i in zip(middle, place[1:3], strict=True)), place[3])
    inside = np.all([i < size for i, size in zip(place, x.shape, strict=True)], axis=0)
    found[tuple(i[inside] for i in place)] = launch.column("thread", rows)[inside]
    return found


def _middles(case: Case) -> list[tuple[int, int]]:
    """Where in the image the middle of the first window is, and how far it is to the next, down and across."""
    params, (x, *w) = case.params, case.arrays[:2]
    kernel = w[0].shape[:2] if "padding" in params and w else (1, 1)
    stride = params.get("stride", 1)
    found = extents(x.shape, kernel, stride, params.get("padding", "same"))
    return [(max((k - 1) // 2 - before, 0), stride) for k, (_, before) in zip(kernel, found, strict=True)]


def _panel(title: str, reads: np.ndarray, writers: np.ndarray, axes: tuple[str, str]) -> ThreadPanel:
    """What the block touches of a plane, and a cell around it."""
    cells = np.argwhere((reads > 0) | (writers >= 0))
    low = np.maximum(cells.min(axis=0) - 1, 0)
    high = np.minimum(np.minimum(cells.max(axis=0) + 2, reads.shape), low + MOST_CELLS)
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return ThreadPanel(title, reads[part], writers[part], axes, (int(low[0]), int(low[1])))
