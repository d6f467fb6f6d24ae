"""What a training step is made of: each part puts its actions into the forward and into the backward pass."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ...cpu import memory
from ...cpu.gemm import gemm
from ...cpu.simd import Normalised
from ...engine import tape
from ...engine.accumulate import accumulate
from ...engine.tensor import Tensor
from ...graph.trace import Layer
from ...nn import BatchNorm2d, Parameter, SeparableConv2d
from ...ops.batchnorm import move_running
from ...ops.batchnorm.cpu import (
    batch_statistics,
    gradient_sums,
    merged_statistics,
    normalise,
    normalising,
    project,
    projecting,
)
from ...ops.depthwise.cpu import filter_into
from ...ops.pooling.max_pool import gradient_into, pool_normalised
from ...ops.separable import training as separable
from ...ops.window import extents
from .arena import Slot
from .build import Build
from .traffic import Traffic, of_layer


class LayerPart:
    """A layer as it is: its tape of the forward pass is kept until the backward pass has used it."""

    runs_as = "layer"

    def __init__(self, node: Layer) -> None:
        self.node, self.paths = node, [node.path]
        self.traffic = of_layer(node)

    def plan_forward(self, build: Build) -> None:
        reads, result = self._inputs(build), build.value(self.node.makes)
        constants = build.graph.constants

        def forward() -> None:
            self._leaves = {index: Tensor(slot.array, build.wants_gradient(index)) for index, slot in reads.items()}
            inputs = [constants[index] if index in constants else self._leaves[index] for index in self.node.reads]
            self._result: Tensor | None = self.node.run(*inputs)
            result.array = self._result.data

        build.act(forward)

    def _inputs(self, build: Build) -> dict[int, Slot]:
        return {index: build.value(index) for index in self.node.reads if index not in build.graph.constants}

    def plan_backward(self, build: Build) -> None:
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


class Behind(NamedTuple):
    """What runs with a batchnorm: the addition and the ReLU behind it, or the layer that reads through both."""

    add: Layer | None = None
    relu: Layer | None = None
    reader: Layer | None = None


class NormPart:
    """Batchnorm of y; with an addition behind it or not, and with a ReLU or not.

    In front of a separable convolution or a max pooling nothing is written: ``normalised`` are the factors by which it
    reads y. Such a convolution, or one that reads what is written here, leaves the two sums of the gradient in
    ``sums``. Behind a
    separable convolution ``statistics`` are those that it has taken of y, and ``projection`` are the factors by which
    it turns the gradient into that of y.
    """

    def __init__(self, node: Layer, producer: SeparablePart | None, behind: Behind) -> None:
        assert isinstance(node.module, BatchNorm2d)
        self.node, self.module, self.producer, self.behind = node, node.module, producer, behind
        followers = [follower for follower in (behind.add, behind.relu) if follower is not None]
        self.takes = {follower.makes for follower in followers}
        self.paths = [layer.path for layer in (node, *followers)]
        self.makes = node.makes if behind.reader else [node, *followers][-1].makes
        self.sum = behind.add.makes if behind.add else node.makes
        self.other = None if behind.add is None else next(v for v in behind.add.reads if v != node.makes)
        self.runs_as = "read by the next" if behind.reader else "one pass"
        self.sums: Any = None
        self.summed: Slot | None = None  # the gradient that ``sums`` will be of, if a separable convolution takes them
        self._sums_alone = True
        if producer is not None:
            producer.norm = self

    @property
    def traffic(self) -> Traffic:
        """y for the statistics, if nobody has taken them; y, what is added, and the result. Backward: the sums; dx."""
        behind, size, alone = self.behind, math.prod(self.node.output), self.producer is None
        written = 0 if behind.reader else 2 + (behind.add is not None)
        gated = 2 * (written > 0 and behind.relu is not None)  # the gate is read, and the gated gradient written
        return Traffic(size * (written + alone), size * (2 * self._sums_alone + gated + 3 * alone))

    def plan_forward(self, build: Build) -> None:
        y = build.value(self.node.reads[0])
        written = self.behind.reader is None
        other = None if self.other is None else build.value(self.other)
        result = build.value(self.makes, self.node.output) if written else None
        momentum, eps, relu = self.module.momentum, self.module.eps, self.behind.relu is not None

        def forward() -> None:
            module = self.module
            gamma = np.ones_like(module.beta.data) if module.gamma is None else module.gamma.data
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

    def plan_backward(self, build: Build) -> None:
        dy = build.gradient(self.makes)
        if dy is None:
            return
        y, shape = build.value(self.node.reads[0]), self.node.output
        self._sums_alone = self.summed is not dy
        gate = gated = None
        if self.behind.relu is not None and self.behind.reader is None:
            gate, gated = build.value(self.makes), build.slot(shape)

        def sums() -> None:
            if self._sums_alone:
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


class SeparablePart:
    """A separable convolution with stride 1 that reads x through a batchnorm or not, and through a ReLU or not."""

    def __init__(self, node: Layer, source: int, relu: bool, maker: NormPart | None) -> None:
        assert isinstance(node.module, SeparableConv2d)
        self.node, self.module, self.source, self.relu = node, node.module, source, relu
        self.front = maker if maker is not None and maker.behind.reader else None
        self.summing = maker if maker is not None and (self.front or maker.behind.relu is None) else None
        self.norm: NormPart | None = None  # the batchnorm behind, if it alone reads y
        self.paths = [node.path]
        self.statistics: Any = None
        self.runs_as = "fused kernels"
        self._z = (*node.output[:3], node.inputs[0][3])  # the shape of the depthwise result

    @property
    def in_strips(self) -> bool:
        """Whether both products of the backward pass are made of one strip after the other."""
        return self.norm is not None and separable.pays_in_strips(math.prod(self._z[:3]), *self.module.pointwise.shape)

    @property
    def traffic(self) -> Traffic:
        """x and y; g, y, x and dz, or pass by pass also dy and z, written and read; then dz, x and dx."""
        x, y, z = (math.prod(shape) for shape in (self.node.inputs[0], self.node.output, self._z))
        projected = 3 if self.norm is not None else 0
        products = 2 * y + x + z if self.in_strips else (projected + 2) * y + x + 3 * z
        sums = x if self.summing is not None and self.front is None else 0  # of another array than x
        return Traffic(x + y, products + z + 2 * x + sums)

    def plan_forward(self, build: Build) -> None:
        x, y = build.value(self._reads), build.value(self.node.makes, self.node.output)

        def forward() -> None:
            reading = x.array, self._incoming(x), self.module.depthwise.data, self.module.pointwise.data
            self.statistics = separable.forward(*reading, y.array, self._corner(x), self.norm is not None)

        build.act(forward)

    @property
    def _reads(self) -> int:
        """The value that lies in memory: what batchnorm reads, if one is in front."""
        return self.source if self.front is None else self.front.node.reads[0]

    def _incoming(self, x: Slot) -> Normalised:
        """What happens to x as it is loaded; without a batchnorm in front x - 0 times 1 plus 0, by the same kernels."""
        if self.front is not None:
            return self.front.normalised
        zero = np.zeros(x.array.shape[-1], x.array.dtype)
        return Normalised(zero, zero + 1, zero, x.array.dtype.type(0 if self.relu else -np.inf))

    def _corner(self, x: Slot) -> tuple[int, int]:
        (_, top), (_, left) = extents(
            x.array.shape, self.module.depthwise.shape, 1, self.node.calls[0].params["padding"]
        )
        return top, left

    def plan_backward(self, build: Build) -> None:
        dy = build.gradient(self.node.makes if self.norm is None else self.norm.node.makes)
        if dy is not None:
            self._plan_depthwise(build, self._plan_products(build, dy))

    def _plan_products(self, build: Build, g: Slot) -> Slot:
        """The pointwise kernel's gradient, and dz, the gradient of the depthwise result; g: of y, or behind a norm."""
        norm, x, y = self.norm, build.value(self._reads), build.value(self.node.makes)
        ci, co = self.module.pointwise.shape
        dz = build.slot(self._z)

        def strip_by_strip() -> None:
            assert norm is not None
            weights = self.module.depthwise.data, self.module.pointwise.data
            reading = x.array, self._incoming(x), weights, self._corner(x)
            dwp = separable.pointwise_gradients(*reading, g.array, y.array, norm.projection, dz.array)
            self.module.pointwise.grad = dwp

        if self.in_strips:
            build.act(strip_by_strip)
            return dz
        z, dy = build.slot(self._z), g if norm is None else build.slot(self.node.output)

        def pass_by_pass() -> None:
            wd, wp = self.module.depthwise.data, self.module.pointwise.data
            if norm is not None:
                project(g.array, y.array, norm.projection, dy.array)
            gemm(dy.array.reshape(-1, co), wp, dz.array.reshape(-1, ci), transpose_b=True)
            filter_into(z.array, x.array, wd, 1, self._corner(x), self._incoming(x))
            rows = z.array.reshape(-1, ci), dy.array.reshape(-1, co)
            self.module.pointwise.grad = gemm(*rows, memory.empty(wp.shape, wp.dtype), transpose_a=True)

        build.act(pass_by_pass)
        return dz

    def _plan_depthwise(self, build: Build, dz: Slot) -> None:
        """The depthwise kernel's gradient, and dx with what else reaches x, and the sums for the batchnorm in front."""
        x, earlier, summing = build.value(self._reads), build.gradient(self.source), self.summing
        of = None if summing is None else build.value(summing.node.reads[0])
        dz.last = len(build.actions)
        dx = build.slot(tuple(self.node.inputs[0]))

        def depthwise() -> None:
            sums_of = None if summing is None or of is None else (of.array, summing.normalised.minus_mean)
            residual = None if earlier is None else earlier.array
            arguments = (self.relu, dz.array, self.module.depthwise.data, dx.array, self._corner(x), residual, sums_of)
            self.module.depthwise.grad, sums = separable.gradients(x.array, self._incoming(x), *arguments)
            if summing is not None:
                summing.sums = sums

        build.act(depthwise)
        build.hold(self.source, dx)
        if summing is not None:
            summing.summed = dx


