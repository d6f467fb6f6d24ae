"""ResNet152: 50 residual blocks of three convolutions, a narrow 3x3 between two 1x1.

    conv1    conv 7x7 /2 64, max pool 3x3 /2            224 -> 56
    conv2     3 blocks, 64 wide inside, 256 outside      56
    conv3     8 blocks, 128 and 512                      56 -> 28
    conv4    36 blocks, 256 and 1024                     28 -> 14
    conv5     3 blocks, 512 and 2048                     14 ->  7
    global average pooling, logits

    block    conv 1x1, ReLU, conv 3x3, ReLU, conv 1x1    + identity, or 1x1 where the width changes; ReLU

Conventions (those of Keras' ResNet152, the paper's version 1): every convolution has a bias and is followed by
batchnorm with eps 1.001e-5; the stride of conv3, conv4 and conv5 is in their first block's first 1x1 and in its
shortcut; conv1 and the pool behind it are padded by 3 and 1 pixels on each side. Keras pads the pool with zeros,
MaxPool2d with -inf, which is the same behind a ReLU: each window has pixels of the image, and none is below zero. The
names are Keras' names with a dot behind the block; those of a shortcut lie below ``shortcut``.
Source: He, Zhang, Ren, Sun 2015, "Deep Residual Learning for Image Recognition", table 1 and figure 5; Keras 3
``applications.ResNet152``.
"""

from __future__ import annotations

from typing import Any

from ..engine.tensor import Tensor
from ..nn import Activation, BatchNorm2d, Conv2d, MaxPool2d, PointwiseConv2d, Residual, Sequential
from .network import Network

STAGES = {"conv2": (64, 3), "conv3": (128, 8), "conv4": (256, 36), "conv5": (512, 3)}  # width inside, blocks


def _norm(channels: int) -> BatchNorm2d:
    return BatchNorm2d(channels, eps=1.001e-5)


class _Block(Residual):
    """1x1 to ``width``, 3x3, 1x1 to four times that; a ReLU behind the addition."""

    def __init__(self, ci: int, width: int, stride: int) -> None:
        co = 4 * width
        layers = {
            "1_conv": PointwiseConv2d(ci, width, stride, bias=True),
            "1_bn": _norm(width),
            "1_relu": Activation("relu"),
            "2_conv": Conv2d(width, width, 3, bias=True),
            "2_bn": _norm(width),
            "2_relu": Activation("relu"),
            "3_conv": PointwiseConv2d(width, co, bias=True),
            "3_bn": _norm(co),
        }
        shortcut = {"0_conv": PointwiseConv2d(ci, co, stride, bias=True), "0_bn": _norm(co)}
        super().__init__(**layers, shortcut=Sequential(**shortcut) if ci != co else None)
        self.out = Activation("relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.out(super().forward(x))


class ResNet152(Network):
    """ResNet152, (n, h, w, 3) -> logits (n, num_classes): 60,419,944 parameters, 11,282,415,616 MACs at 224x224.

    include_top=False ends after conv5, with ``pooling`` None (n, h/32, w/32, 2048), "avg" or "max" (n, 2048). weights:
    a file for ``load_weights``. Softmax is left to the loss. Raises ArgumentError, and ShapeError for inputs below
    32x32. Source: He et al. 2015, table 1; Keras 3 ``applications.ResNet152``.

    >>> ResNet152().num_parameters(), ResNet152().num_parameters(trainable=True)
    (60419944, 60268520)
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
        self.conv1_conv = Conv2d(input_shape[2], 64, 7, stride=2, padding=3, bias=True)
        self.conv1_bn = _norm(64)
        self.conv1_relu = Activation("relu")
        self.pool1_pool = MaxPool2d(3, stride=2, padding=1)
        channels = 64
        for stage, (width, blocks) in STAGES.items():
            for number in range(1, blocks + 1):
                stride = 2 if number == 1 and stage != "conv2" else 1
                setattr(self, f"{stage}_block{number}", _Block(channels, width, stride))
                channels = 4 * width
        self._add_pooling("avg" if include_top else pooling)
        if include_top:
            self._add_classifier(channels, num_classes)
        if weights is not None:
            self.load_weights(weights)
