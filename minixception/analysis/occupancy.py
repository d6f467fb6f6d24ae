"""How much of a GPU's multiprocessor a kernel's blocks can fill.

A multiprocessor hides the latency of memory by running other warps meanwhile, so it must hold many at once. What
a block takes of its registers and its shared memory decides how many.

What there is, is in NVIDIA's CUDA C++ Programming Guide, section "Compute Capabilities", table "Technical
Specifications per Compute Capability":

                                                7.5     8.0     9.0
    Maximum number of resident blocks per SM     16      32      32
    Maximum number of resident warps per SM      32      64      64
    Number of 32-bit registers per SM          64 K    64 K    64 K
    Maximum amount of shared memory per SM    64 KB  164 KB  228 KB

In which portions it is given out, and that the system reserves 1 KB of shared memory for each block from 8.0 on, is in
the occupancy calculator that comes with the CUDA toolkit, cuda_occupancy.h; the rule below is its rule.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Limits(NamedTuple):
    """What one multiprocessor holds at once, in blocks, warps and bytes, and the portions it is given out in."""

    blocks: int
    warps: int
    shared: int
    shared_reserved: int  # bytes per block that the system keeps for itself
    shared_portion: int
    registers: int = 65536
    register_portion: int = 256  # per warp


ARCHITECTURES = {
    "sm_75": Limits(blocks=16, warps=32, shared=64 * 1024, shared_reserved=0, shared_portion=256),
    "sm_80": Limits(blocks=32, warps=64, shared=164 * 1024, shared_reserved=1024, shared_portion=128),
    "sm_90": Limits(blocks=32, warps=64, shared=228 * 1024, shared_reserved=1024, shared_portion=128),
}
SCHEDULERS = 4  # of a multiprocessor; each has a quarter of its registers


def occupancy(architecture: str, threads: int, registers: int, shared: int) -> float:
    """The share of a multiprocessor's warps that can be resident, from 0 (not one block fits) to 1.

    threads: of a block; registers: of a thread; shared: bytes of a block.

    >>> occupancy("sm_80", 256, 32, 0), occupancy("sm_80", 256, 128, 0), occupancy("sm_75", 128, 32, 32768)
    (1.0, 0.25, 0.25)
    """
    limits = ARCHITECTURES[architecture]
    warps = math.ceil(threads / 32)
    per_warp = _round_up(max(registers, 1) * 32, limits.register_portion)
    warps_by_registers = limits.registers // SCHEDULERS // per_warp * SCHEDULERS
    per_block = _round_up(max(shared, 1) + limits.shared_reserved, limits.shared_portion)
    blocks_by_shared = limits.shared // per_block
    blocks = min(limits.blocks, limits.warps // warps, warps_by_registers // warps, blocks_by_shared)
    return blocks * warps / limits.warps


def _round_up(amount: int, portion: int) -> int:
    return math.ceil(amount / portion) * portion
