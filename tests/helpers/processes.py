"""Runs Python in a fresh process, with the package under test on its path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import minixception

ROOT = Path(minixception.__file__).parents[1]
NVVM_REQUIRED = "CI" in os.environ and sys.platform == "linux"


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
        timeout=300,
        check=False,
    )


def compiled_elsewhere(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """``python *arguments`` without the simulator, for what compiles for a GPU; skips the test where nothing can."""
    done = python(*arguments, MINIXCEPTION_CUDA="")
    # Nothing but NVVM compiles for a GPU, and there is none for macOS. Linux's build machines must have it.
    if "needs NVIDIA's NVVM library" in done.stderr and not NVVM_REQUIRED:
        pytest.skip("no NVVM: python -m pip install 'minixception[cuda]'")
    return done
