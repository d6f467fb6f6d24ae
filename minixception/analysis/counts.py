"""What the accesses that a recorder noted amount to: traffic, coalescing, bank conflicts and races of one launch.

Accesses that the 32 threads of a warp make by the same instruction, each for the same time, are taken as one access
of the warp. A thread that skips an iteration is one behind the others from there on, so that counts of kernels
whose warps diverge are estimates.

Global memory moves in sectors of 32 bytes: 32 neighbouring float32 are 4 sectors, 32 scattered ones 32. Shared memory
has 32 banks of 4 bytes, and serves one word of each bank at a time: a warp's access takes as many passes
("wavefronts") as the most words it wants of one bank. Threads that read the same word share it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..gpu.warps import WARP
from .recorder import GLOBAL, SHARED, Launch

SECTOR, BANKS, WORD = 32, 32, 4  # bytes, how many, bytes


@dataclass(frozen=True)
class Counts:
    """One launch, or several together, for all blocks of the grid; where only some ran, the others count like them.

    Reads and writes are those of single threads, accesses those of warps. sectors: moved between global memory and the
    warps; ideal_sectors: as many as hold the bytes they use. wavefronts: passes of shared memory; ideal_wavefronts:
    without bank conflicts.
    """

    global_reads: float = 0
    global_writes: float = 0
    shared_reads: float = 0
    shared_writes: float = 0
    global_accesses: float = 0
    sectors: float = 0
    ideal_sectors: float = 0
    shared_accesses: float = 0
    wavefronts: float = 0
    ideal_wavefronts: float = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def sectors_per_access(self) -> float:
        """Sectors per access of a warp to global memory: 4 for a full warp of float32 side by side, 32 at worst."""
        return self.sectors / self.global_accesses if self.global_accesses else 0.0

    @property
    def coalescing(self) -> float:
        """The share of the moved bytes that is used, were each warp's access alone: 1 is ideal."""
        return self.ideal_sectors / self.sectors if self.sectors else 1.0

    @property
    def conflicts(self) -> float:
        """How many times longer shared memory takes than without bank conflicts: 1 is ideal, 32 the worst."""
        return self.wavefronts / self.ideal_wavefronts if self.ideal_wavefronts else 1.0


