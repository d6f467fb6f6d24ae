"""Single operators, forward and backward, beside the machine's limit and beside PyTorch.

The bound of an operator counts each of its multiply-accumulates (twice that in the backward pass: one product for each
gradient) and each byte of its inputs and outputs once; what the forward pass saves for the backward pass is an output
of the one and an input of the other. Operators without multiply-accumulates are compared with their bytes alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import nn
from ..engine.op import Op, Shape
from ..graph.trace import trace
from ..timing import Timing, interleaved
from .limits import Limits
from .measurement import EQUAL, OURS, Bound, Measurement, distance, require_near, summary
from .threads import numba_threads

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True)
class Workload:
    """A layer, and the shape (n, h, w, c) of the images it gets."""

    name: str
    module: Callable[[], nn.Module]
    x: Shape


WORKLOADS = (
    Workload("depthwise 3x3, 8x19x19x728", lambda: nn.DepthwiseConv2d(728), (8, 19, 19, 728)),
    Workload("depthwise 3x3, 8x37x37x256", lambda: nn.DepthwiseConv2d(256), (8, 37, 37, 256)),
    Workload("depthwise 3x3, 8x147x147x64", lambda: nn.DepthwiseConv2d(64), (8, 147, 147, 64)),
    Workload("pointwise 728->728, 8x19x19", lambda: nn.PointwiseConv2d(728, 728), (8, 19, 19, 728)),
    Workload("pointwise 128->128, 8x74x74", lambda: nn.PointwiseConv2d(128, 128), (8, 74, 74, 128)),
    Workload("conv 3x3 64->64, 8x56x56", lambda: nn.Conv2d(64, 64, 3), (8, 56, 56, 64)),
    Workload("batchnorm, 8x19x19x728", lambda: nn.BatchNorm2d(728), (8, 19, 19, 728)),
    Workload("batchnorm, 8x74x74x128", lambda: nn.BatchNorm2d(128), (8, 74, 74, 128)),
    Workload("max pool 3x3/2, 8x147x147x128", lambda: nn.MaxPool2d(3, 2, "same"), (8, 147, 147, 128)),
    # The paper's three forms of a convolution at one shape: is it the operator, or who tuned it?
    Workload("regular 192->192, 8x28x28", lambda: nn.Conv2d(192, 192, 3), (8, 28, 28, 192)),
    Workload("Inception-style 192->192, 8x28x28", lambda: nn.SpectrumConv2d(192, 192, 3, 3), (8, 28, 28, 192)),
    Workload("separable 192->192, 8x28x28", lambda: nn.SeparableConv2d(192, 192, 3), (8, 28, 28, 192)),
)


def measure(workload: Workload, limits: Limits, repeats: int, peers: bool, bar: tqdm[Any]) -> list[Measurement]:
    """A layer's forward and backward pass on ``limits.threads`` threads; peers needs PyTorch. ``repeats`` steps of
    the bar for each direction.

    Raises ArithmeticError if results differ by more than 1e-5 (relative L2): nothing is timed then.
    """
    with numba_threads(limits.threads):
        layer = prepare(workload)
        ours: dict[str, Job] = {
            "forward": (lambda: forward(layer.stages, layer.x), None),
            "backward": (lambda: backward(layer.stages, layer.dy, layer.saved), None),
        }
        jobs: dict[str, Mapping[str, Job]] = {OURS: ours}
        if peers:
            from .torch_kernels import passes

            jobs["torch"] = passes(layer.module, layer.x, layer.dy, limits.threads)
        timed = partial(interleaved, repeats=repeats, after_round=bar.update)
        return compare(workload.name, layer, jobs, limits, EQUAL, timed)


Run = Callable[[], Any]
Job = tuple[Run, Sequence[np.ndarray] | None]  # what to time, and its results; None for the results of ``prepare``


def compare(
    name: str,
    layer: Layer,
    jobs: Mapping[str, Mapping[str, Job]],
    limits: Bound,
    near: float,
    timed: Callable[[Mapping[str, Run]], dict[str, Timing]],
) -> list[Measurement]:
    """A row for each direction. jobs: by who does them and by direction, the fastest of ours first.

    Raises ArithmeticError if somebody's results are further than ``near`` (relative L2) from those of ``prepare``.
    """
    rows = []
    for one in layer.passes:
        mine = {who: job[one.direction] for who, job in jobs.items()}
        differences = {
            who: max(
                require_near(f"{name}, {one.direction}, {who}", distance(a, b), near)
                for a, b in zip(results, one.results, strict=True)
            )
            for who, (_, results) in mine.items()
            if results is not None
        }
        times = timed({who: run for who, (run, _) in mine.items()})
        rows.append(summary(name, one.direction, limits, one.flop, one.nbytes, times, differences))
    return rows


# A layer as a row of operators, each by one rung ----------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One operator as the layer used it."""

    op: Op
    weights: tuple[Any, ...]
    params: dict[str, Any]
    macs: int


