"""What a model computes: its layers in the order they run, found by running it on shapes alone.

This is the one tracer of layers: ``cost`` adds up what it finds, ``compiler`` fuses it, figures draw it, and
``weights`` asks it for the order of the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..engine.op import Observer, Op, Shape, observe, shape_only
from ..engine.tape import no_grad
from ..engine.tensor import Tensor
from ..errors import TraceError
from ..nn import Activation, Buffer, Module, Parameter, SeparableConv2d


class Call(NamedTuple):
    """An operator as a layer called it, and its multiply-accumulates."""

    op: Op
    inputs: tuple[Tensor, ...]
    params: dict[str, Any]
    macs: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer without sub-modules as it ran, or one operator applied outside of such a layer.

    path: where it stands in the model. module: None for an operator. tensors: the parameters and buffers that no
    earlier layer has used. inputs, output: shapes. calls: the operators inside. reads, makes: the values that enter and
    leave it, as indices in the order of their appearance; 0 is the model's input. run: input tensors -> output tensor.
    """

    path: str
    kind: str
    module: Module | None
    tensors: tuple[Tensor, ...]
    inputs: tuple[Shape, ...]
    output: Shape
    calls: tuple[Call, ...]
    reads: tuple[int, ...]
    makes: int
    run: Callable[..., Tensor]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its operators."""
        return sum(call.macs for call in self.calls)

    def on_arrays(self, *arrays: Any) -> Any:
        """``run`` at inference: arrays of the inputs -> array of the output, on the device of the inputs."""
        with no_grad(), nullcontext() if self.module is None else self.module.inference():
            return self.run(*map(Tensor, arrays)).data


@dataclass(frozen=True)
class Graph:
    """layers: all, in order. result: the index of the returned value. constants: tensors that enter as values."""

    layers: list[Layer]
    result: int
    constants: dict[int, Tensor]

    @property
    def nodes(self) -> list[Layer]:
        """The layers that compute something: at inference, dropout hands on what it was given."""
        return [layer for layer in self.layers if layer.makes not in layer.reads]

    def consumers(self, value: int) -> list[Layer]:
        """The nodes that read a value."""
        return [node for node in self.nodes if value in node.reads]


class _Tracer(Observer):
    """Collects the layers; keeps every tensor that has an index alive, so that no two of them are the same object."""

    shapes_only = True

    def __init__(self, model: Module, x: Tensor, stand_in: float) -> None:
        self.stand_in = stand_in
        self.paths = {module: path for path, module in model.named_modules()}
        self.open: list[Module] = []
        self.calls: list[Call] = []  # of the layer that is running
        self.counted: set[Tensor] = set()
        self.indices: dict[Tensor, int] = {x: 0}
        self.made = {0}
        self.layers: list[Layer] = []

    def index(self, tensor: Tensor) -> int:
        return self.indices.setdefault(tensor, len(self.indices))

    def enter_module(self, module: Module) -> None:
        self.open.append(module)
        self.calls = []

    def exit_module(self, module: Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        self.open.pop()
        if module.children():
            return
        if module not in self.paths:
            raise TraceError(
                f"a layer {type(module).__name__} is made while the model runs, and is no part of it: set it as an "
                "attribute when the model is made"
            )
        path, run = self.paths[module], module.__call__
        for one in (*inputs, output):
            _require_tensor(one, f"layer {path!r} ({type(module).__name__}) takes tensors and returns one")
        if isinstance(module, SeparableConv2d) and module.relu:  # a layer of its own in the paper's figure and in Keras
            rectified = Tensor(shape_only(inputs[0].shape, inputs[0].dtype, self.stand_in))
            relu = Activation("relu")
            self._add(f"{path}_act", relu, inputs, rectified, relu)
            inputs, run = (rectified,), module.convolve
        self._add(path, module, inputs, output, run, self.calls, vars(module).values())

    def on_op(self, op: Op, inputs: Sequence[Tensor], params: dict[str, Any], output: Tensor) -> None:
        call = Call(op, tuple(inputs), params, op.macs(*[t.shape for t in inputs], **params))
        innermost = self.open[-1]
        if innermost.children():
            path = f"{self.paths[innermost]}.{op.name}".lstrip(".")
            self._add(path, op, inputs, output, lambda *tensors: op(*tensors, **params), [call], inputs)
        else:
            self.calls.append(call)

    def _add(
        self,
        path: str,
        what: Module | Op,
        inputs: Sequence[Tensor],
        output: Tensor,
        run: Callable[..., Tensor],
        calls: Iterable[Call] = (),
        values: Iterable[Any] = (),
    ) -> None:
        tensors = tuple(t for t in values if isinstance(t, Parameter | Buffer) and t not in self.counted)
        self.counted.update(tensors)
        self.layers.append(
            Layer(
                path=path,
                kind=what.name if isinstance(what, Op) else type(what).__name__,
                module=None if isinstance(what, Op) else what,
                tensors=tensors,
                inputs=tuple(t.shape for t in inputs if not isinstance(t, Parameter | Buffer)),
                output=output.shape,
                calls=tuple(calls),
                reads=tuple(map(self.index, inputs)),
                makes=self.index(output),
                run=run,
            )
        )
        self.made.add(self.index(output))


def _require_tensor(one: Any, rule: str) -> None:
    if not isinstance(one, Tensor):
        raise TraceError(f"{rule}, and here is {type(one).__name__}: what it computes cannot be followed")


def trace(model: Module, shape: Shape, dtype: Any = np.float32, inference: bool = True, stand_in: float = 0.0) -> Graph:
    """The graph of a model for an input of this shape (n, h, w, c), as at inference or as its modules are set.

    Takes milliseconds and no memory: operators only work out shapes. stand_in: the value that all elements have
    meanwhile; a model that is a graph does not depend on it. Raises ShapeError where a layer would, and TraceError
    where the model or a layer takes or returns something else than tensors.

    >>> import minixception as mx
    >>> model = mx.nn.Sequential(conv=mx.nn.Conv2d(3, 4), act=mx.nn.Activation("relu"))
    >>> [(layer.path, layer.macs) for layer in trace(model, (1, 8, 8, 3)).layers]
    [('conv', 6912), ('act', 0)]
    """
    x = Tensor(shape_only(shape, dtype, stand_in))
    tracer = _Tracer(model, x, stand_in)
    with model.inference() if inference else nullcontext(), no_grad(), observe(tracer):
        y = model(x)
    _require_tensor(y, f"{type(model).__name__}.forward returns one tensor")
    constants = {index: t for t, index in tracer.indices.items() if index not in tracer.made}
    return Graph(tracer.layers, tracer.index(y), constants)
