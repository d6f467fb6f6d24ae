"""Course tools.

``check`` judges an exercise, ``check_kernel`` a kernel of your own, which ``use_kernel`` puts into the network;
``source`` shows code; ``trace`` watches the threads of a CUDA kernel, without a GPU, and ``ladder_table`` compares
kernels so.
"""

from __future__ import annotations

from ..analysis.memory_trace import Trace, ladder_table, trace
from ..gpu.kernel import cuda, dtype
from .checks import Verdict, cuda_kernel
from .exercises import EXERCISES, check
from .own_kernel import check_kernel, use_kernel
from .source import source

__all__ = [
    "EXERCISES",
    "Trace",
    "Verdict",
    "check",
    "check_kernel",
    "cuda",
    "cuda_kernel",
    "dtype",
    "ladder_table",
    "source",
    "trace",
    "use_kernel",
]
