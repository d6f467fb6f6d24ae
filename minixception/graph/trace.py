"""What a model computes, as a list of nodes in the order they run: found by running it on shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import nn
from ..engine.op import Observer, Op, Shape, observe, shape_only
from ..engine.tensor import Tensor, no_grad
from ..nn.modern import Scale

_TOGETHER = 3 << 20  # numbers in the largest result: 12 MiB of float32, which the L3 of most CPUs holds
_IMAGE_BY_IMAGE = {  # layers that treat each image of a batch for itself, at inference
    *(nn.Activation, nn.Add, nn.Concat, nn.BatchNorm2d, nn.Linear, nn.Flatten, Scale),
    *(nn.Conv2d, nn.DepthwiseConv2d, nn.PointwiseConv2d, nn.SeparableConv2d),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.BlurPool2d, nn.GlobalAvgPool, nn.GlobalMaxPool),
}


@dataclass(frozen=True)
class Node:
    """One layer, or one operator applied outside of a layer.

    inputs, output: values by number; 0 is the model's input. shape: of the output. run: computes it from the inputs'
    tensors, for nodes that no fused kernel takes.
    """

    path: str
    module: nn.Module | None
    inputs: tuple[int, ...]
    output: int
    shape: Shape
    run: Callable[..., Tensor]

    def on_arrays(self, *arrays: Any) -> Any:
        """``run`` without the tape: arrays of the inputs -> array of the output, on the device of the inputs."""
        with no_grad():
            return self.run(*map(Tensor, arrays)).data


@dataclass(frozen=True)
class Graph:
    """The nodes in order, the number of the result, and the tensors (parameters) that enter as constants."""

    nodes: list[Node]
    result: int
    constants: dict[int, Tensor]

    def images_together(self) -> int:
        """Of a batch, how many go through the network at a time: as many as leave the largest result in the cache.

        A batch of large images, layer by layer, would go out to memory and back between any two layers. All of them, if
        the network has anything but layers that treat each image for itself.
        """
        images = self.nodes[0].shape[0]
        if any(type(node.module) not in _IMAGE_BY_IMAGE or node.shape[0] != images for node in self.nodes):
            return images
        at_most = max(1, _TOGETHER * images // max(math.prod(node.shape) for node in self.nodes))
        return math.ceil(images / math.ceil(images / at_most))

    def consumers(self, value: int) -> list[Node]:
        """The nodes that read a value."""
        return [node for node in self.nodes if value in node.inputs]


class _Trace(Observer):
    """Numbers every tensor it sees; tensors are kept alive, so that no two of them are the same object."""

    shapes_only = True

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.paths = {module: path for path, module in model.named_modules()}
        self.numbers: dict[Tensor, int] = {x: 0}
        self.open: list[nn.Module] = []
        self.nodes: list[Node] = []
        self.made = {0}

    def number(self, tensor: Tensor) -> int:
        return self.numbers.setdefault(tensor, len(self.numbers))

    def _add(
        self, path: str, module: nn.Module | None, inputs: Sequence[Tensor], output: Tensor, run: Callable[..., Tensor]
    ) -> None:
        if output in inputs:  # dropout at inference hands on what it was given
            return
        node = Node(path, module, tuple(map(self.number, inputs)), self.number(output), output.shape, run)
        self.nodes.append(node)
        self.made.add(node.output)

    def enter_module(self, module: nn.Module) -> None:
        self.open.append(module)

    def exit_module(self, module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        self.open.pop()
        if not module.children():
            self._add(self.paths[module], module, inputs, output, module)

    def on_op(self, op: Op, inputs: Sequence[Tensor], params: dict[str, Any], output: Tensor) -> None:
        innermost = self.open[-1]
        if innermost.children():
            path = f"{self.paths[innermost]}.{op.name}".lstrip(".")
            self._add(path, None, inputs, output, lambda *tensors: op(*tensors, **params))


def trace(model: nn.Module, shape: Shape, dtype: Any = np.float32) -> Graph:
    """The graph of a model in inference mode for an input of this shape (n, h, w, c)."""
    x = Tensor(shape_only(shape, dtype))
    observer = _Trace(model, x)
    with no_grad(), observe(observer):
        y = model(x)
    constants = {number: t for t, number in observer.numbers.items() if number not in observer.made}
    return Graph(observer.nodes, observer.number(y), constants)
