"""Runs Python in a fresh process, with the package under test on its path."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import minixception

ROOT = Path(minixception.__file__).parents[1]
HANG = 1800  # seconds: ends what would never end by itself; far more than anything takes on a slow machine


def python(*arguments: Any, path: Path = ROOT, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` with minixception taken from ``path``; the tests can be imported there too."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=path,  # which comes first where Python looks for modules
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(map(str, (path, Path(__file__).parents[2])))}
        | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def compiled_elsewhere(module: str, call: str) -> list[Any]:
    """Call a function of a module of the tests in a process without the simulator, to compile for a GPU.

    Returns what it prints, one JSON value a line. Skips the test where NVIDIA's compilers are missing.
    """
    return [json.loads(line) for line in with_nvvm(f"import {module} as m; m.{call}").splitlines()]


def with_nvvm(code: str, **environment: Any) -> str:
    """What code prints in a process without the simulator; skips the test where NVIDIA's compilers are missing."""
    if find_spec("numba_cuda") is None:
        pytest.skip("compiles kernels for an NVIDIA GPU. To have these tests too (Linux, Windows): make setup CUDA=1")
    done = python("-c", code, MINIXCEPTION_CUDA="", **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout
