"""Every rung of the operators with a ladder, forward and backward, at the sizes that they have in Xception.

The work and the bytes of each are those of bench/kernels.py, and so are the results that count as right.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from ... import nn
from ...gpu.device import to_cpu, to_gpu
from ...timing import Clock, Timing, interleaved
from ..kernels import Job, Layer, Run, Stage, Workload, backward, compare, forward, prepare
from ..measurement import Bound, Measurement
from ..peers import LAYOUTS

if TYPE_CHECKING:
    from tqdm import tqdm

# Relative L2 distance of two results that count as equal. A thread of a simple rung adds up to 700,000 products in a
# row, which rounds to several 1e-5 in float32; with TF32, which keeps 10 bits, results would be 3e-4 apart or more.
NEAR = 1e-4
SLOW = 0.05  # seconds: of what takes longer, a simple rung on large images, three calls tell enough

WORKLOADS = (
    Workload("depthwise 3x3, 32x19x19x728", lambda: nn.DepthwiseConv2d(728), (32, 19, 19, 728)),
    Workload("depthwise 3x3, 32x147x147x64", lambda: nn.DepthwiseConv2d(64), (32, 147, 147, 64)),
    Workload("pointwise 728->728, 32x19x19", lambda: nn.PointwiseConv2d(728, 728), (32, 19, 19, 728)),
    Workload("batchnorm, 32x19x19x728", lambda: nn.BatchNorm2d(728), (32, 19, 19, 728)),
    Workload("batchnorm, 32x147x147x64", lambda: nn.BatchNorm2d(64), (32, 147, 147, 64)),
)


def measure(
    workload: Workload, limits: Bound, repeats: int, peers: bool, clock: Clock, bar: tqdm[Any]
) -> list[Measurement]:
    """Forward and backward pass by all of the operator's rungs, the fastest first; peers needs PyTorch with CUDA.

    Raises ArithmeticError if results differ by more than ``NEAR`` (relative L2): nothing is timed then.
    """
    layer = prepare(workload)
    jobs = _ours(layer)
    if peers:
        from ..torch_kernels import passes

        for layout in LAYOUTS:
            jobs[f"torch {layout}"] = passes(layer.module, layer.x, layer.dy, 1, "cuda", layout)

    def timed(runs: Mapping[str, Run]) -> dict[str, Timing]:
        slow = {who: run for who, run in runs.items() if clock(run) > SLOW}
        quick = {who: run for who, run in runs.items() if who not in slow}
        times = interleaved(quick, repeats=repeats, after_round=bar.update, clock=clock) if quick else {}
        times |= interleaved(slow, repeats=min(repeats, 3), clock=clock) if slow else {}
        return {who: times[who] for who in runs}

    return compare(workload.name, layer, jobs, limits, NEAR, timed)


def _ours(layer: Layer) -> dict[str, Mapping[str, Job]]:
    """By rung, the fastest first, and direction: what to time, and its results."""
    (stage,) = layer.stages
    there = [Stage(stage.op, tuple(map(to_gpu, stage.weights)), stage.params, stage.macs)]
    x, dy = to_gpu(layer.x), to_gpu(layer.dy)
    rungs = [name for name in reversed(stage.op.rungs) if name.startswith("cuda")]
    _, saved = forward(there, x, rungs[0])  # all rungs save the same
    jobs: dict[str, Mapping[str, Job]] = {}
    for rung in rungs:
        runs = {"forward": partial(_output, there, x, rung), "backward": partial(backward, there, dy, saved, rung)}
        jobs[rung] = {direction: (run, list(map(to_cpu, run()))) for direction, run in runs.items()}
    return jobs


def _output(stages: list[Stage], x: Any, rung: str) -> list[Any]:
    return [forward(stages, x, rung)[0]]
