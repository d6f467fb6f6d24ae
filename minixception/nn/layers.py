"""Layers with one operator each: they own the parameters, ops/ does the work."""

from __future__ import annotations

import numpy as np

from .. import ops
from ..engine.tensor import Tensor
from ..errors import ArgumentError, ShapeError
from ..ops.window import Border, Pair, one_if_equal, pair
from . import init
from .module import Buffer, Module, Parameter

ACTIVATIONS = {"relu": ops.relu, "elu": ops.elu, "gelu": ops.gelu, "sigmoid": ops.sigmoid, "tanh": ops.tanh}


def _bias(channels: int, wanted: bool) -> Parameter | None:
    return Parameter(np.zeros(channels, np.float32)) if wanted else None


class Conv2d(Module):
    """Convolution, (n, h, w, in_channels) -> (n, ho, wo, out_channels).

    Parameters: weight (kh, kw, in_channels / groups, out_channels); with bias=True, for networks that ask for it, bias
    (out_channels,). padding: "same", "valid" or a number of pixels on each side. It, the kernel's size, stride and
    dilation may be pairs (down, across). See ``ops.conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Border = "same",
        groups: int = 1,
        bias: bool = False,
        dilation: Pair = 1,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(f"Conv2d: groups={groups} must divide {in_channels} and {out_channels} channels")
        kh, kw = pair(one_if_equal(kernel_size))
        shape = (kh, kw, in_channels // groups, out_channels)
        fan_in, fan_out = kh * kw * in_channels // groups, kh * kw * out_channels // groups
        self.weight = Parameter(init.glorot_uniform(shape, fan_in, fan_out))
        self.bias = _bias(out_channels, bias)
        self.stride, self.padding, self.groups = one_if_equal(stride), one_if_equal(padding), groups
        self.dilation = one_if_equal(dilation)

    def forward(self, x: Tensor) -> Tensor:
        y = ops.conv2d(x, self.weight, self.stride, self.padding, self.groups, self.dilation)
        return y if self.bias is None else ops.add(y, self.bias)


class DepthwiseConv2d(Module):
    """Depthwise convolution without bias, (n, h, w, c) -> (n, ho, wo, c).

    Parameter: weight (kh, kw, channels). The other arguments are those of ``Conv2d``. See ``ops.depthwise_conv2d``.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Border = "same",
        dilation: Pair = 1,
    ) -> None:
        kh, kw = pair(one_if_equal(kernel_size))
        self.weight = Parameter(init.glorot_uniform((kh, kw, channels), kh * kw, kh * kw))
        self.stride, self.padding = one_if_equal(stride), one_if_equal(padding)
        self.dilation = one_if_equal(dilation)

    def forward(self, x: Tensor) -> Tensor:
        return ops.depthwise_conv2d(x, self.weight, self.stride, self.padding, self.dilation)


