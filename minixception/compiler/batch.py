"""How many images of a batch go through the network at a time."""

from __future__ import annotations

import math

from .. import nn
from ..graph.trace import Graph
from ..nn.modern import Scale

_TOGETHER = 3 << 20  # elements of the largest result: 12 MiB of float32, which the L3 of most CPUs holds
_IMAGE_BY_IMAGE = {  # layers that treat each image of a batch for itself, at inference
    *(nn.Activation, nn.Add, nn.Concat, nn.BatchNorm2d, nn.Linear, nn.Flatten, Scale),
    *(nn.Conv2d, nn.DepthwiseConv2d, nn.PointwiseConv2d, nn.SeparableConv2d),
    *(nn.AvgPool2d, nn.MaxPool2d, nn.BlurPool2d, nn.GlobalAvgPool, nn.GlobalMaxPool),
}


def images_together(graph: Graph) -> int:
    """As many images as leave the largest result in the cache.

    A batch of large images, layer by layer, would go out to memory and back between any two layers. All of them, if
    the network has anything but layers that treat each image for itself.
    """
    images = graph.nodes[0].output[0]
    if any(type(node.module) not in _IMAGE_BY_IMAGE or node.output[0] != images for node in graph.nodes):
        return images
    at_most = max(1, _TOGETHER * images // max(math.prod(node.output) for node in graph.nodes))
    return math.ceil(images / math.ceil(images / at_most))