@dataclass(frozen=True)
class Pass:
    """One direction of a layer: its cost, and its results by our kernels for the CPU."""

    direction: str
    flop: int
    nbytes: int
    results: list[np.ndarray]


@dataclass(frozen=True)
class Layer:
    """A layer with an input x and a gradient dy that arrives; saved: what its forward pass keeps for the backward."""

    module: nn.Module
    stages: list[Stage]
    x: np.ndarray
    dy: np.ndarray
    saved: list[Any]
    passes: tuple[Pass, Pass]


def prepare(workload: Workload) -> Layer:
    """Draw x and dy, and run the layer once in both directions on the CPU."""
    module, rng = workload.module(), np.random.default_rng(0)
    x = rng.standard_normal(workload.x, np.float32)
    stages = _stages(module, workload.x)
    macs, weights = sum(stage.macs for stage in stages), [stage.weights for stage in stages]
    y, saved = forward(stages, x)
    dy = rng.standard_normal(y.shape, np.float32)
    gradients = backward(stages, dy, saved)
    passes = (
        Pass("forward", 2 * macs, _nbytes((x, weights, y, saved)), [y]),
        Pass("backward", 4 * macs, _nbytes((dy, saved, gradients)), gradients),
    )
    return Layer(module, stages, x, dy, saved, passes)


def _stages(module: nn.Module, x: Shape) -> list[Stage]:
    """The operators of a layer in training, without what they read of each other."""
    calls = [call for layer in trace(module, x, inference=False).layers for call in layer.calls]
    return [Stage(call.op, tuple(t.data for t in call.inputs[1:]), call.params, call.macs) for call in calls]


def forward(stages: Sequence[Stage], x: Any, rung: str = "cpu") -> tuple[Any, list[Any]]:
    """The output, and what each stage saved."""
    saved = []
    for stage in stages:
        x, kept = stage.op.rungs[rung].forward(x, *stage.weights, **stage.params)
        saved.append(kept)
    return x, saved


def backward(stages: Sequence[Stage], dy: Any, saved: Sequence[Any], rung: str = "cpu") -> list[Any]:
    """The gradient of x, then those of the weights in their order."""
    of_weights: list[Any] = []
    for stage, kept in zip(reversed(stages), reversed(saved), strict=True):
        dy, *gradients = stage.op.rungs[rung].backward(dy, kept)
        of_weights = gradients + of_weights
    return [gradient for gradient in (dy, *of_weights) if gradient is not None]


def _nbytes(nested: Any) -> int:
    """Bytes of all arrays in nested tuples and lists; one array counts once."""
    return sum({array.ctypes.data: array.nbytes for array in _arrays(nested)}.values())


def _arrays(nested: Any) -> Iterable[np.ndarray]:
    if isinstance(nested, np.ndarray):
        yield nested
    elif isinstance(nested, tuple | list):
        for item in nested:
            yield from _arrays(item)
