"""2. CPU: the loops of depthwise and pointwise in turn, and their fast kernels in turn."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..depthwise import cpu as depthwise_cpu
from ..pointwise import cpu as pointwise_cpu
from .definition import chain_backward, chain_forward

# Loops --------------------------------------------------------------------------------------------------------------

forward_loops = chain_forward(depthwise_cpu.forward_loops, pointwise_cpu.forward_loops)
backward_loops = chain_backward(depthwise_cpu.backward_loops, pointwise_cpu.backward_loops)

# Fast ---------------------------------------------------------------------------------------------------------------
# The depthwise result z makes one round trip through memory between the two kernels.

forward_cpu = chain_forward(depthwise_cpu.forward_cpu, pointwise_cpu.forward_cpu)


def backward_cpu(
    dy: np.ndarray, saved: tuple[Any, ...], wanted: tuple[bool, bool, bool] = (True, True, True)
) -> tuple[np.ndarray | None, ...]:
    """The pointwise part's gradients, then the depthwise part's; nothing past the first that nobody wants."""
    saved_depthwise, saved_pointwise = saved
    dz, dwp = pointwise_cpu.backward_cpu(dy, saved_pointwise, (wanted[0] or wanted[1], wanted[2]))
    dx, dwd = (None, None) if dz is None else depthwise_cpu.backward_cpu(dz, saved_depthwise, wanted[:2])
    return dx, dwd, dwp
