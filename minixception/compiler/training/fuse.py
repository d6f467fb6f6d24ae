"""Which layers run together in a training step: a pattern over the graph, matched in the order the network runs.

    batchnorm -> [+ another value] -> [ReLU]            one pass over memory
    batchnorm -> [ReLU] -> separable convolution        no pass: the convolution normalises what it loads
    batchnorm -> [ReLU] -> max pooling                  no pass, in the same way

Each is taken in only where nothing else reads what lies in between. A ReLU whose readers are separable convolutions is
applied by them, as at inference.
"""

from __future__ import annotations

from ...cpu.depthwise_backward import BOTH_GRADIENTS
from ...graph.trace import Graph, Layer
from ...nn import Activation, Add, BatchNorm2d, SeparableConv2d
from ...ops.batchnorm import BATCH_NORM
from ...ops.pooling.max_pool import MAX_POOL2D
from ...ops.separable import RELU_SEPARABLE_CONV2D, SEPARABLE_CONV2D
from .build import Build
from .parts import Behind, LayerPart, NormPart, Part, PoolPart, SeparablePart


def fused(build: Build) -> list[Part]:
    """The parts of a graph in the order in which they run; their forward actions are in ``build``."""
    graph = build.graph
    taken: set[int] = set()  # what nodes make that an earlier part has taken in, or a later one will
    norms: dict[int, NormPart] = {}  # by what they make
    separables: dict[int, SeparablePart] = {}
    waiting: dict[int, NormPart] = {}  # batchnorms that run with the addition behind them, by what that makes
    read: dict[int, NormPart] = {}  # batchnorms that another layer reads through, by what that makes
    parts: list[Part] = []
    once = _used_once(graph)
    for node in graph.nodes:
        if node.makes in waiting:
            part: Part = waiting[node.makes]
        elif node.makes in taken:
            continue
        elif node in once and _is_norm(node):
            producer = separables.get(node.reads[0]) if len(graph.consumers(node.reads[0])) == 1 else None
            part = NormPart(node, producer, behind(build, node, once, taken))
            norms[part.makes] = part
            taken.update(part.takes)
            if part.behind.reader is not None:
                read[part.behind.reader.makes] = part
            if part.other is not None:  # it runs when what is added is there
                waiting[part.sum] = part
                continue
        elif node in once and _is_separable(build, node):
            source, relu = _through_relu(build, node, once)
            part = separables[node.makes] = SeparablePart(node, source, relu, norms.get(source))
        elif node.makes in read:
            part = PoolPart(node, read[node.makes])
        elif _relu_before_separables(build, node, once):
            continue
        else:
            part = LayerPart(node)
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


def _is_separable(build: Build, node: Layer) -> bool:
    """One for whose window and gradients there are kernels."""
    module = node.module
    if not isinstance(module, SeparableConv2d) or module.activation is not None:
        return False
    call = node.calls[0]
    kh, kw, _ = module.depthwise.shape
    return (
        call.op in (SEPARABLE_CONV2D, RELU_SEPARABLE_CONV2D)
        and kh == kw in BOTH_GRADIENTS
        and call.params["stride"] == 1
        and module.depthwise.requires_grad
        and module.pointwise.requires_grad
        and build.wants_gradient(node.reads[0])
    )


def _reads_through(build: Build, node: Layer, once: set[Layer]) -> bool:
    """One that can normalise what it loads."""
    return (node in once and _is_separable(build, node)) or [call.op for call in node.calls] == [MAX_POOL2D]


def _is_relu(node: Layer | None) -> bool:
    return node is not None and isinstance(node.module, Activation) and node.module.name == "relu"


def _relu_before_separables(build: Build, node: Layer, once: set[Layer]) -> bool:
    """A ReLU whose readers all apply it themselves."""
    readers = build.graph.consumers(node.makes)
    return (
        _is_relu(node)
        and node.makes != build.graph.result
        and len(readers) > 0
        and all(reader in once and _is_separable(build, reader) for reader in readers)
    )


def _through_relu(build: Build, node: Layer, once: set[Layer]) -> tuple[int, bool]:
    """What a separable convolution reads, and whether through a ReLU."""
    source = node.reads[0]
    front = build.makers.get(source)
    if front is not None and _relu_before_separables(build, front, once):
        return front.reads[0], True
    return source, False


def behind(build: Build, node: Layer, once: set[Layer], taken: set[int]) -> Behind:
    """Each is taken in only where nothing else reads what is in front of it."""
    follower, add = _only_reader(build.graph, node), None
    if follower is not None and _reads_through(build, follower, once):
        return Behind(reader=follower)
    reader = _only_reader(build.graph, follower) if _is_relu(follower) else None
    if reader is not None and _reads_through(build, reader, once):
        return Behind(relu=follower, reader=reader)
    if follower is not None and _relu_before_separables(build, follower, once):  # several, which read what is written
        return Behind()
    if follower is not None and follower.makes in taken:  # an addition of two batchnorms runs with one of them
        return Behind()
    if follower is not None and isinstance(follower.module, Add) and len(set(follower.reads)) == 2:
        add = follower
        follower = _only_reader(build.graph, add)
    if follower is not None and _is_relu(follower) and not _relu_before_separables(build, follower, once):
        return Behind(add, follower)
    return Behind(add)


def _only_reader(graph: Graph, node: Layer | None) -> Layer | None:
    if node is None:
        return None
    readers = graph.consumers(node.makes)
    return readers[0] if len(readers) == 1 and node.makes != graph.result else None
