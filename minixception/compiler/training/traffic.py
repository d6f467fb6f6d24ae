"""Bytes of activations that a training step moves between memory and the cores, counted from the graph.

Each array that a kernel reads or writes once from beginning to end counts with its size, as if no cache held it from
one kernel to the next: true of large batches, and what a kernel can be blamed for in small ones. Weights do not count.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ...engine.op import Shape
from ...graph.trace import Layer


class Traffic(NamedTuple):
    """Elements moved in the forward and in the backward pass."""

    forward: int
    backward: int

    def __add__(self, other: object) -> Traffic:
        assert isinstance(other, Traffic)
        return Traffic(self.forward + other.forward, self.backward + other.backward)


# Times that x, the inputs together, and y, the output, are read or written: forward x and y, backward x (its gradient
# included) and y (the gradient dy included). What is not listed reads its input and writes its output, and backward
# reads dy and what it has saved, and writes dx.
_TIMES = {
    "batch_norm": (2, 1, 3, 2),  # statistics, then y; the sums, then dx
    "conv2d": (1, 1, 2, 2),  # two products: dy and w, x and dy
    "pointwise_conv2d": (1, 1, 2, 2),
    "depthwise_conv2d": (1, 1, 2, 2),
    "linear": (1, 1, 2, 2),
    "add": (1, 1, 0, 0),  # the gradient is handed on
    "reshape": (0, 0, 0, 0),
}
_OTHERS = (1, 1, 2, 1)


def of_layer(node: Layer) -> Traffic:
    """Of a layer that runs as it is, or of all of them: layer by layer is the sum of these."""
    if len(node.calls) != 1:  # an activation alone, or a layer of several operators, of which only the ends are known
        return _moved(_OTHERS, node.inputs, node.output)
    (call,) = node.calls
    if call.op.name in ("separable_conv2d", "relu_separable_conv2d"):
        x, y = node.inputs[0], node.output
        z = math.prod(y[:3]) * x[3]
        x_size, y_size = math.prod(x), math.prod(y)
        return Traffic(x_size + y_size, 4 * x_size + 5 * z + 2 * y_size)
    return _moved(_TIMES.get(call.op.name, _OTHERS), node.inputs, node.output)


def _moved(times: tuple[int, int, int, int], inputs: tuple[Shape, ...], output: Shape) -> Traffic:
    x, y = sum(map(math.prod, inputs)), math.prod(output)
    return Traffic(times[0] * x + times[1] * y, times[2] * x + times[3] * y)
