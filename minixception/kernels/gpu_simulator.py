"""What ``cuda`` means in a kernel that runs in Numba's simulator, where threads may be interrupted anywhere.

The simulator puts its own module in the place of ``cuda`` whenever a helper is called and the real one back afterwards,
and makes a shared array when the first thread asks for it. With several threads at once, one can put back what another
still needs, or two can make an array each. Here ``cuda`` is looked up anew at each use, and one thread at a time asks
for arrays.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np


def _context() -> Any:
    """The simulator's module for the kernel that is running: it knows which thread asks."""
    from numba.cuda.simulator.kernel import _get_kernel_context

    return _get_kernel_context()


class _Shared:
    """``cuda.shared``."""

    _lock = threading.Lock()

    def array(self, shape: Any, dtype: Any) -> np.ndarray:
        """The shared array that is made in this line of the kernel: one for all threads of a block."""
        caller = sys._getframe(1)
        line = caller.f_code, caller.f_lineno
        with self._lock:
            arrays: dict[Any, np.ndarray] = _context().shared._allocations
            return arrays.setdefault(line, np.empty(shape, dtype))


class SimulatedCuda:
    """``cuda``: everything but shared arrays is the simulator's own."""

    shared = _Shared()

    def __getattr__(self, name: str) -> Any:
        return getattr(_context(), name)
