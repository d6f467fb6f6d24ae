"""Accuracy on ImageNet's validation images as the papers published it, for the networks of this folder."""

from __future__ import annotations

from typing import NamedTuple

CHOLLET = "Chollet 2017, table 1"
SHAVIT = "Shavit et al. 2022, appendix, table 1"


class Published(NamedTuple):
    """A network as its paper calls it, and the shares of images whose class is among its first 1 and first 5.

    Each source trained and evaluated in its own way: compare accuracies within one.
    """

    title: str
    source: str
    top1: float
    top5: float | None = None


PUBLISHED = {  # by the names in MODELS
    "vgg16": Published("VGG-16", CHOLLET, 0.715, 0.901),
    "resnet152": Published("ResNet-152", CHOLLET, 0.770, 0.933),
    "inception_v3": Published("Inception V3", CHOLLET, 0.782, 0.941),
    "xception": Published("Xception", CHOLLET, 0.790, 0.945),
    "nexception_t": Published("NEXcepTion-T", SHAVIT, 0.815),
    "nexception_tp": Published("NEXcepTion-TP", SHAVIT, 0.818),
    "nexception_s": Published("NEXcepTion-S", SHAVIT, 0.820),
}
