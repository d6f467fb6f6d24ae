"""2. CPU: the loops of depthwise and pointwise in turn, and their fast kernels in turn."""

from __future__ import annotations

from ..depthwise import cpu as depthwise_cpu
from ..pointwise import cpu as pointwise_cpu
from .definition import chain_backward, chain_forward

# Loops --------------------------------------------------------------------------------------------------------------

forward_loops = chain_forward(depthwise_cpu.forward_loops, pointwise_cpu.forward_loops)
backward_loops = chain_backward(depthwise_cpu.backward_loops, pointwise_cpu.backward_loops)

# Fast ---------------------------------------------------------------------------------------------------------------
# The depthwise result z makes one round trip through memory between the two kernels.

forward_cpu = chain_forward(depthwise_cpu.forward_cpu, pointwise_cpu.forward_cpu)
backward_cpu = chain_backward(depthwise_cpu.backward_cpu, pointwise_cpu.backward_cpu)
