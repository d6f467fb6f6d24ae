"""Runs a program of the tests in several processes, by the mpiexec that is installed beside this Python."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .processes import HANG, ROOT

BIN = Path(sys.executable).parent


def program() -> str:
    """The mpiexec beside this Python; skips the test where there is no MPI."""
    found = shutil.which("mpiexec", path=BIN)
    if found is None or find_spec("mpi4py") is None:
        pytest.skip("runs several processes. To have these tests too: pip install 'minixception[cluster]'")
    return found


def mpiexec(count: int, *arguments: Any, path: Path = ROOT, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python *arguments`` in so many processes, with a thread each; skips the test where there is no MPI."""
    own = {"NUMBA_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (path, Path(__file__).parents[2])))}
    return subprocess.run(
        [program(), "-n", str(count), sys.executable, *map(str, arguments)],
        cwd=path,
        env={name: str(value) for name, value in (os.environ | own | environment).items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )


def ranks(count: int, function: Any, *arguments: Any, **environment: Any) -> subprocess.CompletedProcess[str]:
    """Call a function of a module of the tests with the ranks and these arguments, in so many processes."""
    return mpiexec(
        count, "-m", __name__, function.__module__, function.__qualname__, json.dumps(arguments), **environment
    )


def result(count: int, function: Any, *arguments: Any, **environment: Any) -> Any:
    """What the function returns on rank 0, by way of JSON."""
    done = ranks(count, function, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """In each of the processes."""
    from minixception.cluster.session import together

    module, name, arguments = sys.argv[1:]
    with together(patience=float(os.environ.get("PATIENCE", "300"))) as all_of_them:
        print(json.dumps(getattr(importlib.import_module(module), name)(all_of_them, *json.loads(arguments))))


if __name__ == "__main__":
    main()