def count(launch: Launch) -> Counts:
    """The counts of a launch. Sorts its accesses: O(n log n)."""
    space, write = launch.column("space"), launch.column("write")
    singles = [np.sum((space == s) & (write == w)) for s in (GLOBAL, SHARED) for w in (0, 1)]
    rows = space == GLOBAL
    access, used = _warp_accesses(launch, rows)
    sectors, _ = _pieces(launch, rows, access, SECTOR)
    global_counts = len(used), len(sectors), np.sum(-(-used // SECTOR))
    rows = space == SHARED
    access, used = _warp_accesses(launch, rows)
    shared_counts = len(used), *_wavefronts(*_pieces(launch, rows, access, WORD))
    scale = np.prod(launch.grid[0]) / len(launch.ran)
    return Counts(*(float(scale * total) for total in (*singles, *global_counts, *shared_counts)))


def _warp_accesses(launch: Launch, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index of the warp's access that each row belongs to (rows,), and the bytes each of them uses (accesses,)."""
    warp = launch.column("thread", rows) // WARP
    keys = _keys(launch.column("block", rows), warp, launch.column("instruction", rows), launch.column("ordinal", rows))
    _, first, access = np.unique(keys, return_index=True, return_inverse=True)
    owners, _ = _distinct(access, launch.column("address", rows))
    return access, np.bincount(owners) * launch.column("width", rows)[first]


def _pieces(launch: Launch, rows: np.ndarray, access: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct (access, piece of memory) of all, as two columns: pieces are sectors or words.

    An element is smaller than a sector and does not straddle two; one of 8 bytes is two words.
    """
    address, width = launch.column("address", rows), launch.column("width", rows)
    first, last = address // size, (address + width - 1) // size
    return _distinct(np.concatenate([access, access]), np.concatenate([first, last]))


def _distinct(access: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct (access, value), as two columns."""
    _, first = np.unique(_keys(access, value), return_index=True)
    return access[first], value[first]


def _keys(*columns: np.ndarray) -> np.ndarray:
    """One integer for each row of integers: ordered as the rows are, and equal where they are equal.

    >>> _keys(np.array([7, 0, 7]), np.array([5, 9, 5])).tolist()
    [35, 4, 35]
    """
    keys, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns if len(columns[0]) else ():
        low, span = int(column.min()), int(np.ptp(column)) + 1
        if size * span > 2**62:  # too large for an integer: rank the keys so far
            keys = np.unique(keys, return_inverse=True)[1]
            size = int(keys.max()) + 1
        keys, size = keys * span + (column - low), size * span
    return keys


def _wavefronts(access: np.ndarray, word: np.ndarray) -> tuple[int, int]:
    """Wavefronts of accesses that want these words, and the fewest that could be."""
    wanted = np.bincount(access)  # (accesses,)
    bank, count = np.unique(access * BANKS + word % BANKS, return_counts=True)
    most = np.zeros(len(wanted), np.int64)
    np.maximum.at(most, bank // BANKS, count)
    return int(most.sum()), int(np.sum(-(-wanted // BANKS)))


# Races -------------------------------------------------------------------------------------------------------------


def races(launch: Launch) -> Iterator[str]:
    """Every element that two threads access, one of them writing, with no barrier in between: who, and where."""
    for space, element, (first, second) in _conflicts(launch):
        what = " and ".join(f"thread {t} of block {b} {'writes' if w else 'reads'}" for b, t, w in (first, second))
        yield f"{launch.element(space, element)}: {what} it, with no barrier between"


def _conflicts(launch: Launch) -> Iterator[tuple[int, int, tuple[tuple[int, int, bool], tuple[int, int, bool]]]]:
    """(space, address, the two accesses as (block, thread, whether it writes)) of each race; one for each address."""
    names = ("space", "address", "block", "thread", "write", "phase", "warp_phase")
    space, address, block, thread, write = (launch.column(name) for name in names[:5])
    place = _keys(space, np.where(space == SHARED, block, 0), address)  # a block's shared memory is its own
    element = np.unique(place, return_inverse=True)[1]
    users = _distinct(element, _keys(block, thread))[0]
    suspects = (np.bincount(element, write) > 0) & (np.bincount(users) > 1)  # written, and used by several threads
    rows = np.flatnonzero(suspects[element])
    columns = np.stack([element[rows], *(launch.column(name, rows) for name in names)], axis=1)
    columns = columns[np.unique(_keys(*columns.T), return_index=True)[1]]  # sorted; what is repeated, once
    bounds = np.flatnonzero(np.diff(columns[:, 0], prepend=-1, append=-1))
    for start, stop in itertools.pairwise(bounds):
        if (pair := _unordered_pair(columns[start:stop, 3:])) is not None:
            yield int(columns[start, 1]), int(columns[start, 2]), pair


def _unordered_pair(rows: np.ndarray) -> tuple[tuple[int, int, bool], tuple[int, int, bool]] | None:
    """Two accesses to one element that may come in any order, one a write.

    rows: block, thread, write, phase, warp_phase of each access.
    """
    accesses = rows.tolist()
    for block, thread, _, phase, warp_phase in (one for one in accesses if one[2]):
        for block2, thread2, write, phase2, warp_phase2 in accesses:
            same_thread = (block, thread) == (block2, thread2)
            same_warp = thread // WARP == thread2 // WARP
            ordered = block == block2 and (phase != phase2 or (same_warp and warp_phase != warp_phase2))
            if not same_thread and not ordered:
                return (block, thread, True), (block2, thread2, bool(write))
    return None
