"""Forward and backward pass of one batch: its loss, its accuracy, and the gradient of every parameter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..compiler.training import Loss, Ready, TrainingStep, nobody
from ..engine.tensor import Tensor
from ..gpu.device import to_gpu
from ..gpu.graph import Repeated
from ..nn import Module, Parameter
from ..ops.loss import CROSS_ENTROPY, checked_labels
from .measure import loss_and_ranks, measure, read


class Gradients:
    """Computes the loss and top-1 accuracy of a batch, and leaves the gradients in ``grad`` of the parameters.

    On the CPU both passes are compiled (``mx.compile``), unless ``eager`` asks for layer by layer. On a GPU the first
    batch of a shape runs, the second is recorded, and from then on the passes are replayed: one launch instead of
    hundreds (gpu/graph.py). Then ``grad`` is overwritten by each batch, and what the model's layers do must depend on
    nothing but their inputs and the package's random numbers.
    """

    def __init__(self, model: Module, classes: int, label_smoothing: float, eager: bool = False) -> None:
        self._parameters = list(model.parameters())
        self._classes = classes
        loss = partial(CROSS_ENTROPY, label_smoothing=label_smoothing)
        self._pass = _both_passes(model, self._parameters, loss)
        self._compiled = None if eager or not _on_cpu(model) else TrainingStep(model, loss)
        self._repeated: dict[tuple[int, ...], Repeated] = {}

    def __call__(self, x: Tensor, labels: Any, ready: Ready = nobody) -> list[float]:
        """Loss and accuracy of x (n, h, w, c), where the model is, and labels (n,); LabelError as of cross_entropy.

        ready: called on the CPU with each parameter that has its gradient; while others are to come, where compiled.
        """
        labels = checked_labels(labels, self._classes)
        if x.device == "cpu":
            if self._compiled:
                return measure(*self._compiled.gradients(x, Tensor(labels), ready), labels)
            passed = self._pass(x, Tensor(labels))
            for parameter in self._parameters:
                ready(parameter)
            return measure(*passed, labels)
        if x.shape not in self._repeated:
            self._repeated[x.shape] = Repeated(_on_gpu(self._pass, self._parameters))
        values, gradients = self._repeated[x.shape](x.data, to_gpu(labels))
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return read(values)


def _both_passes(
    model: Module, parameters: Sequence[Parameter], loss: Loss
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """x, labels -> loss and logits, after backward()."""

    def run(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for parameter in parameters:
            parameter.grad = None
        logits = model(x)
        value = loss(logits, labels)
        value.backward()
        return value, logits

    return run


def _on_cpu(model: Module) -> bool:
    return all(tensor.device == "cpu" for _, tensor in model.named_tensors())


def _on_gpu(
    both_passes: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], parameters: Sequence[Parameter]
) -> Callable[[Any, Any], tuple[Any, list[Any]]]:
    """x, labels -> what ``read`` reads, and the gradients."""

    def run(x: Any, labels: Any) -> tuple[Any, list[Any]]:
        loss, logits = both_passes(Tensor(x), Tensor(labels))
        return loss_and_ranks(loss, logits, labels), [parameter.grad for parameter in parameters]

    return run
