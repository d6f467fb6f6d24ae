"""Course tools: ``trace`` watches the threads of a CUDA kernel, without a GPU; ``ladder_table`` compares kernels so."""

from __future__ import annotations

from .tracing import Trace, ladder_table, trace

__all__ = ["Trace", "ladder_table", "trace"]
