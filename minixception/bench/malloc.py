"""glibc's malloc, told to keep large buffers.

By default it gives every large buffer back to the system as soon as it is freed, and the next one costs a page fault
for each 4 KiB. Our own buffers come from a pool and hardly notice; other libraries lose up to half their speed.
The settings are read when a process starts, hence a new process.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence

from ..errors import ArgumentError

_TUNED = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}  # bytes


def rerun_tuned(arguments: Sequence[str]) -> int:
    """``minixception *arguments`` in a process whose malloc keeps large buffers; its exit status.

    Raises ArgumentError where the C library is not glibc.
    """
    library = platform.libc_ver()[0]
    if library != "glibc":
        raise ArgumentError(f"--malloc tuned sets glibc's malloc; this Python runs on {library or platform.system()}")
    return subprocess.run([sys.executable, "-m", "minixception", *arguments], env=os.environ | _TUNED).returncode