class PointwiseConv2d(Module):
    """1x1 convolution, (n, h, w, in_channels) -> (n, ho, wo, out_channels).

    Parameters: weight (in_channels, out_channels); with bias=True, for networks that ask for it, bias (out_channels,).
    See ``ops.pointwise_conv2d``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, bias: bool = False) -> None:
        self.weight = Parameter(init.glorot_uniform((in_channels, out_channels), in_channels, out_channels))
        self.bias = _bias(out_channels, bias)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = ops.pointwise_conv2d(x, self.weight, self.stride)
        return y if self.bias is None else ops.add(y, self.bias)


class SeparableConv2d(Module):
    """Depthwise, then pointwise convolution without bias; activation between the two only where asked for.

    Parameters: depthwise (kh, kw, in_channels), pointwise (in_channels, out_channels). ``activation`` is None (the
    paper's finding: best without, figure 10), "relu" or "elu". ``relu``: apply a ReLU to the input first, inside of the
    same kernel, which saves a pass over memory. The other arguments are those of ``Conv2d``. See
    ``ops.separable_conv2d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair = 3,
        stride: Pair = 1,
        padding: Border = "same",
        activation: str | None = None,
        relu: bool = False,
        dilation: Pair = 1,
    ) -> None:
        if activation is not None and activation not in ACTIVATIONS:
            raise ArgumentError(f"activation must be None or one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        kh, kw = pair(one_if_equal(kernel_size))
        self.depthwise = Parameter(init.glorot_uniform((kh, kw, in_channels), kh * kw, kh * kw))
        self.pointwise = Parameter(init.glorot_uniform((in_channels, out_channels), in_channels, out_channels))
        self.stride, self.padding, self.dilation = one_if_equal(stride), one_if_equal(padding), one_if_equal(dilation)
        self.activation, self.relu = activation, relu

    def forward(self, x: Tensor) -> Tensor:
        return self._convolve(x, self.relu)

    def convolve(self, x: Tensor) -> Tensor:
        """The two convolutions, without the ReLU in front."""
        return self._convolve(x, relu=False)

    def _convolve(self, x: Tensor, relu: bool) -> Tensor:
        if self.activation is None:
            weights = self.depthwise, self.pointwise
            return ops.separable_conv2d(x, *weights, self.stride, self.padding, relu, self.dilation)
        z = ops.depthwise_conv2d(ops.relu(x) if relu else x, self.depthwise, self.stride, self.padding, self.dilation)
        return ops.pointwise_conv2d(ACTIVATIONS[self.activation](z), self.pointwise)


class BatchNorm2d(Module):
    """Batch normalisation over (n, h, w) per channel, by the Keras rule (eps 1e-3, momentum 0.99).

    Parameters: gamma, beta; buffers: running_mean, running_var; all (channels,). scale=False has no gamma: where a ReLU
    and a layer with weights follow, these can scale instead. Frozen, that is when beta takes no gradient, it uses its
    running statistics in training too and leaves them alone, as Keras does for trainable=False. See ``ops.batch_norm``.
    """

    def __init__(self, channels: int, momentum: float = 0.99, eps: float = 1e-3, scale: bool = True) -> None:
        self.gamma = Parameter(np.ones(channels, np.float32)) if scale else None
        self.beta = Parameter(np.zeros(channels, np.float32))
        self.running_mean = Buffer(np.zeros(channels, np.float32))
        self.running_var = Buffer(np.ones(channels, np.float32))
        self.momentum, self.eps = momentum, eps

    def forward(self, x: Tensor) -> Tensor:
        return ops.batch_norm(
            x,
            Tensor(np.ones(self.beta.shape, self.beta.dtype)) if self.gamma is None else self.gamma,
            self.beta,
            self.running_mean,
            self.running_var,
            self.training and self.beta.requires_grad,
            self.momentum,
            self.eps,
        )


class Linear(Module):
    """Fully connected layer, (n, in_features) -> (n, out_features).

    Parameters: weight (in_features, out_features), bias (out_features,). See ``ops.linear``.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        self.weight = Parameter(init.glorot_uniform((in_features, out_features), in_features, out_features))
        self.bias = Parameter(np.zeros(out_features, np.float32))

    def forward(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight, self.bias)


class Activation(Module):
    """One of relu, elu, gelu, sigmoid as a layer."""

    def __init__(self, name: str = "relu") -> None:
        if name not in ACTIVATIONS:
            raise ArgumentError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)


def ReLU() -> Activation:
    """``Activation("relu")`` by the name that PyTorch has for it; so are the four below."""
    return Activation("relu")


def ELU() -> Activation:
    """``Activation("elu")``."""
    return Activation("elu")


def GELU() -> Activation:
    """``Activation("gelu")``."""
    return Activation("gelu")


def Sigmoid() -> Activation:
    """``Activation("sigmoid")``."""
    return Activation("sigmoid")


def Tanh() -> Activation:
    """``Activation("tanh")``."""
    return Activation("tanh")


class Softmax(Module):
    """Probabilities from logits, (..., k) -> (..., k). The losses take logits: in training it stands behind none."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.softmax(x)


class Identity(Module):
    """What it is given, as it is: in the place of a layer that is left out."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class MaxPool2d(Module):
    """Maximum over a window, (n, h, w, c) -> (n, ho, wo, c); padded pixels never win. See ``ops.max_pool2d``."""

    def __init__(self, size: Pair, stride: Pair | None = None, padding: Border = "valid", dilation: Pair = 1) -> None:
        self.size, self.stride, self.padding = one_if_equal(size), one_if_equal(stride), one_if_equal(padding)
        self.dilation = one_if_equal(dilation)

    def forward(self, x: Tensor) -> Tensor:
        return ops.max_pool2d(x, self.size, self.stride, self.padding, self.dilation)


class AvgPool2d(Module):
    """Mean over the pixels of a window inside of the image, (n, h, w, c) -> (n, ho, wo, c). See ``ops.avg_pool2d``."""

    def __init__(self, size: Pair, stride: Pair | None = None, padding: Border = "valid") -> None:
        self.size, self.stride, self.padding = one_if_equal(size), one_if_equal(stride), one_if_equal(padding)

    def forward(self, x: Tensor) -> Tensor:
        return ops.avg_pool2d(x, self.size, self.stride, self.padding)


class GlobalAvgPool(Module):
    """Mean over all pixels, (n, h, w, c) -> (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.global_avg_pool(x)


class GlobalMaxPool(Module):
    """Maximum over all pixels, (n, h, w, c) -> (n, c)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ShapeError(f"GlobalMaxPool: x must be (n, h, w, c), got {x.ndim} dimensions: {x.shape}")
        n, h, w, c = x.shape
        return ops.max_pool2d(x, (h, w), stride=1).reshape(n, c)  # one window


class Flatten(Module):
    """All values of an image in one row, (n, h, w, c) -> (n, h*w*c), in the order h, w, c."""

    def forward(self, x: Tensor) -> Tensor:
        return ops.reshape(x, (x.shape[0], -1))


class Dropout(Module):
    """Zero a share ``rate`` of the values in training and scale the others by 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.rate, self.training)


class Add(Module):
    """The sum of two tensors of one shape."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class Concat(Module):
    """Channels of all inputs side by side."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return ops.concat(inputs, axis=-1)
