"""A driver that does nothing, built of stub_driver.c: with it the GPU's host code runs where there is no GPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.processes import with_nvvm

SOURCE = Path(__file__).with_suffix(".c")
COUNTS = """
import ctypes
stub = ctypes.CDLL("libcuda.so.1")
for count in (stub.stub_launches, stub.stub_captured, stub.stub_graphs, stub.stub_allocations, stub.stub_frees):
    count.restype = ctypes.c_long
stub.stub_argument.restype = ctypes.c_ulonglong
"""


def build(folder: Path) -> Path:
    """The folder, with the driver in it; skips the test where there is no C compiler, or no Linux to load it."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("builds the stub of a GPU's driver, which needs Linux and a C compiler (Debian: apt install gcc)")
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    return folder


def run(driver: Path, code: str, **environment: Any) -> str:
    """What code prints in a process of its own, in which this driver is the GPU's and ``stub`` has its counts."""
    return with_nvvm(COUNTS + code, LD_LIBRARY_PATH=driver, **environment)
