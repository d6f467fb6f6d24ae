"""A GPU's limits, measured in the run they belong to: FLOP/s of multiply-adds in registers, bytes/s of a large copy.

Beside them what follows from the device's own data, where it tells them: multiprocessors x cores x clock x 2, and width
of the memory bus x its clock x 2. No program reaches those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ...gpu.device import assign
from ...gpu.kernel import THREADS, empty
from ...gpu.peak import copy, multiply_add
from ...tables import Table
from ...timing import Clock
from ..limits import fastest

_FOOTPRINT = 1 << 29  # bytes of both arrays of a copy, several times the largest L2 cache
_STEPS = 1 << 16  # of each sum: some milliseconds
_BLOCKS = 16  # for each multiprocessor: full, and full again
_CORES = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64} | dict.fromkeys(
    [(8, 6), (8, 7), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)], 128
)  # float32, of a multiprocessor, by compute capability


@dataclass(frozen=True)
class GpuLimits:
    """What a GPU can do at most in float32: FLOP/s (a multiply-add counts two) and bytes/s (read + written).

    fma_flops and copy are measured; the nominal ones are None where the device does not tell. threads: of the CPU, the
    one that drives the GPU. l2: bytes of that cache.
    """

    device: str
    capability: str
    multiprocessors: int
    l2: int
    fma_flops: float
    copy: float
    nominal_flops: float | None
    nominal_copy: float | None
    threads: int = 1

    def seconds(self, flop: int, nbytes: int) -> float:
        """The least time for ``flop`` operations on ``nbytes`` bytes, each moved once.

        >>> GpuLimits("a GPU", "9.0", 132, 50 << 20, 5e13, 4e12, None, None).seconds(0, 8 * 10**12)
        2.0
        """
        return max(flop / self.fma_flops, nbytes / self.copy)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def filler(nbytes: int = _FOOTPRINT) -> Callable[[], None]:
    """A function that queues a copy of arrays which together take so many bytes."""
    x, y = _two_arrays(nbytes)
    return lambda: copy(x, y)


def measure(device: Any, clock: Clock, nbytes: int = _FOOTPRINT, steps: int = _STEPS) -> GpuLimits:
    """Both limits, in less than a second. device: numba.cuda's.

    The copy is the faster one of our kernel and the driver's own.
    """
    x, y = _two_arrays(nbytes)
    seconds = min(fastest(one, clock) for one in (lambda: copy(x, y), lambda: assign(y, x)))
    sums = empty((_BLOCKS * _number(device, "MULTIPROCESSOR_COUNT") * THREADS,), np.float32)
    flop = multiply_add(sums, steps)
    return GpuLimits(
        device=_name(device),
        capability=".".join(map(str, device.compute_capability)),
        multiprocessors=_number(device, "MULTIPROCESSOR_COUNT"),
        l2=_number(device, "L2_CACHE_SIZE"),
        fma_flops=flop / fastest(lambda: multiply_add(sums, steps), clock),
        copy=nbytes / seconds,
        nominal_flops=_nominal_flops(device),
        nominal_copy=_nominal_copy(device),
    )


def _two_arrays(nbytes: int) -> tuple[Any, Any]:
    count = nbytes // 2 // np.dtype(np.float32).itemsize
    return empty((count,), np.float32), empty((count,), np.float32)


def _name(device: Any) -> str:
    """The device's name: bytes in some versions of Numba."""
    return device.name.decode() if isinstance(device.name, bytes) else str(device.name)


def _number(device: Any, attribute: str) -> int:
    """An attribute of the device; 0 where the driver has none of that name, as newer ones for clocks."""
    try:
        return int(getattr(device, attribute))
    except Exception:  # which one differs between Numba and numba-cuda
        return 0


def _nominal_flops(device: Any) -> float | None:
    cores = _CORES.get(tuple(device.compute_capability), 0)
    rate = 2e3 * _number(device, "MULTIPROCESSOR_COUNT") * cores * _number(device, "CLOCK_RATE")  # clocks in kHz
    return rate or None


def _nominal_copy(device: Any) -> float | None:
    width, clock = _number(device, "GLOBAL_MEMORY_BUS_WIDTH"), _number(device, "MEMORY_CLOCK_RATE")  # bits, kHz
    return 2e3 * clock * width / 8 or None  # twice: memory sends at both edges of its clock


def table(found: GpuLimits) -> Table:
    """What was measured, beside what the device's own data say."""

    def nominal(rate: float | None, unit: float) -> str:
        return "unknown" if rate is None else f"{rate / unit:,.1f}"

    rows = [
        ("multiply-add, TFLOP/s", f"{found.fma_flops / 1e12:,.1f}", nominal(found.nominal_flops, 1e12)),
        ("copy, GB/s", f"{found.copy / 1e9:,.1f}", nominal(found.nominal_copy, 1e9)),
    ]
    return Table((f"{found.device}, compute capability {found.capability}", "measured", "nominal"), rows)
