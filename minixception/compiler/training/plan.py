"""A training step for one shape of input: the actions of both passes, and the memory that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...engine.op import Shape
from ...engine.random import generator
from ...engine.tensor import Tensor
from ...errors import GraphError
from ...nn import Module, Parameter
from ...tables import Table
from ..plan import checked_graph
from .arena import Slot
from .build import Action, Build
from .fuse import fused
from .parts import trained_by
from .traffic import Traffic, of_layer

Loss = Callable[[Tensor, Tensor], Tensor]  # logits and labels -> the loss, a single value
Ready = Callable[[Parameter], Any]  # told of each parameter whose gradient is complete, as the backward pass goes on


def nobody(parameter: Parameter) -> None:
    """Is told, and does nothing."""


class TrainingPlan:
    """One shape of input: ``plan(x, labels, loss)`` runs both passes and leaves the gradients in the parameters."""

    def __init__(self, model: Module, shape: Shape, dtype: Any) -> None:
        state = generator().bit_generator.state
        graph = checked_graph(model, shape, dtype, inference=False)
        generator().bit_generator.state = state  # a dropout that was traced has drawn a mask
        self._parameters, self._nodes, self.itemsize = model.parameters(), graph.nodes, np.dtype(dtype).itemsize
        build = Build(graph, np.dtype(dtype))
        if not build.wants_gradient(graph.result):
            raise GraphError("no parameter of the model takes a gradient: call model.unfreeze() first")
        self._x = build.value(0)
        self.parts = fused(build)
        forward = len(build.actions)
        self._logits, self._seed = build.value(graph.result), build.hold(graph.result)
        first = {id(parameter): part for part in reversed(self.parts) for parameter in trained_by(part)}
        for part in reversed(self.parts):
            part.plan_backward(build)
            build.act(partial(self._announce, [p for p in trained_by(part) if first[id(p)] is part]))
        actions = build.finished()
        self._ready: Ready = nobody
        self._forward, self._backward = actions[:forward], actions[forward:]
        self.nbytes = build.nbytes

    def _announce(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            self._ready(parameter)

    def __call__(self, x: np.ndarray, labels: Tensor, loss: Loss, ready: Ready = nobody) -> tuple[Tensor, Tensor]:
        """Loss and logits, without a gradient; ``grad`` of parameters that the loss does not depend on is None."""
        self._ready = ready
        for parameter in self._parameters:
            parameter.grad = None
        self._x.array = x
        _run(self._forward)
        logits = Tensor(np.array(self._logits.array), requires_grad=True)  # a copy: its memory is used again
        value = loss(logits, labels)
        value.backward()
        self._seed.array = logits.grad
        _run(self._backward)
        return value.detach(), logits.detach()

    def table(self) -> Table:
        """One row per part: its layers, what runs them, and the MiB of activations that it moves; see traffic.py.

        The totals are compared with those of the same layers one by one.
        """
        mib = self.itemsize / 2**20
        rows = [(" + ".join(p.paths), p.runs_as, *(mib * elements for elements in p.traffic)) for p in self.parts]
        ours, theirs = self.traffic
        totals = [f"{mib * a:,.1f} instead of {mib * b:,.1f}" for a, b in zip(ours, theirs, strict=True)]
        memory = f"{self.nbytes / 2**20:,.1f} MiB planned"
        return Table(("layers", "runs as", "forward", "backward"), rows, (f"{len(rows)} parts", memory, *totals))

    @property
    def traffic(self) -> tuple[Traffic, Traffic]:
        """Elements of activations that cross memory in a step, compiled and layer by layer."""
        nothing = Traffic(0, 0)
        return sum((part.traffic for part in self.parts), nothing), sum(map(of_layer, self._nodes), nothing)


def _run(actions: list[tuple[Action, list[Slot]]]) -> None:
    for action, done in actions:
        action()
        for slot in done:
            slot.array = None
