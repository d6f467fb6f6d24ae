"""Networks; each file reads like its paper's figure. ``MODELS`` has all of them by the names of the command line."""

from __future__ import annotations

from collections.abc import Callable

from ..nn import Module
from .inception_v3 import InceptionV3
from .nexception import NEXcepTionS, NEXcepTionT, NEXcepTionTP
from .resnet152 import ResNet152
from .vgg16 import VGG16
from .xception import Xception, mini_xception

MODELS: dict[str, Callable[..., Module]] = {
    "xception": Xception,
    "mini_xception": mini_xception,
    "inception_v3": InceptionV3,
    "vgg16": VGG16,
    "resnet152": ResNet152,
    "nexception_t": NEXcepTionT,
    "nexception_tp": NEXcepTionTP,
    "nexception_s": NEXcepTionS,
}

__all__ = [
    "MODELS",
    "VGG16",
    "InceptionV3",
    "NEXcepTionS",
    "NEXcepTionT",
    "NEXcepTionTP",
    "ResNet152",
    "Xception",
    "mini_xception",
]
