"""Which CUDA kernels are launched."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from minixception.gpu.kernel import Kernel


@contextmanager
def recorded_launches():
    """All launches inside of the block: (the kernel's name in ``KERNELS``, its arguments)."""
    launches, launcher = [], Kernel.__getitem__

    def noting_launcher(kernel, grid):
        def launch(*arguments):
            launches.append((kernel.name, arguments))
            launcher(kernel, grid)(*arguments)

        return launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kernel, "__getitem__", noting_launcher)
        yield launches
