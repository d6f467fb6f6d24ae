"""A training step, compiled: forward and backward pass of a batch planned once, with kernels fused across layers.

The graph of the model becomes a list of actions, first those of the forward pass, then those of the backward pass in
the opposite order. Four kinds of parts put their actions into it (parts.py):

- a separable convolution, which reads through the batchnorm and the ReLU in front of it;
- a max pooling, which does the same;
- a batchnorm, alone or with the addition and the ReLU behind it. In front of one of the two above it writes nothing: it
  hands on the factors by which that normalises what it loads;
- any other layer. It runs as it always does, on a tape of its own, and is the definition of itself.

Every array that passes between them has a slot; the moments at which it is written first and read last are known, and
slots that are not needed at the same time share memory (arena.py).
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import numpy as np

from ...engine.op import Shape
from ...engine.tensor import Tensor, tensor
from ...errors import BackendError, ShapeError
from ...nn import Module
from ...tables import Table
from .plan import Loss, Ready, TrainingPlan, nobody

__all__ = ["Loss", "Ready", "Steps", "TrainingStep", "nobody"]


class Steps(Protocol):
    """What a compiled step asks of an optimiser."""

    def step(self) -> None:
        """Update the parameters from their gradients."""


class TrainingStep:
    """A training step of a model: ``step(x, labels) -> loss``; made by ``compile(model, loss, optimizer)``.

    It gives what the same step gives when it is written out, to rounding: the loss, the gradients in ``grad`` of the
    parameters, the running statistics of batchnorm, the updated parameters. Bits do not depend on the number of
    threads. Weights are read where they are: whoever loads others, freezes some or exchanges a layer need not compile
    again. One plan is made for each shape of x, at its first use; plans reuse their memory, so that of several threads
    one waits for the other.
    """

    def __init__(self, model: Module, loss: Loss, optimizer: Steps | None = None) -> None:
        if any(tensor.device != "cpu" for _, tensor in model.named_tensors()):
            raise BackendError(
                "a compiled training step runs on the CPU, and the model is on the GPU: call model.to('cpu') first, or "
                "train with mx.training.Trainer, which records its steps on a GPU and replays them"
            )
        self._model, self._loss, self._optimizer = model, loss, optimizer
        self._plans: dict[tuple[Shape, np.dtype[Any]], TrainingPlan] = {}
        self._planned: Any = None  # the layers and parameters that the plans are of, which these keep alive
        self._turn = threading.Lock()

    def __call__(self, x: Any, labels: Any) -> Tensor:
        """One step on x (n, h, w, c) and labels as the loss takes them, arrays or tensors; returns the loss.

        x gets no gradient. Raises what the model, the loss and the optimiser raise.
        """
        loss, _ = self.gradients(x, labels)
        if self._optimizer is not None:
            self._optimizer.step()
        return loss

    def gradients(self, x: Any, labels: Any, ready: Ready = nobody) -> tuple[Tensor, Tensor]:
        """Loss and logits, and the gradients in the parameters, which stay as they are.

        ready: called with each parameter as soon as its gradient is complete, while others are still to come.
        """
        x, labels = (one if isinstance(one, Tensor) else tensor(one) for one in (x, labels))
        with self._turn:
            return self._plan(x.shape, x.dtype)(x.data, labels, self._loss, ready)

    def _plan(self, shape: Shape, dtype: np.dtype[Any]) -> TrainingPlan:
        """The plan for this shape, of the layers that the model has now, as they are set now."""
        layers = tuple((id(module), module.training) for _, module in self._model.named_modules())
        parameters = tuple((id(parameter), parameter.requires_grad) for parameter in self._model.parameters())
        if (now := (layers, parameters)) != self._planned:
            self._planned = now
            self._plans.clear()
        if (shape, dtype) not in self._plans:
            self._plans[shape, dtype] = TrainingPlan(self._model, shape, dtype)
        return self._plans[shape, dtype]

    @property
    def plan(self) -> Table:
        """What runs together, and the MiB it moves, for the shape planned last, or a batch of two images."""
        return self._last_plan().table()

    @property
    def bytes_moved(self) -> dict[str, int]:
        """Bytes of activations that cross memory in a step of ``plan``, "layer by layer" and "compiled"; counted."""
        plan = self._last_plan()
        compiled, layer_by_layer = (plan.itemsize * sum(traffic) for traffic in plan.traffic)
        return {"layer by layer": layer_by_layer, "compiled": compiled}

    @property
    def planned_bytes(self) -> int:
        """Bytes of memory that the values and gradients of ``plan`` share."""
        return self._last_plan().nbytes

    def _last_plan(self) -> TrainingPlan:
        if not self._plans:
            if self._model.input_shape is None:
                raise ShapeError("the plan depends on the input's shape: take a step first")
            return self._plan((2, *self._model.input_shape), next(self._model.named_tensors())[1].dtype)
        return list(self._plans.values())[-1]