class PoolPart:
    """Max pooling that reads through a batchnorm, and through a ReLU or not."""

    runs_as = "reads through"

    def __init__(self, node: Layer, front: NormPart) -> None:
        self.node, self.front, self.paths = node, front, [node.path]
        x, y = (math.prod(shape) for shape in (node.inputs[0], node.output))
        self.traffic = Traffic(x + y, x + y)

    def plan_forward(self, build: Build) -> None:
        x, y = build.value(self.front.node.reads[0]), build.value(self.node.makes, self.node.output)

        def forward() -> None:
            self._tap = pool_normalised(x.array, self.front.normalised, y.array, **self.node.calls[0].params)

        build.act(forward)

    def plan_backward(self, build: Build) -> None:
        dy = build.gradient(self.node.makes)
        if dy is None:
            return
        dx = build.slot(self.node.inputs[0])
        build.act(lambda: gradient_into(dx.array, dy.array, self._tap, **self.node.calls[0].params))
        build.hold(self.front.makes, dx)


Part = LayerPart | NormPart | SeparablePart | PoolPart


def trained_by(part: Part) -> list[Parameter]:
    """The parameters to whose gradients the part's backward pass adds."""
    calls = [] if isinstance(part, PoolPart) else part.node.calls
    return [one for call in calls for one in call.inputs if isinstance(one, Parameter) and one.requires_grad]
