"""What a network consists of, as boxes and arrows: found by running it on shapes alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from .. import nn
from ..errors import ArgumentError
from ..graph.trace import Layer, trace
from ..ops.window import Pair, pair
from .boxes import TextBox

MOST_SEGMENTS = 4  # of a spatial convolution: with more, the first two and the last are drawn
_ACTIVATIONS = {"relu": "ReLU", "elu": "ELU", "gelu": "GELU", "sigmoid": "sigmoid", "tanh": "tanh"}
Edge = tuple[TextBox, TextBox]


@dataclass
class Drawing:
    """Boxes in an order in which no edge leads back, edges, and the box that makes each value of a trace."""

    boxes: list[TextBox] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    makers: dict[int, TextBox] = field(default_factory=dict)

    def add(self, box: TextBox, parents: Sequence[TextBox] = ()) -> TextBox:
        """Put in a box below its parents."""
        self.boxes.append(box)
        self.edges += [(parent, box) for parent in parents]
        return box


def nodes_of(module: nn.Module, input_shape: tuple[int, ...]) -> list[Layer]:
    """Every layer and operator, in the order they run, for one image (h, w, c)."""
    return trace(module, (1, *input_shape)).nodes


def value_box(shape: Sequence[int]) -> TextBox:
    """The box of a tensor: its shape without the batch."""
    return TextBox(kind="value", title="×".join(map(str, shape[1:])))


def add_nodes(drawing: Drawing, nodes: Sequence[Layer], uses: Counter[int]) -> None:
    """Draw nodes whose inputs the drawing has. uses: how many nodes read each value.

    Batchnorm and activation right behind a convolution, and read by nobody else, stand inside of its box. A spatial
    convolution on separate segments of the channels is a box for each segment, and their concatenation.
    """
    for node in nodes:
        parents = [drawing.makers[value] for value in node.reads if value in drawing.makers]
        follows = isinstance(node.module, nn.BatchNorm2d | nn.Activation) and uses[node.reads[0]] == 1
        if follows and parents[0].kind not in ("value", "other") and parents[0].title != "+":
            parents[0].details.append(_title(node))
            drawing.makers[node.makes] = parents[0]
            continue
        segments = _segments(node)
        if segments:
            parts = [drawing.add(box, parents) for box in segments]
            box = drawing.add(TextBox(kind="join", title="Concat"), parts)
        else:
            box = drawing.add(TextBox(kind=kind(node.module), title=_title(node)), parents)
        drawing.makers[node.makes] = box


def count_uses(nodes: Sequence[Layer]) -> Counter[int]:
    """How many nodes read each value."""
    return Counter(value for node in nodes for value in node.reads)


# Blocks ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """Blocks that are built alike and follow one another; nodes: of the first. shapes: what goes in and comes out."""

    names: tuple[str, ...]
    nodes: tuple[Layer, ...]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Flow:
    """A part of the network, a column of its picture."""

    title: str
    runs: tuple[Run, ...]


def flows(nodes: Sequence[Layer], input_shape: tuple[int, ...]) -> list[Flow]:
    """The network's blocks by the first part of their layers' paths: what comes before the longest run of equal
    ones (the entry flow), the run (the middle flow), and what comes after; all in one without a run of three.
    """
    runs: list[Run] = []
    signatures: list[tuple[object, ...]] = []
    shape: tuple[int, ...] = (1, *input_shape)
    for name, group in groupby(nodes, key=lambda node: node.path.partition(".")[0]):
        block = tuple(group)
        signature = _signature(block)
        if signatures and signatures[-1] == signature:
            runs[-1] = Run((*runs[-1].names, name), runs[-1].nodes, runs[-1].shapes)
        else:
            runs.append(Run((name,), block, (shape, block[-1].output)))
            signatures.append(signature)
        shape = block[-1].output
    middle = max(range(len(runs)), key=lambda i: len(runs[i].names))
    if len(runs[middle].names) < 3:
        return [Flow("", tuple(runs))]
    parts = {"Entry flow": runs[:middle], "Middle flow": runs[middle : middle + 1], "Exit flow": runs[middle + 1 :]}
    return [Flow(title, tuple(part)) for title, part in parts.items() if part]


def _signature(block: Sequence[Layer]) -> tuple[object, ...]:
    """What two blocks that are built alike have in common: their layers, shapes, and which reads which."""
    place = {node.makes: i for i, node in enumerate(block)}
    outside = {value for node in block for value in node.reads if value not in place}
    if len(outside) > 1:
        raise ArgumentError(
            f"architecture: expected blocks one after the other, but {block[0].path!r} and what follows it in its "
            "block read from more than one"
        )
    return tuple((_title(node), node.output, tuple(place.get(value, -1) for value in node.reads)) for node in block)


# What a layer is called -----------------------------------------------------------------------------------------------


def kind(module: nn.Module | None) -> str:
    """What a layer does, as one of the looks of ``boxes``; None: an operator outside of a layer.

    >>> kind(nn.Conv2d(4, 8, 1)), kind(nn.Conv2d(4, 8, 3)), kind(nn.Conv2d(4, 4, 3, groups=4)), kind(None)
    ('pointwise', 'regular', 'depthwise', 'other')
    """
    match module:
        case nn.SeparableConv2d():
            return "separable"
        case nn.DepthwiseConv2d() | nn.BlurPool2d():
            return "depthwise"
        case nn.PointwiseConv2d():
            return "pointwise"
        case nn.Conv2d(weight=weight, groups=groups):
            alone = groups > 1 and weight.shape[2:] == (1, groups)  # a channel each
            return "pointwise" if weight.shape[:2] == (1, 1) else "depthwise" if alone else "regular"
        case nn.Linear():
            return "linear"
        case nn.Add() | nn.Concat():
            return "join"
    return "other"


def _title(node: Layer) -> str:
    """The layer in a few words: what it does, its window, its stride if it has one, its channels."""
    channels = node.output[-1]
    match node.module:
        case nn.SeparableConv2d(depthwise=kernel, stride=stride, dilation=dilation, activation=between):
            inside = f" with {_ACTIVATIONS[between]} inside" if between else ""
            return f"SepConv {_window(kernel.shape[:2], stride, dilation)}, {channels}{inside}"
        case nn.DepthwiseConv2d(weight=kernel, stride=stride, dilation=dilation):
            return f"Depthwise {_window(kernel.shape[:2], stride, dilation)}, {channels}"
        case nn.BlurPool2d(stride=stride):
            return f"Depthwise blur {_window((3, 3), stride)}"
        case nn.PointwiseConv2d(stride=stride):
            return f"Conv {_window((1, 1), stride)}, {channels}"
        case nn.Conv2d(weight=kernel, stride=stride, dilation=dilation):
            return f"Conv {_window(kernel.shape[:2], stride, dilation)}, {channels}"
        case nn.MaxPool2d(size=size, stride=stride, dilation=dilation):
            return f"Max pool {_window(pair(size), stride or size, dilation)}"
        case nn.AvgPool2d(size=size, stride=stride):
            return f"Average pool {_window(pair(size), stride or size)}"
        case nn.GlobalAvgPool():
            return f"Global average pool, {channels}"
        case nn.Linear():
            return f"Fully connected, {channels}"
        case nn.BatchNorm2d():
            return "BN"
        case nn.Activation(name=name):
            return _ACTIVATIONS[name]
        case nn.Add():
            return "+"
        case nn.Concat():
            return f"Concat, {channels}"
        case None:
            return node.path.rpartition(".")[2]
    return type(node.module).__name__


def _window(kernel: Sequence[int], stride: Pair, dilation: Pair = 1) -> str:
    """The kernel's size, and where they are not 1 the stride behind a / and the dilation."""
    step, spread = ("×".join(map(str, dict.fromkeys(pair(value)))) for value in (stride, dilation))
    return f"{kernel[0]}×{kernel[1]}" + f" /{step}" * (step != "1") + f" dilated {spread}" * (spread != "1")


def _segments(node: Layer) -> list[TextBox]:
    """A box for each segment of the channels that a spatial convolution keeps apart; none if it mixes all of them."""
    match node.module:
        case nn.DepthwiseConv2d(weight=kernel, stride=stride, dilation=dilation):
            segments = kernel.shape[2]
        case nn.Conv2d(weight=kernel, stride=stride, groups=groups, dilation=dilation):
            segments = groups
        case _:
            return []
    if segments == 1:
        return []
    each, window = node.output[-1] // segments, _window(kernel.shape[:2], stride, dilation)
    boxes = []
    for i in range(segments):
        where = f"channel {i + 1}" if each == 1 else f"channels {i * each + 1} to {(i + 1) * each}"
        boxes.append(TextBox(kind=kind(node.module), title=f"Conv {window}", details=[where]))
    if segments > MOST_SEGMENTS:
        boxes[2:-1] = [TextBox(kind="more", title=f"… {segments - 3} more …")]
    return boxes
