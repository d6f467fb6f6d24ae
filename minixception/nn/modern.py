"""Layers younger than the paper, which NEXcepTion is made of: squeeze-excite, blurred pooling, stochastic depth."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..engine.random import generator
from ..engine.tensor import Tensor
from ..errors import ArgumentError
from .layers import Activation, BatchNorm2d, GlobalAvgPool, Linear
from .module import Module


class Scale(Module):
    """Each channel of each image times a factor of its own, x (n, h, w, c), gate (n, c) -> (n, h, w, c)."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        n, c = gate.shape
        return x * gate.reshape(n, 1, 1, c)


class SqueezeExcite(Module):
    """What the whole image shows decides how much each channel counts, (n, h, w, c) -> (n, h, w, c).

        z    = mean of x over h, w                                    (n, c)           squeeze
        gate = sigmoid(fc2(gelu(batchnorm(fc1(z)))))                  (n, c) in 0..1   excite
        y    = x * gate

    fc1 goes to ``reduced`` features, fc2 back to the channels; both have a bias. Where reduced is None it is a
    sixteenth of the channels, rounded to a multiple of 8. Batchnorm sees (n, reduced), n values per feature: training
    needs a batch of two or more (ShapeError). Parameters: 2*c*reduced + c + 3*reduced, and 2*reduced buffers.
    Source: Hu et al. 2018, section 3; with batchnorm and GELU as in Shavit et al. 2023.

    >>> [SqueezeExcite(c).fc1.weight.shape[1] for c in (96, 192, 752, 1024)]
    [8, 16, 48, 64]
    """

    def __init__(self, channels: int, reduced: int | None = None) -> None:
        if reduced is None:
            reduced = max(8, (channels // 16 + 4) // 8 * 8)
        self.squeeze = GlobalAvgPool()
        self.fc1 = Linear(channels, reduced)
        self.bn = BatchNorm2d(reduced, momentum=0.9, eps=1e-5)
        self.act = Activation("gelu")
        self.fc2 = Linear(reduced, channels)
        self.gate = Activation("sigmoid")
        self.scale = Scale()

    def forward(self, x: Tensor) -> Tensor:
        z = self.squeeze(x)  # (n, c)
        z = self.act(self.bn(self.fc1(z)))  # (n, reduced)
        return self.scale(x, self.gate(self.fc2(z)))  # (n, h, w, c)


class BlurPool2d(Module):
    """Every ``stride``-th pixel of a blurred image, (n, h, w, c) -> (n, ceil(h / stride), ceil(w / stride), c).

    The blur is the 3x3 binomial filter [1 2 1] x [1 2 1] / 16; at the border the image is mirrored about its outermost
    pixel. It takes away what the coarser grid cannot show, which subsampling alone would fold into wrong patterns
    (aliasing). No parameters; 9 MACs per output. ShapeError for an image of one row or column.
    Source: Zhang 2019, "Making Convolutional Networks Shift-Invariant Again", section 3.2.
    """

    def __init__(self, stride: int = 2) -> None:
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        taps = np.array([1, 2, 1], x.dtype) / 4
        kernel = np.repeat(np.outer(taps, taps)[:, :, None], x.shape[-1], axis=2)  # (3, 3, c)
        return ops.depthwise_conv2d(ops.reflect_pad2d(x, 1), Tensor(kernel), self.stride, "valid")


class DropPath(Module):
    """Stochastic depth: in training, zero all of an image with probability ``rate``, divide the others by 1 - rate.

    At the end of a residual branch it leaves out the block for that image. The draws, one an image, come from the
    package's generator (``minixception.engine.random``). x itself at inference. ArgumentError unless 0 <= rate < 1.
    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth"; scaled in training instead of at inference.
    """

    def __init__(self, rate: float) -> None:
        if not 0 <= rate < 1:
            raise ArgumentError(f"DropPath: rate must be at least 0 and less than 1, got {rate!r}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        drawn = generator().random((len(x.data), *[1] * (x.ndim - 1)))  # (n, 1, 1, 1), uniform in [0, 1)
        return x * Tensor(((drawn >= self.rate) / (1 - self.rate)).astype(x.dtype))
