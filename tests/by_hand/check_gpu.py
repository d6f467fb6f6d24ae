"""Run by `make gpu`, on a machine with an NVIDIA GPU: its tests, the sanitizers, the benchmark, and their page.

A step that cannot run or that fails does not keep the others from running. Exit status: 0 only if all of them ran and
passed. Who asks for results of a GPU and gets none must not read success, hence 1 where there is no GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from minixception.bench.cuda.command import require_device
from minixception.errors import BackendError
from tests.by_hand.check_sanitizer import missing as missing_sanitizer

ROOT = Path(__file__).parents[2]
RESULTS = Path("docs") / "results"
STEPS = {
    "tests": ("-m", "pytest", "-m", "gpu"),
    "sanitizers": ("-m", "tests.by_hand.check_sanitizer", "--out", RESULTS / "sanitizer.json"),
    "benchmark": ("-m", "minixception", "bench", "--device", "cuda", "--out", RESULTS / "bench_cuda.json"),
}


def missing_device() -> str:
    """What is missing, in one line; nothing if there is a GPU."""
    try:
        require_device()
    except BackendError as error:
        return str(error)
    return ""


def outcomes(has_device: bool, no_sanitizer: str, start: Callable[..., int]) -> dict[str, str]:
    """What became of each step: "passed", "failed (exit status N)" or "not run" with the reason."""
    no_device = "" if has_device else "no GPU"
    reasons = {"tests": no_device, "sanitizers": no_device or no_sanitizer, "benchmark": no_device}
    found = {}
    for name, command in STEPS.items():
        if reasons[name]:
            found[name] = f"not run: {reasons[name]}"
        else:
            status = start(*command)
            found[name] = f"failed (exit status {status})" if status else "passed"
    return found


def python(*arguments: str | Path) -> int:
    """``python *arguments`` in the repository; its exit status."""
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT).returncode


def main() -> int:
    """Run all steps, write the page, say what became of each."""
    os.environ["MINIXCEPTION_CUDA"] = ""
    if reason := missing_device():
        print(reason)
    found = outcomes(not reason, missing_sanitizer(), python)
    python("-m", "minixception.bench.records", "gpu_page", RESULTS / "gpu.md")
    for name, outcome in found.items():
        print(f"{name}: {outcome}")
    return int(any(outcome != "passed" for outcome in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
