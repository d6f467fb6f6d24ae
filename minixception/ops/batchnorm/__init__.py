"""Batch normalisation: each channel is brought to mean 0 and variance 1, then scaled and shifted.

    mean_q    = 1/m sum_r x[r,q]                           over the batch, in training
    var_q     = 1/m sum_r (x[r,q] - mean_q)^2
    xhat[r,q] = (x[r,q] - mean_q) * s_q                    with s_q = 1 / sqrt(var_q + eps)
    y[r,q]    = gamma_q * xhat[r,q] + beta_q

Shapes: x and y (..., c), that is (n, h, w, c) or (n, c); gamma, beta, mean and var (c,). r runs over all m =
n*h*w pixels of the batch: axes but the last are one axis here. In inference mean and var are the running
averages of training.

Backward, for one channel (q is left out). gamma and beta enter y directly:

    dbeta = sum_r dy[r]                    dgamma = sum_r dy[r] * xhat[r]

In inference mean and var are constants, so dx = gamma * s * dy. In training a pixel x[r] reaches the loss on
three ways: through its own xhat[r], and through mean and var, which all pixels share. With g = gamma * dy,
the gradient of xhat:

    dvar  = sum_r g[r] * (x[r] - mean) * (-1/2) s^3     because ds/dvar = -1/2 (var + eps)^(-3/2) = -1/2 s^3
    dmean = sum_r g[r] * (-s)                           dvar/dmean = -2/m sum_r (x[r] - mean) = 0 adds nothing
    dx[r] = g[r] * s  +  dmean * 1/m  +  dvar * 2/m (x[r] - mean)

Put in (x[r] - mean) = xhat[r] / s, and the two sums turn out to be dbeta and dgamma, which are needed anyway:

    dx[r] = gamma * s * (dy[r] - dbeta/m - xhat[r] * dgamma/m)

Read it as a projection: what is left of dy once its mean and its component along xhat are taken away. A
constant dy, or one proportional to xhat, gives dx = 0, since no shift and no stretch of x can be seen in y.
That is also why ``y.sum().backward()`` cannot test this operator.

Cost: no MACs in the paper's way of counting. It is memory-bound: training reads x twice (statistics, then y)
and writes y once, 12 bytes an element in float32; its backward pass reads dy and x twice and writes dx, 20
bytes an element.
Source: Ioffe and Szegedy 2015, algorithm 1 and the formulas of section 3. Momentum and eps follow Keras, as
Chollet 2017 does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...engine.op import Case, Draw, Op, Rung, Shape
from ...engine.tensor import Tensor
from ...errors import ArgumentError, ShapeError
from ...gpu.device import is_on_gpu, to_cpu
from .cpu import backward_cpu, backward_loops, forward_cpu, forward_loops
from .cuda import (
    backward_cuda,
    backward_cuda_block,
    backward_cuda_naive,
    forward_cuda,
    forward_cuda_block,
    forward_cuda_naive,
    move_cuda,
)
from .definition import backward_numpy, forward_numpy

# 4. Operator ------------------------------------------------------------------------------------------------


def _shape(
    x: Shape, gamma: Shape, beta: Shape, running_mean: Shape, running_var: Shape, *, training: bool, eps: float
) -> Shape:
    if len(x) not in (2, 4):
        raise ShapeError(f"batch_norm: x must be (n, h, w, c) or (n, c), got {len(x)} dimensions: {x}")
    per_channel = {"gamma": gamma, "beta": beta, "running_mean": running_mean, "running_var": running_var}
    for name, shape in per_channel.items():
        if shape != x[-1:]:
            raise ShapeError(f"batch_norm: {name} must be ({x[-1]},), one value for each channel of x {x}, got {shape}")
    if training and math.prod(x[:-1]) < 2:
        raise ShapeError(
            f"batch_norm: training needs at least two values per channel, x has {math.prod(x[:-1])} in shape {x}: the "
            "variance of one value is 0 and y would be beta whatever x is. Use a larger batch (drop a last "
            "batch of one) or larger images, or normalise with the running statistics: model.eval(), "
            "training=False"
        )
    if not eps > 0:
        raise ArgumentError(f"batch_norm: eps must be positive, got {eps!r}")
    return x


def _sample(draw: Draw) -> Case:
    training, c = draw.choice((True, False)), draw.integer(1, 20)
    pixels = draw.choice(((2,), (5,), (2, 1, 1), (1, 3, 4), (3, 5, 5)))
    running_var = draw.normal(c) ** 2 + draw.dtype.type(0.5)
    arrays = (draw.normal(*pixels, c), draw.normal(c), draw.normal(c), draw.normal(c), running_var)
    return Case(arrays, {"training": training, "eps": 1e-3})


BATCH_NORM = Op(
    name="batch_norm",
    rungs={
        "numpy": Rung(forward_numpy, backward_numpy),
        "loops": Rung(forward_loops, backward_loops),
        "cpu": Rung(forward_cpu, backward_cpu),
        "cuda_naive": Rung(forward_cuda_naive, backward_cuda_naive),
        "cuda_block": Rung(forward_cuda_block, backward_cuda_block),
        "cuda": Rung(forward_cuda, backward_cuda),
    },
    shape=_shape,
    sample=_sample,
)


# 5. Function ------------------------------------------------------------------------------------------------


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool = False,
    momentum: float = 0.99,
    eps: float = 1e-3,
) -> Tensor:
    """Normalise each channel of x (n, h, w, c) or (n, c); the other arrays are (c,), and y is shaped like x.

    training=True uses the batch's mean and (biased) variance, and moves the running arrays towards them in
    place: running = momentum * running + (1 - momentum) * batch, the Keras rule. training=False uses the
    running arrays.
    Raises ShapeError if channels disagree or a training batch has one value per channel, DTypeError for mixed
    dtypes, ArgumentError for an eps or momentum out of range. Ioffe and Szegedy 2015, algorithms 1 and 2.

    >>> import minixception as mx
    >>> one, zero, mean, var = mx.tensor([1.0]), mx.tensor([0.0]), mx.tensor([0.0]), mx.tensor([1.0])
    >>> batch_norm(mx.tensor([[1.0], [3.0]]), one, zero, mean, var, training=True, eps=1e-9).numpy().ravel()
    array([-1.,  1.], dtype=float32)
    >>> mean.numpy()  # 0.99 * 0 + 0.01 * 2
    array([0.02], dtype=float32)
    """
    if not 0 <= momentum <= 1:
        raise ArgumentError(f"batch_norm: momentum must lie between 0 and 1, got {momentum!r}")
    y, saved = BATCH_NORM.apply(x, gamma, beta, running_mean, running_var, training=training, eps=eps)
    if training and saved is not None:  # None: an observer asked for shapes only
        _, _, mean, var, _, _ = saved
        move_running(running_mean.data, mean, momentum)
        move_running(running_var.data, var, momentum)
    return y


def move_running(running: Any, batch: Any, momentum: float) -> None:
    """Move running statistics towards the batch's, in place; they may lie on the GPU, or the batch's alone.

    A batch's variance may be beyond their dtype. Then half of the dtype's largest value stands for it: running
    statistics that are infinite once never become finite again, and an infinity times a momentum of 0 is NaN.
    """
    limit = float(np.finfo(running.dtype).max / 2)
    if is_on_gpu(running):
        move_cuda(running, batch, momentum, limit)
    else:
        running *= momentum
        running += (1 - momentum) * np.minimum(to_cpu(batch), limit).astype(running.dtype)
