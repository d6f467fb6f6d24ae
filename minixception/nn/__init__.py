"""Layers and modules: parameters and names, no maths."""

from __future__ import annotations

from .blocks import Branches, InceptionModule, ModuleList, Residual, Sequential, SpectrumConv2d
from .layers import (
    Activation,
    Add,
    AvgPool2d,
    BatchNorm2d,
    Concat,
    Conv2d,
    DepthwiseConv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    GlobalMaxPool,
    Linear,
    MaxPool2d,
    PointwiseConv2d,
    SeparableConv2d,
)
from .modern import BlurPool2d, DropPath, SqueezeExcite
from .module import Buffer, Module, Parameter

__all__ = [
    "Activation",
    "Add",
    "AvgPool2d",
    "BatchNorm2d",
    "BlurPool2d",
    "Branches",
    "Buffer",
    "Concat",
    "Conv2d",
    "DepthwiseConv2d",
    "DropPath",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "InceptionModule",
    "Linear",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "Parameter",
    "PointwiseConv2d",
    "Residual",
    "SeparableConv2d",
    "Sequential",
    "SpectrumConv2d",
    "SqueezeExcite",
]
