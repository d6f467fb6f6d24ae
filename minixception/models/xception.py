"""Xception, layer by layer as in figure 5 of the paper, and a small one for 32x32 images.

    entry flow    block1   conv 32 /2, conv 64                                  299 -> 147
                  block2   2 sepconv 128, max pool /2        + 1x1 /2           147 ->  74
                  block3   2 sepconv 256, max pool /2        + 1x1 /2            74 ->  37
                  block4   2 sepconv 728, max pool /2        + 1x1 /2            37 ->  19
    middle flow   block5 .. block12   3 sepconv 728          + identity          19
    exit flow     block13  sepconv 728, 1024, max pool /2    + 1x1 /2            19 ->  10
                  block14  sepconv 1536, sepconv 2048                            10
                  global average pooling, optional fully connected layers, logits

Conventions, where the drawing leaves them open (those of Keras' Xception, by the paper's author): every convolution is
bias-free and followed by batchnorm; block1 is padded "valid", all else "same"; ReLU comes before a separable
convolution except in block2, which follows a ReLU, and block14, which has it behind; a shortcut reads the
block's input before the ReLU. The names are Keras' names with a dot behind the block.
Source: Chollet 2017, section 4 and figure 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ..nn import (
    Activation,
    BatchNorm2d,
    Conv2d,
    Dropout,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    Module,
    PointwiseConv2d,
    Residual,
    SeparableConv2d,
    Sequential,
)
from .network import Network, check_input_shape


def _sepconvs(channels: Sequence[int], between: str | None, first_act: bool = True) -> dict[str, Module]:
    """Separable convolution, with a ReLU in front, and batchnorm from each width to the next, by their names."""
    layers: dict[str, Module] = {}
    for number, (ci, co) in enumerate(pairwise(channels), start=1):
        relu = number > 1 or first_act
        layers[f"sepconv{number}"] = SeparableConv2d(ci, co, activation=between, relu=relu)
        layers[f"sepconv{number}_bn"] = BatchNorm2d(co)
    return layers


def _down(channels: Sequence[int], between: str | None, residual: bool, first_act: bool = True) -> Module:
    """Separable convolutions and a max pool that halves the image, beside a strided 1x1 convolution."""
    layers = _sepconvs(channels, between, first_act) | {"pool": MaxPool2d(3, stride=2, padding="same")}
    if not residual:
        return Sequential(**layers)
    ci, co = channels[0], channels[-1]
    shortcut = Sequential(conv=PointwiseConv2d(ci, co, stride=2), bn=BatchNorm2d(co))
    return Residual(**layers, shortcut=shortcut)


def _middle(channels: int, between: str | None, residual: bool) -> Module:
    """Three separable convolutions of one width, with the identity around them."""
    layers = _sepconvs([channels] * 4, between)
    return Residual(**layers) if residual else Sequential(**layers)


class Xception(Network):
    """Xception, (n, h, w, 3) -> logits (n, num_classes): 22,910,480 parameters, 8,357,403,496 MACs at 299x299.

    num_classes, fc_units: the head; fc_units=(4096, 4096) is the paper's variant with fully connected layers for JFT,
    whose images have many labels: ``binary_cross_entropy_with_logits`` on the logits. dropout: rate before the logits
    (the paper trains ImageNet with 0.5). include_top=False ends after block14, with ``pooling`` None (n, h, w, 2048),
    "avg" or "max" (n, 2048). residual=False leaves out all shortcuts (figure 9); intermediate_activation "relu" or
    "elu" stands between depthwise and pointwise (figure 10). weights: a file for ``load_weights``. Softmax is left to
    the loss. Raises ArgumentError, and ShapeError for inputs below 71x71.
    Source: Chollet 2017, figure 5; Keras 3 ``applications.Xception``.

    >>> Xception().num_parameters(), Xception().num_parameters(trainable=True)
    (22910480, 22855952)
    """

    preprocessing = "tf"  # x / 127.5 - 1
    min_size = 71

    def __init__(
        self,
        num_classes: int = 1000,
        include_top: bool = True,
        pooling: str | None = None,
        input_shape: tuple[int, int, int] = (299, 299, 3),
        residual: bool = True,
        intermediate_activation: str | None = None,
        fc_units: Sequence[int] = (),
        weights: Any = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(input_shape, pooling)
        between = intermediate_activation

        self.block1 = Sequential(
            conv1=Conv2d(input_shape[2], 32, 3, stride=2, padding="valid"),
            conv1_bn=BatchNorm2d(32),
            conv1_act=Activation("relu"),
            conv2=Conv2d(32, 64, 3, padding="valid"),
            conv2_bn=BatchNorm2d(64),
            conv2_act=Activation("relu"),
        )
        self.block2 = _down((64, 128, 128), between, residual, first_act=False)
        self.block3 = _down((128, 256, 256), between, residual)
        self.block4 = _down((256, 728, 728), between, residual)
        for number in range(5, 13):
            setattr(self, f"block{number}", _middle(728, between, residual))
        self.block13 = _down((728, 728, 1024), between, residual)
        self.block14 = Sequential(
            sepconv1=SeparableConv2d(1024, 1536, activation=between),
            sepconv1_bn=BatchNorm2d(1536),
            sepconv1_act=Activation("relu"),
            sepconv2=SeparableConv2d(1536, 2048, activation=between),
            sepconv2_bn=BatchNorm2d(2048),
            sepconv2_act=Activation("relu"),
        )
        self._add_pooling("avg" if include_top else pooling)
        if include_top:
            self._add_classifier(2048, num_classes, fc_units, dropout)
        if weights is not None:
            self.load_weights(weights)


def mini_xception(
    num_classes: int = 10,
    widths: Sequence[int] = (64, 128, 256),
    middle_blocks: int = 4,
    stem: int = 32,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    dropout: float = 0.0,
) -> Sequential:
    """A small Xception for small images, (n, h, w, 3) -> logits (n, num_classes); as it is, 1.0 M parameters.

    stem: channels of one 3x3 convolution; widths: one block with two separable convolutions and a pool per width;
    middle_blocks of the last width; then global average pooling and the logits. 35.9 MMACs at 32x32.

    >>> mini_xception().num_parameters(trainable=True)
    1004490
    """
    _, _, colours = check_input_shape(input_shape)
    layers: dict[str, Module] = {
        "block1": Sequential(conv1=Conv2d(colours, stem, 3), conv1_bn=BatchNorm2d(stem), conv1_act=Activation("relu"))
    }
    channels = [stem, *widths]
    for number, (ci, co) in enumerate(pairwise(channels), start=2):
        layers[f"block{number}"] = _down((ci, co, co), None, residual=True, first_act=number > 2)
    for number in range(len(channels) + 1, len(channels) + 1 + middle_blocks):
        layers[f"block{number}"] = _middle(channels[-1], None, residual=True)
    layers["act"] = Activation("relu")
    layers["avg_pool"] = GlobalAvgPool()
    if dropout:
        layers["dropout"] = Dropout(dropout)
    layers["predictions"] = Linear(channels[-1], num_classes)
    model = Sequential(**layers)
    model.input_shape, model.preprocessing = tuple(input_shape), "tf"
    return model
