"""VGG16: nothing but 3x3 convolutions and 2x2 max pools, then two wide fully connected layers.

    block1   2 conv 64, max pool /2        224 -> 112
    block2   2 conv 128, max pool /2       112 ->  56
    block3   3 conv 256, max pool /2        56 ->  28
    block4   3 conv 512, max pool /2        28 ->  14
    block5   3 conv 512, max pool /2        14 ->   7
    flatten, fc1 4096, fc2 4096, logits

Conventions (those of Keras' VGG16): convolutions are 3x3, "same", with a bias, without batchnorm; ReLU follows each
of them, fc1 and fc2. flatten goes through the map in the order h, w, c. Keras has no dropout here; the paper trains
with 0.5 behind fc1 and fc2. Of its 138 M parameters fc1 alone holds 103 M, of its 15.5 GMACs 0.1. The names are Keras'
names with a dot behind the block.
Source: Simonyan and Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition", table 1,
configuration D; Keras 3 ``applications.VGG16``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..nn import Activation, Conv2d, Flatten, MaxPool2d, Module, Sequential
from .network import Network


def _block(*channels: int) -> Sequential:
    """A convolution and a ReLU from each width to the next, and a max pool."""
    layers: dict[str, Module] = {}
    for number, (ci, co) in enumerate(pairwise(channels), start=1):
        layers[f"conv{number}"] = Conv2d(ci, co, 3, bias=True)
        layers[f"conv{number}_act"] = Activation("relu")
    return Sequential(**layers, pool=MaxPool2d(2))


class VGG16(Network):
    """VGG16, (n, h, w, 3) -> logits (n, num_classes): 138,357,544 parameters, 15,470,264,320 MACs at 224x224.

    fc1 needs images of the size it was made for, ``input_shape``. include_top=False ends after block5 and takes any
    size, with ``pooling`` None (n, h/32, w/32, 512), "avg" or "max" (n, 512). weights: a file for ``load_weights``.
    Softmax is left to the loss. Raises ArgumentError, and ShapeError for inputs below 32x32.
    Source: Simonyan and Zisserman 2014, table 1; Keras 3 ``applications.VGG16``.

    >>> VGG16(include_top=False).num_parameters()
    14714688
    """

    preprocessing = "caffe"  # BGR, minus the mean colour
    min_size = 32

    def __init__(
        self,
        num_classes: int = 1000,
        include_top: bool = True,
        pooling: str | None = None,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        weights: Any = None,
    ) -> None:
        super().__init__(input_shape, pooling)
        height, width, channels = input_shape

        self.block1 = _block(channels, 64, 64)
        self.block2 = _block(64, 128, 128)
        self.block3 = _block(128, 256, 256, 256)
        self.block4 = _block(256, 512, 512, 512)
        self.block5 = _block(512, 512, 512, 512)
        if include_top:
            self.flatten = Flatten()
            self._add_classifier((height // 32) * (width // 32) * 512, num_classes, fc_units=(4096, 4096))
        else:
            self._add_pooling(pooling)
        if weights is not None:
            self.load_weights(weights)
