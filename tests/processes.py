"""Runs Python in a fresh process, with the package under test on its path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import minixception

ROOT = Path(minixception.__file__).parents[1]
TESTS = Path(__file__).parent


def python(*arguments: Any, path: Path = ROOT, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` with minixception taken from ``path``; the tests can be imported there too."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=path,  # which comes first where Python looks for modules
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(map(str, (path, TESTS)))}
        | {name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
