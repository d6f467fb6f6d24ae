"""Our speed beside PyTorch's, in one run: Xception forward at 299x299, and a training step of mini_xception.

    python -m minixception.bench.against_torch docs/results/against_torch.json

Both hold the same weights and get the same input; their results are compared before any time is taken. PyTorch runs
eager in channels_last, its faster layout. glibc gives large buffers back to the system after every layer, which costs
PyTorch much of its time; with MALLOC_MMAP_THRESHOLD_=8589934592 and MALLOC_TRIM_THRESHOLD_=17179869184 in the
environment it keeps them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from ..models import Xception, mini_xception
from ..ops import cross_entropy
from ..optim import SGD
from ..random import seed
from ..tables import Table
from ..tensor import Tensor, no_grad
from .results import write_result
from .timing import interleaved
from .torch_twin import from_torch, to_torch, twin

_SEED = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure with every number of threads asked for, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description="Measure minixception beside PyTorch.")
    parser.add_argument("out", type=Path, help="result file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, numba.config.NUMBA_NUM_THREADS])
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args(arguments)
    rows = []
    for threads in dict.fromkeys(options.threads):
        numba.set_num_threads(threads)
        torch.set_num_threads(threads)
        for name, make in {"forward, Xception 299, batch 1": forward, "training step, mini, batch 64": step}.items():
            functions, difference = make()
            times = interleaved(functions, options.repeats)
            ours, theirs = times["minixception"], times["torch"]
            rows.append(
                {
                    "job": name,
                    "threads": threads,
                    "minixception": vars(ours),
                    "torch": vars(theirs),
                    "ours_over_torch": ours.median / theirs.median,
                    "relative_difference": difference,
                }
            )
    header = ("job", "threads", "minixception ms", "torch eager ms", "ours / torch", "relative L2 difference")
    cells = [
        (r["job"], r["threads"], 1e3 * r["minixception"]["median"], 1e3 * r["torch"]["median"], r["ours_over_torch"],
         f"{r['relative_difference']:.1e}")
        for r in rows
    ]  # fmt: skip
    print(Table(header, cells))
    command = "python -m minixception.bench.against_torch"
    write_result(options.out, command, {"seed": _SEED, "repeats": options.repeats, "rows": rows}, ("torch",))
    return 0


Job = tuple[dict[str, Callable[[], Any]], float]


def forward() -> Job:
    """Xception in inference mode on one image, and how far the logits are apart."""
    seed(_SEED)
    x = np.random.default_rng(_SEED).uniform(-1, 1, (1, 299, 299, 3)).astype(np.float32)
    ours = Xception().eval()
    theirs, image = twin(ours).eval(), to_torch(x)

    def run_ours() -> np.ndarray:
        with no_grad():
            return ours(Tensor(x)).numpy()

    def run_torch() -> np.ndarray:
        with torch.inference_mode():
            return theirs(image).numpy()

    difference = _relative(run_ours(), run_torch())
    _require_equal("logits", difference, 1e-5)
    return {"minixception": run_ours, "torch": run_torch}, difference


def step() -> Job:
    """Forward, backward and SGD with momentum on 64 images, and how far all weights are apart after the first."""
    seed(_SEED)
    rng = np.random.default_rng(_SEED)
    x = rng.uniform(-1, 1, (64, 32, 32, 3)).astype(np.float32)
    labels = rng.integers(0, 10, 64)
    ours = mini_xception()
    theirs = twin(ours).train()
    our_sgd = SGD(ours.parameters(), lr=0.01, momentum=0.9)
    their_sgd = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    image, target = to_torch(x), torch.from_numpy(labels)

    def run_ours() -> None:
        our_sgd.zero_grad()
        cross_entropy(ours(Tensor(x)), labels).backward()
        our_sgd.step()

    def run_torch() -> None:
        their_sgd.zero_grad()
        torch.nn.functional.cross_entropy(theirs(image), target).backward()
        their_sgd.step()

    run_ours()
    run_torch()
    ours_now = [p.data.ravel() for p in ours.parameters()]
    theirs_now = [from_torch(p).ravel() for p in theirs.parameters()]
    difference = _relative(np.concatenate(ours_now), np.concatenate(theirs_now))
    _require_equal("weights after a step", difference, 1e-4)
    return {"minixception": run_ours, "torch": run_torch}, difference


def _relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _require_equal(what: str, difference: float, limit: float) -> None:
    if not difference <= limit:
        raise ArithmeticError(f"{what}: minixception and PyTorch differ by {difference:.1e}, more than {limit:.0e}")


if __name__ == "__main__":
    raise SystemExit(main())
