"""A plan: the steps for one input shape, and what runs each of them on the model's device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from ..engine.op import Shape
from ..engine.tensor import Tensor
from ..errors import TraceError
from ..gpu.device import copy, to_cpu
from ..gpu.graph import Repeated
from ..graph.trace import Graph, trace
from ..nn import Module
from ..tables import Table
from .cpu import CpuKernels
from .cuda import CudaKernels
from .fold import Folded, Key, fold
from .fuse import Step, fuse, last_read


class Kernels(Protocol):
    """What is different from device to device: where weights and results lie, and which kernels run a step."""

    def __init__(
        self, steps: list[Step], shapes: dict[int, Shape], dtype: np.dtype, result: int, weights: dict[Key, Folded]
    ) -> None:
        """shapes: of all values, by index. result: the index of the network's result. weights: by ``Step.key``."""

    @staticmethod
    def place(folded: dict[Key, Folded]) -> dict[Key, Folded]:
        """The weights on the device, ordered as its kernels read them."""

    def action(self, step: Step) -> Callable[..., Any]:
        """The function that runs a step: arrays of its inputs -> array of its result."""

    def describe(self, step: Step) -> tuple[str, str]:
        """What ``action`` runs, and where its result lies."""

    @property
    def memory(self) -> str:
        """What the results take."""


_STAND_INS = (0.0, 1e6, -1e6)  # for all values while the model is traced
_KERNELS: dict[str, type[Kernels]] = {"cpu": CpuKernels, "cuda": CudaKernels}


_DELAY = 1.0  # seconds from the beginning of a plan before a bar says that kernels are compiled: most are in the cache


class _Pass:
    """The steps, one after the other."""

    def __init__(
        self, steps: list[Step], actions: list[Callable[..., Any]], constants: dict[int, Any], result: int, began: float
    ) -> None:
        self._steps = list(zip(steps, actions, last_read(steps, result), strict=True))
        self._constants, self._result = constants, result
        self._began, self._has_run = began, False

    def __call__(self, x: Any) -> Any:
        values = {0: x} | self._constants
        for _ in self._running(values):
            pass
        return values[self._result]

    def seconds(self, x: Any) -> list[float]:
        """How long each step takes, in one run."""
        marks = [time.perf_counter()]
        marks += [time.perf_counter() for _ in self._running({0: x} | self._constants)]
        return [end - start for start, end in pairwise(marks)]

    def _running(self, values: dict[int, Any]) -> Iterator[None]:
        """Run the steps on the values that are there, and put in what they make; stop behind each."""
        for step, action, done in self._steps if self._has_run else self._shown():
            values[step.result] = action(*[values[index] for index in step.inputs])
            for index in done:  # its memory may be used again
                del values[index]
            yield
        self._has_run = True

    def _shown(self) -> Iterator[Any]:
        """The steps, and a bar that names the layer whose kernel is compiled."""
        from tqdm import tqdm

        with tqdm(self._steps, leave=False, unit="layer", delay=_DELAY, disable=None) as bar:
            for entry in bar:
                late = time.monotonic() - self._began > _DELAY
                bar.set_description(f"compiling kernels: {entry[0].node.path}", refresh=late)
                yield entry


def checked_graph(model: Module, shape: Shape, dtype: Any, inference: bool = True) -> Graph:
    """The graph of a model; TraceError if its forward pass depends on values, of which tracing knows none."""
    with np.errstate(all="ignore"):
        graph, *others = (trace(model, shape, dtype, inference, value) for value in _STAND_INS)
    for other in others:
        if _steps(other) != _steps(graph) or not _equal(other.constants, graph.constants):
            raise TraceError(
                f"{type(model).__name__} cannot be compiled: its forward pass branches on the values of a tensor, or "
                "computes with them by other means than mx's operators, such as NumPy. Put that into a layer of its "
                "own, which runs as it is"
            )
    return graph


def _steps(graph: Graph) -> tuple[Any, ...]:
    """What runs on what."""
    return graph.result, [(node.path, node.kind, node.reads, node.makes, node.output) for node in graph.layers]


def _equal(ours: dict[int, Tensor], theirs: dict[int, Tensor]) -> bool:
    """Whether the same values enter: parameters, or what forward makes of no input."""
    return ours.keys() == theirs.keys() and all(
        ours[key] is theirs[key] or np.array_equal(to_cpu(ours[key].data), to_cpu(theirs[key].data), equal_nan=True)
        for key in ours
    )


class Plan:
    """Everything that can be decided before the first image."""

    def __init__(self, model: Module, shape: Shape, dtype: Any, weights: dict[Key, Folded], device: str) -> None:
        began = time.monotonic()
        graph = checked_graph(model, shape, dtype)
        self.steps = fuse(graph)
        self.result = graph.result
        self.device = device
        self.shapes = {0: shape} | {node.makes: node.output for node in graph.nodes}
        make = _KERNELS[device]
        if new := {step.key: fold(*step.key) for step in self.steps if step.fused and step.key not in weights}:
            weights.update(make.place(new))
        self.kernels = make(self.steps, self.shapes, np.dtype(dtype), self.result, weights)
        actions = [self.kernels.action(step) for step in self.steps]
        constants = {index: t.data for index, t in graph.constants.items()}
        self._steps = _Pass(self.steps, actions, constants, self.result, began)
        self._pass = Repeated(self._steps) if device == "cuda" else self._steps

    def run(self, x: Any) -> Any:
        """The network's answer for x; a new array. While kernels are compiled, if that takes long, a bar shows it."""
        return copy(self._pass(x))  # the next call writes to the array

    def seconds(self, x: Any) -> list[float]:
        """How long each of ``steps`` takes, in one run on the CPU."""
        return self._steps.seconds(x)

    def table(self) -> Table:
        """One row per step: its layers, what runs them, the shape of its result and where it lies."""
        rows = []
        for step in self.steps:
            runs_as, place = self.kernels.describe(step)
            rows.append((" + ".join(step.paths), runs_as, "x".join(map(str, self.shapes[step.result])), place))
        total = f"{len(rows)} steps", f"on {self.device}", "", self.kernels.memory
        return Table(("layers", "runs as", "output", "memory"), rows, total)
