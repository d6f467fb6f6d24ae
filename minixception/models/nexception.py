"""NEXcepTion, Xception renewed by a search over its parts: T and S in Xception's shape, TP as a pyramid.

    NEXcepTion-T (C = 512) and S (C = 752)                          224 pixels
        entry flow    stem    conv 2x2 /2 96, GELU                  224 -> 112
                      down1   2 sepconv 5x5 128       + 1x1 /2      112 ->  56
                      down2   2 sepconv 5x5 256       + 1x1 /2       56 ->  28
                      down3   2 sepconv 5x5 C         + 1x1 /2       28 ->  14
        middle flow   mid0 .. mid7   bottleneck C     + identity     14
        exit flow     down    sepconv 5x5 C, 1024     + 1x1 /2       14 ->   7
                      sepconv 3x3 1536, sepconv 3x3 2048              7
                      global average pooling, logits

    NEXcepTion-TP                                                   224 pixels
        stem     conv 4x4 /4 96                                     224 ->  56
        stage0   3 bottlenecks 96                                    56
        stage1   conv 2x2 /2 192, 4 bottlenecks 192                  56 ->  28
        stage2   conv 2x2 /2 384, 9 bottlenecks 384                  28 ->  14
        stage3   conv 2x2 /2 768, 3 bottlenecks 768                  14 ->   7
                 global average pooling, batchnorm, logits

    down         sepconv, GELU, sepconv, max pool 3x3 /1, blur pool /2, squeeze-excite     + 1x1 /2
    bottleneck   sepconv C -> 3C, GELU, sepconv 3C -> C, sepconv C -> C, squeeze-excite    + identity

Conventions, where the drawing leaves them open (those of the authors' code): batchnorm follows each convolution, except
the bottleneck's third; in the stem of T and S it comes behind the GELU, in TP's stages before the strided convolution.
Its eps is 1e-5 and its momentum 0.9. 2x2 and 4x4 convolutions are "valid" and have a bias, all others are "same" and
have none. GELU is the exact one. A shortcut starts at the block's input; nothing follows the addition. Stochastic depth
stands before it, at one rate in all blocks of T and S, rising from 0 to the rate over the blocks of TP.
Source: Shavit, Jatelnicki, Mor-Puigventós, Kowalczyk 2023 (arXiv 2212.08448), its appendix and its authors' code.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..nn import (
    Activation,
    BatchNorm2d,
    BlurPool2d,
    Conv2d,
    DropPath,
    MaxPool2d,
    Module,
    PointwiseConv2d,
    Residual,
    SeparableConv2d,
    Sequential,
    SqueezeExcite,
)
from .network import Network


def _norm(channels: int) -> BatchNorm2d:
    return BatchNorm2d(channels, momentum=0.9, eps=1e-5)


def _patches(ci: int, co: int, size: int) -> Conv2d:
    """A convolution whose windows lie side by side: each sees a patch of its own."""
    return Conv2d(ci, co, size, stride=size, padding="valid", bias=True)


def _stochastic_depth(rate: float) -> dict[str, Module]:
    return {"drop_path": DropPath(rate)} if rate else {}


def _down(ci: int, between: int, co: int, drop_path: float) -> Residual:
    """Two separable convolutions, a max pool, and a blur that halves the image, beside a strided 1x1 convolution."""
    return Residual(
        sep1=SeparableConv2d(ci, between, 5),
        bn1=_norm(between),
        act=Activation("gelu"),
        sep2=SeparableConv2d(between, co, 5),
        bn2=_norm(co),
        pool=MaxPool2d(3, stride=1, padding="same"),
        blur=BlurPool2d(stride=2),
        se=SqueezeExcite(co),
        **_stochastic_depth(drop_path),
        shortcut=Sequential(conv=PointwiseConv2d(ci, co, stride=2), bn=_norm(co)),
    )


def _bottleneck(channels: int, drop_path: float) -> Residual:
    """Three separable convolutions, three times as wide between the first two, with the identity around them."""
    return Residual(
        sep1=SeparableConv2d(channels, 3 * channels, 5),
        bn1=_norm(3 * channels),
        act=Activation("gelu"),
        sep2=SeparableConv2d(3 * channels, channels, 5),
        bn2=_norm(channels),
        sep3=SeparableConv2d(channels, channels, 5),
        se=SqueezeExcite(channels),
        **_stochastic_depth(drop_path),
    )


class NEXcepTionT(Network):
    """NEXcepTion-T, (n, h, w, 3) -> logits (n, num_classes): 24,544,976 trainable parameters, 4.6 GMACs at 224x224.

    include_top=False ends after the exit flow, with ``pooling`` None (n, h/32, w/32, 2048), "avg" or "max" (n, 2048).
    drop_path: the rate of stochastic depth in training (the authors' is 0.05). weights: a file for ``load_weights``.
    Softmax is left to the loss. Raises ArgumentError, and ShapeError for inputs below 18x18.
    Source: Shavit et al. 2023, appendix, tables 1 and 2.

    >>> NEXcepTionT().num_parameters(), NEXcepTionT().num_parameters(trainable=True)
    (24596352, 24544976)
    """

    preprocessing = "torch"  # (x / 255 - mean) / standard deviation, by colour
    min_size = 18  # 9 pixels behind the stem are the fewest that leave 2 for the last blur
    width = 512  # of the middle flow

    def __init__(
        self,
        num_classes: int = 1000,
        include_top: bool = True,
        pooling: str | None = None,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        weights: Any = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(input_shape, pooling)
        width = self.width
        self.stem = Sequential(conv=_patches(input_shape[2], 96, 2), act=Activation("gelu"), bn=_norm(96))
        self.down1 = _down(96, 128, 128, drop_path)
        self.down2 = _down(128, 256, 256, drop_path)
        self.down3 = _down(256, width, width, drop_path)
        for number in range(8):
            setattr(self, f"mid{number}", _bottleneck(width, drop_path))
        self.exit = Sequential(
            down=_down(width, width, 1024, drop_path),
            sep1=SeparableConv2d(1024, 1536),
            bn1=_norm(1536),
            act1=Activation("gelu"),
            sep2=SeparableConv2d(1536, 2048),
            bn2=_norm(2048),
            act2=Activation("gelu"),
        )
        self._add_pooling("avg" if include_top else pooling)
        if include_top:
            self._add_classifier(2048, num_classes)
        if weights is not None:
            self.load_weights(weights)


class NEXcepTionS(NEXcepTionT):
    """NEXcepTion-S: T with 752 channels in the middle flow; 43,386,944 trainable parameters, 8.4 GMACs at 224x224.

    >>> NEXcepTionS().num_parameters(), NEXcepTionS().num_parameters(trainable=True)
    (43455888, 43386944)
    """

    width = 752


class NEXcepTionTP(Network):
    """NEXcepTion-TP, the pyramid in ConvNeXt-T's layout: 26,559,112 trainable parameters, 4.3 GMACs at 224x224.

    Options and errors as for ``NEXcepTionT``; the last map has 768 channels, and the smallest input is 32x32.

    >>> NEXcepTionTP().num_parameters(), NEXcepTionTP().num_parameters(trainable=True)
    (26617608, 26559112)
    """

    preprocessing = "torch"
    min_size = 32
    widths = (96, 192, 384, 768)
    depths = (3, 4, 9, 3)

    def __init__(
        self,
        num_classes: int = 1000,
        include_top: bool = True,
        pooling: str | None = None,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        weights: Any = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(input_shape, pooling)
        rates = iter(np.linspace(0, drop_path, sum(self.depths)).tolist())
        before = self.widths[0]
        self.stem = Sequential(conv=_patches(input_shape[2], before, 4), bn=_norm(before))
        for number, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True)):
            down = {"down_bn": _norm(before), "down_conv": _patches(before, width, 2)} if number > 0 else {}
            blocks = {f"block{i}": _bottleneck(width, next(rates)) for i in range(depth)}
            setattr(self, f"stage{number}", Sequential(**down, **blocks))
            before = width
        self._add_pooling("avg" if include_top else pooling)
        if include_top:
            self.head_bn = _norm(before)
            self._add_classifier(before, num_classes)
        if weights is not None:
            self.load_weights(weights)
