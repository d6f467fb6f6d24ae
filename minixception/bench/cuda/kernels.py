"""Every rung of the operators with a ladder, forward and backward, at the sizes that they have in Xception.

The work and the bytes of each are those of bench/kernels.py, and so are the results that count as right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ... import nn
from ...gpu.device import to_cpu, to_gpu
from ...timing import Clock, interleaved
from ..kernels import Layer, Stage, Workload, backward, forward, prepare
from ..measurement import Bound, Measurement, distance, require_near, summary
from ..peers import LAYOUTS

if TYPE_CHECKING:
    from tqdm import tqdm

# Relative L2 distance of two results that count as equal. A thread of a simple rung adds up to 700,000 products in a
# row, which rounds to several 1e-5 in float32; with TF32, which keeps 10 bits, results would be 3e-4 apart or more.
NEAR = 1e-4

WORKLOADS = (
    Workload("depthwise 3x3, 32x19x19x728", lambda: nn.DepthwiseConv2d(728), (32, 19, 19, 728)),
    Workload("depthwise 3x3, 32x147x147x64", lambda: nn.DepthwiseConv2d(64), (32, 147, 147, 64)),
    Workload("pointwise 728->728, 32x19x19", lambda: nn.PointwiseConv2d(728, 728), (32, 19, 19, 728)),
    Workload("batchnorm, 32x19x19x728", lambda: nn.BatchNorm2d(728), (32, 19, 19, 728)),
    Workload("batchnorm, 32x147x147x64", lambda: nn.BatchNorm2d(64), (32, 147, 147, 64)),
)

Run = Callable[[], Any]


def measure(
    workload: Workload, limits: Bound, repeats: int, peers: bool, clock: Clock, bar: tqdm[Any]
) -> list[Measurement]:
    """Forward and backward pass by all of the operator's rungs, the fastest first; peers needs PyTorch with CUDA.

    Raises ArithmeticError if results differ by more than ``NEAR`` (relative L2): nothing is timed then.
    """
    layer = prepare(workload)
    (stage,) = layer.stages
    rungs = [name for name in reversed(stage.op.rungs) if name.startswith("cuda")]
    ours, theirs = _ours(layer, stage, rungs), _theirs(layer) if peers else {}
    rows = []
    for one in layer.passes:
        what = f"{workload.name}, {one.direction}"
        functions = {rung: ours[rung, one.direction] for rung in rungs}
        results = {rung: list(map(to_cpu, run())) for rung, run in functions.items()}
        for (name, direction), (run, expected) in theirs.items():
            if direction == one.direction:
                functions[name], results[name] = run, expected
        differences = {name: _farthest(f"{what}, {name}", got, one.results) for name, got in results.items()}
        times = interleaved(functions, repeats, bar.update, clock)
        rows.append(summary(workload.name, one.direction, limits, one.flop, one.nbytes, times, differences))
    return rows


def _ours(layer: Layer, stage: Stage, rungs: list[str]) -> dict[tuple[str, str], Run]:
    """By rung and direction: what to time, which returns its results on the GPU."""
    there = [Stage(stage.op, tuple(map(to_gpu, stage.weights)), stage.params, stage.macs)]
    x, dy = to_gpu(layer.x), to_gpu(layer.dy)
    _, saved = forward(there, x, rungs[0])  # all rungs save the same
    runs: dict[tuple[str, str], Run] = {}
    for rung in rungs:
        runs[rung, "forward"] = partial(_output, there, x, rung)
        runs[rung, "backward"] = partial(backward, there, dy, saved, rung)
    return runs


def _output(stages: list[Stage], x: Any, rung: str) -> list[Any]:
    return [forward(stages, x, rung)[0]]


def _theirs(layer: Layer) -> dict[tuple[str, str], tuple[Run, list[Any]]]:
    """By name and direction: what to time, and its results."""
    from ..torch_kernels import passes

    return {
        (f"torch {layout}", direction): job
        for layout in LAYOUTS
        for direction, job in passes(layer.module, layer.x, layer.dy, 1, "cuda", layout).items()
    }


def _farthest(what: str, results: list[Any], expected: list[Any]) -> float:
    """The largest distance of a result from the expected one."""
    return max(require_near(what, distance(a, b), NEAR) for a, b in zip(results, expected, strict=True))
