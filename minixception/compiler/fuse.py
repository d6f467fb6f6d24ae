"""Which layers run as one kernel: a pattern over the graph, matched in the order the network runs.

    [ReLU ->] separable | pointwise | convolution | linear -> [batchnorm] -> [+ residual] -> [ReLU]

Batchnorm goes into weights and bias; the addition and the ReLU behind happen on sums that are still in registers. Each
is taken in only where nothing else reads what lies in between, and a residual only where it is already there. A ReLU
in front is taken in by separable convolutions, as a maximum on load, where nothing but they read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..graph.trace import Graph, Layer
from ..nn import Activation, Add, BatchNorm2d, Conv2d, Linear, PointwiseConv2d, SeparableConv2d
from ..ops.conv2d import CONV2D
from ..ops.linear import LINEAR
from ..ops.pointwise import POINTWISE_CONV2D
from ..ops.separable import RELU_SEPARABLE_CONV2D, SEPARABLE_CONV2D
from .fold import Key


@dataclass
class Step:
    """Nodes that run together. node: the one that does the work; the others are folded into its kernel.

    source: the value it reads (in front of a fused ReLU); result: the value it makes; residual: the value it adds.
    """

    node: Layer
    source: int
    result: int
    paths: list[str]
    relu_before: bool = False
    norm: BatchNorm2d | None = None
    residual: int | None = None
    relu_after: bool = False

    @property
    def fused(self) -> bool:
        """Whether one of the fused kernels runs this step."""
        return _has_kernel(self.node)

    @property
    def key(self) -> Key:
        """The layer of a fused step and its batchnorm."""
        assert self.node.module is not None
        return self.node.module, self.norm

    @property
    def inputs(self) -> tuple[int, ...]:
        """All values that must be there before it runs."""
        if not self.fused:
            return self.node.reads
        return (self.source,) if self.residual is None else (self.source, self.residual)


_WITH_KERNEL = (CONV2D, POINTWISE_CONV2D, LINEAR, SEPARABLE_CONV2D, RELU_SEPARABLE_CONV2D)


def _has_kernel(node: Layer) -> bool:
    """What such a layer runs decides: with a dilation, or an activation inside, it runs operators without a kernel."""
    is_layer = isinstance(node.module, Conv2d | PointwiseConv2d | Linear | SeparableConv2d)
    return is_layer and any(call.op in _WITH_KERNEL for call in node.calls[:1])


def _is_relu(node: Layer) -> bool:
    return isinstance(node.module, Activation) and node.module.name == "relu"


def fuse(graph: Graph) -> list[Step]:
    """The graph as steps, in an order in which every step finds its inputs."""
    position = {node.makes: i for i, node in enumerate(graph.nodes)}
    makers = {node.makes: node for node in graph.nodes}
    done: set[int] = set()  # outputs of nodes that an earlier step has taken in
    steps = []
    for node in graph.nodes:
        if node.makes in done or _read_by_separables_only(graph, node):
            continue
        step = Step(node, node.reads[0], node.makes, [node.path])
        if step.fused:
            front = makers.get(step.source)
            if front and front.makes not in done and _read_by_separables_only(graph, front):
                step.relu_before, step.source, step.paths = True, front.reads[0], [front.path, node.path]
            while follower := _follower(graph, step, position):
                step.paths.append(follower.path)
                step.result = follower.makes
                done.add(follower.makes)
        steps.append(step)
    return steps


def last_read(steps: list[Step], result: int) -> list[list[int]]:
    """For each step the values that nobody reads after it, of which ``result`` is none."""
    last = {value: i for i, step in enumerate(steps) for value in step.inputs} | {result: len(steps)}
    return [[v for v in dict.fromkeys(step.inputs) if last[v] == i] for i, step in enumerate(steps)]


def _read_by_separables_only(graph: Graph, node: Layer) -> bool:
    """A ReLU whose readers all apply it themselves."""
    readers = graph.consumers(node.makes)
    takers = [r for r in readers if isinstance(r.module, SeparableConv2d) and _has_kernel(r)]
    return _is_relu(node) and 0 < len(takers) == len(readers) and node.makes != graph.result


def _follower(graph: Graph, step: Step, position: dict[int, int]) -> Layer | None:
    """The node that only reads what the step makes, taken into it if its kernel can do that as well."""
    readers = graph.consumers(step.result)
    if len(readers) != 1 or step.result == graph.result or step.relu_after:
        return None
    (follower,) = readers
    if isinstance(follower.module, BatchNorm2d) and step.norm is None and step.residual is None:
        step.norm = follower.module
        return follower
    if isinstance(follower.module, Add) and step.residual is None:
        others = [value for value in follower.reads if value != step.result]
        if len(others) == 1 and position.get(others[0], -1) < position[step.node.makes]:
            step.residual = others[0]
            return follower
    elif _is_relu(follower):
        step.relu_after = True
        return follower
    return None
