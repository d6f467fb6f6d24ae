"""The same network as a frozen TensorFlow graph, with the same weights: what our inference is measured against.

TensorFlow is never needed to use the package. It is imported only when a graph is built, and every builder below gets
it as ``tf``, so that this module can be imported without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import nn


def frozen(module: nn.Module, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """The graph of what ``module`` computes in inference, its input (n, h, w, c) of exactly this shape, its output.

    All weights are constants of the graph, in float32 and NHWC, so TensorFlow may fold and fuse what it can when the
    graph first runs.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, shape)
        return graph, x, _peer_model(tf, module, x)


def _peer_model(tf: Any, module: nn.Module, x: Any) -> Any:
    """What ``module`` makes of x."""
    kind = type(module)
    if kind in _LEAVES:
        return _LEAVES[kind](tf, module, x)
    if isinstance(module, nn.Residual):
        y = _chain(tf, [getattr(module, name) for name in module.chain], x)
        return tf.add(y, _peer_model(tf, module.shortcut, x) if module.shortcut else x)
    return _chain(tf, list(module.children().values()), x)


def _chain(tf: Any, modules: list[nn.Module], x: Any) -> Any:
    for module in modules:
        x = _peer_model(tf, module, x)
    return x


# Our "same" and "valid" are TensorFlow's own rules, in capital letters.


def _convolution(tf: Any, module: Any, x: Any) -> Any:
    """TensorFlow reads the number of groups from the shapes."""
    return tf.nn.conv2d(x, module.weight.data, module.stride, module.padding.upper())


def _depthwise(tf: Any, weight: np.ndarray, stride: int, padding: str, x: Any) -> Any:
    """weight: (kh, kw, c); one output channel per input channel."""
    return tf.nn.depthwise_conv2d(x, weight[..., None], [1, stride, stride, 1], padding.upper())


def _pointwise(tf: Any, weight: np.ndarray, x: Any, stride: int = 1) -> Any:
    """weight: (ci, co)."""
    return tf.nn.conv2d(x, weight[None, None], stride, "VALID")


def _separable(tf: Any, module: Any, x: Any) -> Any:
    x = tf.nn.relu(x) if module.relu else x
    z = _depthwise(tf, module.depthwise.data, module.stride, module.padding, x)
    return _pointwise(tf, module.pointwise.data, z)


def _batchnorm(tf: Any, module: Any, x: Any) -> Any:
    """Written as a product and a sum, not as the one operator for both, TensorFlow folds it into the convolution."""
    mean, var, gamma, beta = (t.data for t in (module.running_mean, module.running_var, module.gamma, module.beta))
    return tf.nn.batch_normalization(x, mean, var, beta, gamma, module.eps)


def _max_pool(tf: Any, module: Any, x: Any) -> Any:
    return tf.nn.max_pool2d(x, module.size, module.stride or module.size, module.padding.upper())


def _linear(tf: Any, module: Any, x: Any) -> Any:
    return tf.nn.bias_add(tf.matmul(x, module.weight.data), module.bias.data)


_LEAVES: dict[type, Callable[[Any, Any, Any], Any]] = {
    nn.Conv2d: _convolution,
    nn.DepthwiseConv2d: lambda tf, m, x: _depthwise(tf, m.weight.data, m.stride, m.padding, x),
    nn.PointwiseConv2d: lambda tf, m, x: _pointwise(tf, m.weight.data, x, m.stride),
    nn.SeparableConv2d: _separable,
    nn.BatchNorm2d: _batchnorm,
    nn.Activation: lambda tf, m, x: {"relu": tf.nn.relu, "elu": tf.nn.elu}[m.name](x),
    nn.MaxPool2d: _max_pool,
    nn.GlobalAvgPool: lambda tf, m, x: tf.reduce_mean(x, [1, 2]),
    nn.Linear: _linear,
}
