"""Run on a machine with an NVIDIA GPU, by `make gpu`: what only a GPU can tell, in four steps of ten minutes at most.

    python -m tests.by_hand.check_gpu --out docs/results --only first

Each step (STEPS says what it tells) runs in a process of its own, which is stopped when its time is over, and writes
OUT/gpu_STEP.jsonl row by row (gpu_steps.py). Without --only all run, in this order, and the page is written anew.
Exit status: 0 only if all that was asked for ran without a fault. Who asks for results of a GPU and gets none must not
read success, hence 1 where there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from minixception.bench.cuda.command import require_device
from minixception.bench.records.gpu_page import STEPS
from minixception.errors import BackendError

ROOT = Path(__file__).parents[2]
SECONDS = 580  # of a step, at most


def missing_device() -> str:
    """What is missing, in one line; nothing if there is a GPU."""
    try:
        require_device()
    except BackendError as error:
        return str(error)
    return ""


def outcomes(steps: Iterable[str], has_device: bool, start: Callable[[str], str]) -> dict[str, str]:
    """What became of each step: "passed", or what ``start`` says of it, or that there is no GPU."""
    return {step: start(step) or "passed" if has_device else "not run: no GPU" for step in steps}


def run_step(step: str, out: Path, seconds: float = SECONDS) -> str:
    """Run a step in a process of its own; what went wrong, or nothing."""
    command = [sys.executable, "-m", "tests.by_hand.gpu_steps", step, str(out.resolve())]
    try:
        status = subprocess.run(command, cwd=ROOT, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return f"failed (exit status {status})" if status else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps, write the page, say what became of each."""
    parser = argparse.ArgumentParser(description="What only a GPU can tell, in four steps of ten minutes at most.")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="folder of the results")
    parser.add_argument("--only", choices=STEPS, help="one step")
    options = parser.parse_args(arguments)
    os.environ["MINIXCEPTION_CUDA"] = ""
    if reason := missing_device():
        print(reason)
    found = outcomes([options.only] if options.only else STEPS, not reason, lambda step: run_step(step, options.out))
    if not options.only and not reason:
        page = [sys.executable, "-m", "minixception.bench.records", "gpu_page", str(options.out / "gpu.md")]
        subprocess.run(page, cwd=ROOT, check=True)
    for name, outcome in found.items():
        print(f"{name}: {outcome}")
    return int(any(outcome != "passed" for outcome in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
