"""Kernels that do nothing but reach a limit of the GPU: copying memory, and multiply-adds in registers.

bench/cuda/limits.py times them; what they reach is what every other kernel is compared with.
"""

from __future__ import annotations

from typing import Any

from .kernel import THREADS, blocks, cuda, dtype, kernel

_EACH = 4  # elements that a thread copies: so many loads are in flight at once
_CHAINS, _UNROLLED = 8, 16  # independent sums of a thread, and steps between two jumps


@kernel
def _copy(x: Any, y: Any) -> None:
    """A thread copies four elements, a block's width apart: neighbours for neighbours each time."""
    first = cuda.blockIdx.x * (cuda.blockDim.x * _EACH) + cuda.threadIdx.x
    values = cuda.local.array(_EACH, dtype)
    for k in range(_EACH):
        i = first + k * cuda.blockDim.x
        if i < x.size:
            values[k] = x[i]
    for k in range(_EACH):
        i = first + k * cuda.blockDim.x
        if i < x.size:
            y[i] = values[k]


@kernel
def _multiply_add(sums_of_threads: Any, rounds: int) -> None:
    """Each sum becomes sum / 2 + 1 again and again.

    No two begin alike, and none at 2, where it would stand still: the compiler would see it and leave out the work.
    """
    sums = cuda.local.array(_CHAINS, dtype)
    for chain in range(_CHAINS):
        sums[chain] = dtype(chain + 3)
    for _ in range(rounds):
        for _ in range(_UNROLLED):
            for chain in range(_CHAINS):
                sums[chain] = sums[chain] * dtype(0.5) + dtype(1)
    total = dtype(0)
    for chain in range(_CHAINS):
        total += sums[chain]
    sums_of_threads[cuda.grid(1)] = total


def copy(x: Any, y: Any) -> None:
    """y[...] = x for flat device arrays, by our own kernel."""
    _copy[blocks(x.size, _EACH * THREADS), THREADS](x, y)


def multiply_add(sums_of_threads: Any, steps: int) -> int:
    """Write each thread's sum to a flat device array, of whole blocks; the FLOP that this took."""
    rounds = steps // _UNROLLED
    _multiply_add[blocks(sums_of_threads.size), THREADS](sums_of_threads, rounds)
    return 2 * rounds * _UNROLLED * _CHAINS * int(sums_of_threads.size)
