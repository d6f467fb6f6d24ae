"""A training step, compiled: forward and backward pass of a batch planned once, with kernels fused across layers.

The graph of the model becomes a list of actions, first those of the forward pass, then those of the backward pass in
the opposite order. Three kinds of parts put their actions into it:

- ``_Separable``: a separable convolution, which reads through the batchnorm and the ReLU in front of it;
- ``_Norm``: a batchnorm in training, alone or with the addition and the ReLU behind it. In front of a separable
  convolution it writes nothing: it hands on the factors by which others normalise what they load;
- ``_Layer``: any other layer. It runs as it always does, on a tape of its own, and is the definition of itself.

Every array that passes between them has a slot; the moments at which it is written first and read last are known, and
slots that are not needed at the same time share memory (arena.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..cpu import memory
from ..cpu.depthwise_backward import BOTH_GRADIENTS
from ..cpu.gemm import gemm
from ..engine import tape
from ..engine.accumulate import accumulate
from ..engine.op import Shape
from ..engine.random import generator
from ..engine.tensor import Tensor
from ..graph.trace import Graph, Layer
from ..nn import Activation, Add, BatchNorm2d, Module, SeparableConv2d
from ..ops.batchnorm import BATCH_NORM, move_running
from ..ops.batchnorm.cpu import (
    batch_statistics,
    gradient_sums,
    merged_statistics,
    normalise,
    normalising,
    project,
    projecting,
)
from ..ops.depthwise.cpu import filter_into
from ..ops.depthwise.cpu import floor as least
from ..ops.separable import RELU_SEPARABLE_CONV2D, SEPARABLE_CONV2D
from ..ops.separable import training as separable
from ..ops.window import extents
from ..tables import Table
from .arena import Slot, place
from .plan import checked_graph

Loss = Callable[[Tensor, Tensor], Tensor]


class TrainingPlan:
    """One batch shape: run it with ``plan(x, labels, loss)``, which leaves the gradients in the model's parameters."""

    def __init__(self, model: Module, shape: Shape, dtype: Any) -> None:
        state = generator().bit_generator.state
        graph = checked_graph(model, shape, dtype, inference=False)
        generator().bit_generator.state = state  # a traced dropout has drawn a mask
        self._parameters = list(model.parameters())
        build = _Build(graph, np.dtype(dtype))
        parts = fused(build)
        forward = len(build.actions)
        build.act(lambda: self._loss_and_its_gradient())
        self._logits, self._seed = build.value(graph.result), build.hold(graph.result)
        for part in reversed(parts):
            part.plan_backward(build)
        self._input, self._actions = build.value(0), build.finished()
        self.parts, self._forward = parts, forward
        self.nbytes = build.nbytes
        self._given: tuple[Any, Loss] | None = None

    def __call__(self, x: np.ndarray, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """Loss and logits; parameters without a gradient keep ``grad`` None."""
        for parameter in self._parameters:
            parameter.grad = None
        self._input.array, self._given = x, (labels, loss)
        for action, done in self._actions:
            action()
            for slot in done:
                slot.array = None
        result, self._result = self._result, None
        return result

    def _loss_and_its_gradient(self) -> None:
        assert self._given is not None
        labels, loss = self._given
        logits = Tensor(np.array(self._logits.array), requires_grad=True)
        value = loss(logits, labels)
        value.backward()
        self._seed.array = logits.grad
        self._result: Any = value.detach(), logits.detach()

    def table(self) -> Table:
        """One row per part: its layers, and what runs them."""
        return Table(
            ("layers", "runs as"),
            [(" + ".join(part.paths), part.runs_as) for part in self.parts],
            (f"{len(self.parts)} parts", f"{self.nbytes / 2**20:.1f} MiB"),
        )


class _Build:
    """What is known while the list of actions grows: the moment, and where each value and its gradient lie."""

    def __init__(self, graph: Graph, dtype: np.dtype) -> None:
        self.graph, self.dtype = graph, dtype
        self.makers = {node.makes: node for node in graph.nodes}
        self.actions: list[Callable[[], Any]] = []
        self._slots: list[Slot] = []
        self._values: dict[int, Slot] = {}
        self._gradients: dict[int, Slot] = {}
        self._wanted = {0: False} | {index: t.requires_grad for index, t in graph.constants.items()}
        for node in graph.nodes:
            trained = any(t.requires_grad for call in node.calls for t in call.inputs)
            self._wanted[node.makes] = trained or any(self._wanted[value] for value in node.reads)

    def act(self, action: Callable[[], Any]) -> None:
        """The next thing to do; slots asked for before it are needed at this moment."""
        self.actions.append(action)

    def slot(self, shape: Shape | None) -> Slot:
        """A new one, from this moment on."""
        self._slots.append(Slot(shape, len(self.actions)))
        return self._slots[-1]

    def value(self, index: int, shape: Shape | None = None) -> Slot:
        """Where a value lies, needed at this moment; with a shape in planned memory, if it is new."""
        if index not in self._values:
            self._values[index] = self.slot(shape)
        return self._needed(self._values[index])

    def wants_gradient(self, index: int) -> bool:
        """Whether any parameter lies behind this value."""
        return self._wanted[index]

    def gradient(self, index: int) -> Slot | None:
        """The gradient of a value, of all that has reached it, needed at this moment; None if nothing has."""
        slot = self._gradients.get(index)
        return None if slot is None else self._needed(slot)

    def hold(self, index: int, slot: Slot | None = None) -> Slot:
        """From now on the value's gradient is in this slot, or in a new one for an array of somebody else's."""
        self._gradients[index] = self._needed(slot or self.slot(None))
        return self._gradients[index]

    def add_gradient(self, index: int, slot: Slot) -> None:
        """What is in the slot reaches this value, too; the slot is read by others and stays as it is."""
        before = self.gradient(index)
        if not self.wants_gradient(index):
            return
        if before is None:
            self.hold(index, slot)
            return
        first, total = before, self.hold(index, self.slot(slot.shape or before.shape))

        def add() -> None:
            if total.shape is None:
                total.array = np.empty_like(slot.array)
            np.add(first.array, slot.array, out=total.array)

        self._needed(slot)
        self.act(add)

    def _needed(self, slot: Slot) -> Slot:
        slot.last = len(self.actions)
        return slot

    def finished(self) -> list[tuple[Callable[[], Any], list[Slot]]]:
        """The actions, each with the slots whose arrays are forgotten after it; memory is given out."""
        self.nbytes = place(self._slots, self.dtype)
        done: list[list[Slot]] = [[] for _ in self.actions]
        for slot in self._slots:
            if slot.shape is None and slot.last < len(done):
                done[slot.last].append(slot)
        return list(zip(self.actions, done, strict=True))


# Which layers go together ---------------------------------------------------------------------------------------------


def fused(build: _Build) -> list[_Layer | _Norm | _Separable]:
    """The parts of a graph in the order in which they run; their forward actions are in ``build``."""
    graph = build.graph
    taken: set[int] = set()  # what nodes make that an earlier part has taken in, or a later one will
    norms: dict[int, _Norm] = {}  # by what their batchnorm makes
    separables: dict[int, _Separable] = {}
    waiting: dict[int, _Norm] = {}  # batchnorms that run with the addition behind them, by what that makes
    parts: list[_Layer | _Norm | _Separable] = []
    once = _used_once(graph)
    for node in graph.nodes:
        if node.makes in waiting:
            part: _Layer | _Norm | _Separable = waiting[node.makes]
        elif node.makes in taken:
            continue
        elif node in once and _is_norm(node):
            producer = separables.get(node.reads[0]) if len(graph.consumers(node.reads[0])) == 1 else None
            part = norms[node.makes] = _Norm(node, producer, _behind(build, node, once))
            taken.update(part.takes)
            if part.other is not None:  # it runs when what is added is there
                waiting[part.sum] = part
                continue
        elif node in once and _is_separable(build, node):
            source, relu = _through_relu(build, node, once)
            part = separables[node.makes] = _Separable(node, source, relu, norms.get(source))
        elif _relu_before_separables(build, node, once):
            continue
        else:
            part = _Layer(node)
        part.plan_forward(build)
        parts.append(part)
    return parts


def _used_once(graph: Graph) -> set[Layer]:
    """Layers whose module runs only once: the gradients of one that runs twice add up on its own tape."""
    modules = [node.module for node in graph.nodes]
    return {node for node in graph.nodes if node.module is not None and modules.count(node.module) == 1}


def _is_norm(node: Layer) -> bool:
    """A batchnorm that uses the statistics of the batch."""
    return (
        isinstance(node.module, BatchNorm2d)
        and [call.op for call in node.calls] == [BATCH_NORM]
        and node.calls[0].params["training"]
    )


def _is_separable(build: _Build, node: Layer) -> bool:
    """One for whose window and gradients there are kernels."""
    module = node.module
    if not isinstance(module, SeparableConv2d) or module.activation is not None:
        return False
    (call,) = node.calls
    kh, kw, _ = module.depthwise.shape
    return (
        call.op in (SEPARABLE_CONV2D, RELU_SEPARABLE_CONV2D)
        and kh == kw in BOTH_GRADIENTS
        and call.params["stride"] == 1
        and module.depthwise.requires_grad
        and module.pointwise.requires_grad
        and build.wants_gradient(node.reads[0])
    )


def _is_relu(node: Layer | None) -> bool:
    return node is not None and isinstance(node.module, Activation) and node.module.name == "relu"


def _relu_before_separables(build: _Build, node: Layer, once: set[Layer]) -> bool:
    """A ReLU whose readers all apply it themselves."""
    readers = build.graph.consumers(node.makes)
    return (
        _is_relu(node)
        and node.makes != build.graph.result
        and len(readers) > 0
        and all(reader in once and _is_separable(build, reader) for reader in readers)
    )


def _through_relu(build: _Build, node: Layer, once: set[Layer]) -> tuple[int, bool]:
    """What a separable convolution reads, and whether through a ReLU."""
    source = node.reads[0]
    front = build.makers.get(source)
    if front is not None and _relu_before_separables(build, front, once):
        return front.reads[0], True
    return source, False


class _Behind(NamedTuple):
    """What runs with a batchnorm: the addition and the ReLU behind it, and whether a separable convolution is next."""

    add: Layer | None = None
    relu: Layer | None = None
    read_by_separable: bool = False


def _behind(build: _Build, node: Layer, once: set[Layer]) -> _Behind:
    """Each is taken in only where nothing else reads what is in front of it."""
    follower, add = _only_reader(build.graph, node), None
    if follower is not None and follower in once and _is_separable(build, follower):
        return _Behind(read_by_separable=True)
    if follower is not None and _relu_before_separables(build, follower, once):
        alone = len(build.graph.consumers(follower.makes)) == 1
        return _Behind(relu=follower, read_by_separable=True) if alone else _Behind()
    if follower is not None and isinstance(follower.module, Add) and len(set(follower.reads)) == 2:
        add = follower
        follower = _only_reader(build.graph, add)
    if follower is not None and _is_relu(follower) and not _relu_before_separables(build, follower, once):
        return _Behind(add, follower)
    return _Behind(add)


def _only_reader(graph: Graph, node: Layer) -> Layer | None:
    readers = graph.consumers(node.makes)
    return readers[0] if len(readers) == 1 and node.makes != graph.result else None


# The parts -----------------------------------------------------------------------------------------------------------


class _Layer:
    """A layer as it is: its tape of the forward pass is kept until the backward pass has used it."""

    runs_as = "layer"

    def __init__(self, node: Layer) -> None:
        self.node, self.paths = node, [node.path]

    def plan_forward(self, build: _Build) -> None:
        reads, result = self._inputs(build), build.value(self.node.makes)
        constants = build.graph.constants

        def forward() -> None:
            self._leaves = {index: Tensor(slot.array, build.wants_gradient(index)) for index, slot in reads.items()}
            inputs = [constants[index] if index in constants else self._leaves[index] for index in self.node.reads]
            self._result: Tensor | None = self.node.run(*inputs)
            result.array = self._result.data

        build.act(forward)

    def _inputs(self, build: _Build) -> dict[int, Slot]:
        return {index: build.value(index) for index in self.node.reads if index not in build.graph.constants}

    def plan_backward(self, build: _Build) -> None:
        dy = build.gradient(self.node.makes)
        if dy is None:
            return
        reads = self._inputs(build)  # the tape holds them
        wanted = [index for index in reads if build.wants_gradient(index)]
        before = {index: build.gradient(index) for index in wanted}
        after = {index: build.hold(index) for index in wanted}

        def backward() -> None:
            assert self._result is not None
            tape.backward(self._result, dy.array)
            for index, slot in after.items():
                slot.array, earlier = self._leaves[index].grad, before[index]
                if earlier is not None:
                    accumulate(slot.array, earlier.array)
            self._leaves, self._result = {}, None

        build.act(backward)


class _Norm:
    """Batchnorm of y; with an addition behind it or not, and with a ReLU or not.

    In front of a separable convolution nothing is written: ``normalised`` are the factors by which it reads y, and it
    leaves the two sums of its gradient in ``sums``. Behind one, its ``statistics`` are those of y, and ``projection``
    are the factors by which it turns the gradient into that of y.
    """

    def __init__(self, node: Layer, producer: _Separable | None, behind: _Behind) -> None:
        assert isinstance(node.module, BatchNorm2d)
        self.node, self.module, self.producer, self.behind = node, node.module, producer, behind
        followers = [follower for follower in (behind.add, behind.relu) if follower is not None]
        self.takes = {follower.makes for follower in followers}
        self.paths = [layer.path for layer in (node, *followers)]
        self.makes = ([node, *followers])[-1].makes
        if behind.read_by_separable:
            self.makes = node.makes
        self.sum = behind.add.makes if behind.add else node.makes
        self.other = None if behind.add is None else next(v for v in behind.add.reads if v != node.makes)
        self.runs_as = "read by the next" if behind.read_by_separable else "one pass"
        self.sums: Any = None
        if producer is not None:
            producer.norm = self

    def plan_forward(self, build: _Build) -> None:
        y = build.value(self.node.reads[0])
        written = not self.behind.read_by_separable
        other = None if self.other is None else build.value(self.other)
        result = build.value(self.makes, self.node.output) if written else None
        momentum, eps, relu = self.module.momentum, self.module.eps, self.behind.relu is not None

        def forward() -> None:
            module = self.module
            gamma = 1.0 if module.gamma is None else module.gamma.data
            parts = self.producer.statistics if self.producer else None
            mean, var = merged_statistics(y.array, *parts) if parts else batch_statistics(y.array)
            self.normalised = normalising(mean, var, gamma, module.beta.data, eps, relu)
            rounded = -self.normalised.minus_mean
            self._saved = gamma, rounded, var, eps
            move_running(module.running_mean.data, rounded, momentum)
            move_running(module.running_var.data, var, momentum)
            if result is not None:
                normalise(y.array, self.normalised, None if other is None else other.array, result.array)

        build.act(forward)

    def plan_backward(self, build: _Build) -> None:
        dy = build.gradient(self.makes)
        if dy is None:
            return
        y, shape = build.value(self.node.reads[0]), self.node.output
        gate = gated = None
        if self.behind.relu is not None and not self.behind.read_by_separable:
            gate, gated = build.value(self.makes), build.slot(shape)

        def sums() -> None:
            if not self.behind.read_by_separable:
                gates = (None, None) if gate is None or gated is None else (gate.array, gated.array)
                self.sums = gradient_sums(dy.array, y.array, -self._saved[1], *gates)
            module, rows = self.module, y.array.size // y.array.shape[-1]
            dgamma, module.beta.grad, self.projection = projecting(self.sums, rows, self._saved)
            if module.gamma is not None and module.gamma.requires_grad:
                module.gamma.grad = dgamma

        build.act(sums)
        through = gated or dy
        if self.other is not None:
            build.add_gradient(self.other, through)
        build.hold(self.node.makes, through)
        if self.producer is None and build.wants_gradient(self.node.reads[0]):
            build.gradient(self.node.makes)
            dx = build.slot(shape)
            build.value(self.node.reads[0])
            build.act(lambda: project(through.array, y.array, self.projection, dx.array))
            build.add_gradient(self.node.reads[0], dx)


class _Separable:
    """A separable convolution with stride 1 that reads x through a batchnorm or not, and through a ReLU or not."""

    def __init__(self, node: Layer, source: int, relu: bool, front: _Norm | None) -> None:
        assert isinstance(node.module, SeparableConv2d)
        self.node, self.module, self.source, self.relu = node, node.module, source, relu
        self.front = front if front is not None and front.behind.read_by_separable else None
        self.norm: _Norm | None = None  # the batchnorm behind, if it alone reads y
        self.paths = [node.path]
        self.statistics: Any = None
        self.runs_as = "fused kernels"

    def plan_forward(self, build: _Build) -> None:
        x, y = build.value(self._reads), build.value(self.node.makes, self.node.output)

        def forward() -> None:
            weights = self.module.depthwise.data, self.module.pointwise.data
            self.statistics = separable.forward(x.array, self._incoming(x), *weights, y.array, self._corner(x))

        build.act(forward)

    @property
    def _reads(self) -> int:
        """The value that lies in memory: what batchnorm reads, if one is in front."""
        return self.source if self.front is None else self.front.node.reads[0]

    def _incoming(self, x: Slot) -> Any:
        return least(x.array.dtype, self.relu) if self.front is None else self.front.normalised

    def _corner(self, x: Slot) -> tuple[int, int]:
        (_, top), (_, left) = extents(
            x.array.shape, self.module.depthwise.shape, 1, self.node.calls[0].params["padding"]
        )
        return top, left

    def plan_backward(self, build: _Build) -> None:
        norm = self.norm
        given = build.gradient(self.node.makes if norm is None else norm.node.makes)
        if given is None:
            return
        x, y = build.value(self._reads), build.value(self.node.makes)
        ci, co = self.module.pointwise.shape
        shape = (*self.node.output[:3], ci)
        dz = build.slot(shape)
        in_strips = norm is not None and separable.pays_in_strips(shape, (ci, co))
        z = dz if in_strips else build.slot(shape)
        dy = given if norm is None or in_strips else build.slot(self.node.output)

        def pointwise() -> None:
            wd, wp = self.module.depthwise.data, self.module.pointwise.data
            reading = x.array, self._incoming(x), (wd, wp), self._corner(x)
            if norm is not None and in_strips:
                dwp = separable.pointwise_gradients(*reading, given.array, y.array, norm.projection, dz.array)
            else:
                if norm is None:
                    gemm(dy.array.reshape(-1, co), wp, dz.array.reshape(-1, ci), transpose_b=True)
                else:
                    separable.project_and_multiply(given.array, y.array, norm.projection, wp, dy.array, dz.array)
                filter_into(z.array, x.array, wd, 1, self._corner(x), self._incoming(x))
                rows = z.array.reshape(-1, ci), dy.array.reshape(-1, co)
                dwp = gemm(*rows, memory.empty(wp.shape, wp.dtype), transpose_a=True)
            self.module.pointwise.grad = dwp

        build.act(pointwise)
        residual = build.gradient(self.source)
        build.value(self._reads)
        dz.last = len(build.actions)
        dx = build.slot(tuple(self.node.inputs[0]))
        front = self.front

        def depthwise() -> None:
            of = None if front is None else (x.array, front.normalised.minus_mean)
            earlier = None if residual is None else residual.array
            arguments = (self.relu, dz.array, self.module.depthwise.data, dx.array, self._corner(x), earlier, of)
            self.module.depthwise.grad, sums = separable.gradients(x.array, self._incoming(x), *arguments)
            if front is not None:
                front.sums = sums

        build.act(depthwise)
        build.hold(self.source, dx)
        dx.last = max(dx.last, len(build.actions) - 1)
