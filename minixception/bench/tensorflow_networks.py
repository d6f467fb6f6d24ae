"""The same network in TensorFlow, with the same weights: what our own is measured against.

TensorFlow is never needed to use the package. It is imported only when a network is built, and every builder below gets
it as ``tf``, so that this module can be imported without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import nn
from ..engine.tensor import Tensor

if TYPE_CHECKING:
    from .peers import Step


def frozen(module: nn.Module, shape: tuple[int, ...]) -> tuple[Any, Any, Any]:
    """The graph of what ``module`` computes in inference, its input (n, h, w, c) of exactly this shape, its output.

    All weights are constants of the graph, in float32 and NHWC, so TensorFlow may fold and fuse what it can when the
    graph first runs.
    """
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, shape)
        return graph, x, _peer_model(_Builder(tf, lambda tensor: tensor.data, training=False), module, x)


def trained(module: nn.Module, x: np.ndarray, labels: np.ndarray, lr: float, momentum: float) -> Step:
    """A step of SGD on always the same images (n, h, w, c), as one graph, and the gradients that it left.

    In the precision of x. Batchnorm moves its running statistics as ours does.
    """
    import tensorflow as tf

    parameters = list(module.parameters())
    named = {id(tensor): tf.Variable(tensor.data) for _, tensor in module.named_tensors()}
    weights = [named[id(parameter)] for parameter in parameters]
    velocities, gradients = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
    builder = _Builder(tf, lambda tensor: named[id(tensor)], training=True)
    image, target = tf.constant(x), tf.constant(labels)

    @tf.function(jit_compile=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            logits = _peer_model(builder, module, image)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits))
        found = tape.gradient(loss, weights)
        for w, v, kept, gradient in zip(weights, velocities, gradients, found, strict=True):
            kept.assign(gradient)
            tf.raw_ops.ResourceApplyMomentum(
                var=w.handle,
                accum=v.handle,
                lr=tf.constant(lr, w.dtype),
                grad=gradient,
                momentum=tf.constant(momentum, w.dtype),
            )

    return step, lambda: [gradient.numpy() for gradient in gradients]


@dataclass(frozen=True)
class _Builder:
    """tf: TensorFlow; weight: what stands for a tensor of ours in the graph."""

    tf: Any
    weight: Callable[[Tensor], Any]
    training: bool


def _peer_model(b: _Builder, module: nn.Module, x: Any) -> Any:
    """What ``module`` makes of x."""
    kind = type(module)
    if kind in _LEAVES:
        return _LEAVES[kind](b, module, x)
    if isinstance(module, nn.Residual):
        y = _chain(b, [getattr(module, name) for name in module.chain], x)
        return b.tf.add(y, _peer_model(b, module.shortcut, x) if module.shortcut else x)
    return _chain(b, list(module.children().values()), x)


def _chain(b: _Builder, modules: list[nn.Module], x: Any) -> Any:
    for module in modules:
        x = _peer_model(b, module, x)
    return x


# Our "same" and "valid" are TensorFlow's own rules, in capital letters.


def _convolution(b: _Builder, module: Any, x: Any) -> Any:
    """TensorFlow reads the number of groups from the shapes."""
    return b.tf.nn.conv2d(x, b.weight(module.weight), module.stride, module.padding.upper())


def _depthwise(b: _Builder, weight: Tensor, stride: int, padding: str, x: Any) -> Any:
    """weight: (kh, kw, c); one output channel per input channel."""
    return b.tf.nn.depthwise_conv2d(x, b.weight(weight)[..., None], [1, stride, stride, 1], padding.upper())


def _pointwise(b: _Builder, weight: Tensor, x: Any, stride: int = 1) -> Any:
    """weight: (ci, co)."""
    return b.tf.nn.conv2d(x, b.weight(weight)[None, None], stride, "VALID")


def _separable(b: _Builder, module: Any, x: Any) -> Any:
    x = b.tf.nn.relu(x) if module.relu else x
    z = _depthwise(b, module.depthwise, module.stride, module.padding, x)
    return _pointwise(b, module.pointwise, z)


def _batchnorm(b: _Builder, module: Any, x: Any) -> Any:
    """Written as a product and a sum, not as the one operator for both, TensorFlow folds it into the convolution.

    In training it is the one operator, which does not take float64.
    """
    tf, gamma, beta = b.tf, b.weight(module.gamma), b.weight(module.beta)
    running = b.weight(module.running_mean), b.weight(module.running_var)
    if not b.training:
        return tf.nn.batch_normalization(x, *running, beta, gamma, module.eps)
    if x.dtype == tf.float32:
        y, *moments = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, epsilon=module.eps)
    else:
        moments = tf.nn.moments(x, [0, 1, 2])
        y = tf.nn.batch_normalization(x, *moments, beta, gamma, module.eps)
    for kept, new in zip(running, moments, strict=True):
        kept.assign(module.momentum * kept + (1 - module.momentum) * new)
    return y


def _max_pool(b: _Builder, module: Any, x: Any) -> Any:
    return b.tf.nn.max_pool2d(x, module.size, module.stride or module.size, module.padding.upper())


def _linear(b: _Builder, module: Any, x: Any) -> Any:
    return b.tf.nn.bias_add(b.tf.matmul(x, b.weight(module.weight)), b.weight(module.bias))


_LEAVES: dict[type, Callable[[_Builder, Any, Any], Any]] = {
    nn.Conv2d: _convolution,
    nn.DepthwiseConv2d: lambda b, m, x: _depthwise(b, m.weight, m.stride, m.padding, x),
    nn.PointwiseConv2d: lambda b, m, x: _pointwise(b, m.weight, x, m.stride),
    nn.SeparableConv2d: _separable,
    nn.BatchNorm2d: _batchnorm,
    nn.Activation: lambda b, m, x: {"relu": b.tf.nn.relu, "elu": b.tf.nn.elu}[m.name](x),
    nn.MaxPool2d: _max_pool,
    nn.GlobalAvgPool: lambda b, m, x: b.tf.reduce_mean(x, [1, 2]),
    nn.Linear: _linear,
}
