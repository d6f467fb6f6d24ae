"""Inception V3, the network that Xception is measured against; towers side by side in every module.

    stem        conv 32 /2, conv 32, conv 64, max pool /2                              299 -> 73
                conv 1x1 80, conv 192, max pool /2                                      73 -> 35
    mixed0-2    1x1 | 5x5 | 3x3, 3x3 | average pool, 1x1                  figure 5     35         256, 288, 288
    mixed3      3x3 /2 | 3x3, 3x3 /2 | max pool /2                        figure 10    35 -> 17   768
    mixed4-7    1x1 | 7x7 | 7x7, 7x7 | average pool, 1x1                  figure 6     17         768
    mixed8      3x3 /2 | 7x7, 3x3 /2 | max pool /2                        figure 10    17 ->  8   1280
    mixed9-10   1x1 | 3x3 | 3x3, 3x3 | average pool, 1x1                  figure 7      8         2048
    global average pooling, optional fully connected layers, logits

A 1x1 convolution leads into each tower with larger ones. 7x7 is made of 1x7 and 7x1, one after the other; the last 3x3
of mixed9 and mixed10 of 1x3 and 3x1, side by side.

Conventions (those of Keras' InceptionV3): each convolution is bias-free and followed by batchnorm without gamma and by
ReLU, a unit; strided convolutions, max pools and the stem but for its third convolution are padded "valid", all else
"same"; average pools do not count the padding. The auxiliary classifier of the paper is left out, as in Chollet 2017.
Source: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna 2015, "Rethinking the Inception Architecture for Computer Vision",
table 1 and figures 5 to 7 and 10; Keras 3 ``applications.InceptionV3``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..errors import ArgumentError
from ..nn import Activation, AvgPool2d, BatchNorm2d, Branches, Conv2d, MaxPool2d, Module, PointwiseConv2d, Sequential
from .network import Network

Unit = Callable[..., Sequential]  # _unit without its last argument
VALID_2 = (2, "valid")  # how the image is halved


def _unit(
    ci: int, co: int, kernel: int | tuple[int, int] = 1, stride: int = 1, padding: str = "same", in_2016: bool = False
) -> Sequential:
    """Convolution, batchnorm, ReLU; in 2016 ReLU, then batchnorm, with the bias and gamma that this order needs."""
    conv: Module = (
        PointwiseConv2d(ci, co, stride, bias=in_2016)
        if kernel == 1
        else Conv2d(ci, co, kernel, stride, padding, bias=in_2016)
    )
    if in_2016:
        return Sequential(conv=conv, act=Activation("relu"), bn=BatchNorm2d(co))
    return Sequential(conv=conv, bn=BatchNorm2d(co, scale=False), act=Activation("relu"))


def _units(unit: Unit, ci: int, layers: dict[str, tuple[Any, ...]]) -> dict[str, Module]:
    """One unit after the other, by name; each (channels, kernel, ...) as for ``_unit``."""
    made: dict[str, Module] = {}
    for name, (co, *rest) in layers.items():
        made[name] = unit(ci, co, *rest)
        ci = co
    return made


def _tower(unit: Unit, ci: int, layers: dict[str, tuple[Any, ...]]) -> Sequential:
    return Sequential(**_units(unit, ci, layers))


def _pool_tower(unit: Unit, ci: int, co: int) -> Sequential:
    return Sequential(avg=AvgPool2d(3, stride=1, padding="same"), **_units(unit, ci, {"1x1": (co,)}))


def _stem(unit: Unit, channels: int) -> Sequential:
    return Sequential(
        **_units(unit, channels, {"1_3x3s2": (32, 3, *VALID_2), "2_3x3": (32, 3, 1, "valid"), "3_3x3same": (64, 3)}),
        pool1=MaxPool2d(3, stride=2),
        **_units(unit, 64, {"4_1x1": (80,), "5_3x3": (192, 3, 1, "valid")}),
        pool2=MaxPool2d(3, stride=2),
    )


def _figure5(unit: Unit, ci: int, pool: int) -> Branches:
    """mixed0 to mixed2; pool: channels of the last tower."""
    return Branches(
        b1x1=unit(ci, 64),
        b5x5=_tower(unit, ci, {"1": (48,), "2": (64, 5)}),
        b3x3dbl=_tower(unit, ci, {"1": (64,), "2": (96, 3), "3": (96, 3)}),
        pool=_pool_tower(unit, ci, pool),
    )


def _figure6(unit: Unit, ci: int, n: int, first: int | None = None) -> Branches:
    """mixed4 to mixed7; n: channels of the inner 7x7s, first: of the 1x1 before the double one, if not n."""
    return Branches(
        b1x1=unit(ci, 192),
        b7x7=_tower(unit, ci, {"1": (n,), "2_1x7": (n, (1, 7)), "3_7x1": (192, (7, 1))}),
        b7x7dbl=_tower(
            unit,
            ci,
            {
                "1": (first or n,),
                "2_7x1": (n, (7, 1)),
                "3_1x7": (n, (1, 7)),
                "4_7x1": (n, (7, 1)),
                "5_1x7": (192, (1, 7)),
            },
        ),
        pool=_pool_tower(unit, ci, 192),
    )


def _figure7(unit: Unit, ci: int) -> Branches:
    """mixed9 and mixed10: towers that fork at their end."""
    return Branches(
        b1x1=unit(ci, 320),
        b3x3=Branches(
            _units(unit, ci, {"1": (384,)}),
            **{"2a_1x3": unit(384, 384, (1, 3)), "2b_3x1": unit(384, 384, (3, 1))},
        ),
        b3x3dbl=Branches(
            _units(unit, ci, {"1": (448,), "2": (384, 3)}),
            **{"3a_1x3": unit(384, 384, (1, 3)), "3b_3x1": unit(384, 384, (3, 1))},
        ),
        pool=_pool_tower(unit, ci, 192),
    )


class InceptionV3(Network):
    """Inception V3, (n, h, w, 3) -> logits (n, num_classes): 23,851,784 parameters, 5,713,216,096 MACs at 299x299.

    num_classes, fc_units: the head; fc_units=(4096, 4096) is the form with fully connected layers that Chollet 2017
    trains on JFT, whose images have many labels: ``binary_cross_entropy_with_logits`` on the logits. dropout: rate
    before them. include_top=False ends after mixed10, with ``pooling`` None (n, h, w, 2048), "avg" or "max" (n, 2048).
    weights: a file for ``load_weights``. Softmax is left to the loss. Raises ArgumentError, and ShapeError for inputs
    below 75x75.

    variant="2016" is Chollet's own script of October 2016, whose trainable parameters are exactly the 23,626,728 of
    table 3 of the Xception paper: convolutions have a bias, ReLU comes before batchnorm, which has its gamma; the
    pooling towers of mixed1 and mixed2 are 32 wide, not 64; the double 7x7 of mixed7 begins with 160 channels, not 192;
    the pool of mixed8 takes the average.
    Source: Szegedy et al. 2015, table 1; Keras 3 ``applications.InceptionV3``; inception_v3.py in
    github.com/fchollet/deep-learning-models.

    >>> InceptionV3().num_parameters(), InceptionV3().num_parameters(trainable=True)
    (23851784, 23817352)
    >>> InceptionV3(variant="2016").num_parameters(trainable=True)
    23626728
    """

    preprocessing = "tf"  # x / 127.5 - 1
    min_size = 75

    def __init__(
        self,
        num_classes: int = 1000,
        include_top: bool = True,
        pooling: str | None = None,
        input_shape: tuple[int, int, int] = (299, 299, 3),
        fc_units: Sequence[int] = (),
        weights: Any = None,
        dropout: float = 0.0,
        variant: str | None = None,
    ) -> None:
        if variant not in (None, "2016"):
            raise ArgumentError(f"variant must be None or '2016', got {variant!r}")
        super().__init__(input_shape, pooling)
        in_2016 = variant is not None
        unit = partial(_unit, in_2016=in_2016)
        pool = 32 if in_2016 else 64

        self.stem = _stem(unit, input_shape[2])
        self.mixed0 = _figure5(unit, 192, pool=32)
        self.mixed1 = _figure5(unit, 256, pool)
        self.mixed2 = _figure5(unit, 224 + pool, pool)
        self.mixed3 = Branches(
            b3x3s2=unit(224 + pool, 384, 3, *VALID_2),
            b3x3dbl=_tower(unit, 224 + pool, {"1": (64,), "2": (96, 3), "3s2": (96, 3, *VALID_2)}),
            pool=MaxPool2d(3, stride=2),
        )
        self.mixed4 = _figure6(unit, 384 + 96 + 224 + pool, 128)
        self.mixed5 = _figure6(unit, 768, 160)
        self.mixed6 = _figure6(unit, 768, 160)
        self.mixed7 = _figure6(unit, 768, 192, first=160 if in_2016 else 192)
        self.mixed8 = Branches(
            b3x3=_tower(unit, 768, {"1": (192,), "2s2": (320, 3, *VALID_2)}),
            b7x7x3=_tower(
                unit, 768, {"1": (192,), "2_1x7": (192, (1, 7)), "3_7x1": (192, (7, 1)), "4_3x3s2": (192, 3, *VALID_2)}
            ),
            pool=AvgPool2d(3, stride=2) if in_2016 else MaxPool2d(3, stride=2),
        )
        self.mixed9 = _figure7(unit, 1280)
        self.mixed10 = _figure7(unit, 2048)
        self._add_pooling("avg" if include_top else pooling)
        if include_top:
            self._add_classifier(2048, num_classes, fc_units, dropout)
        if weights is not None:
            self.load_weights(weights)
