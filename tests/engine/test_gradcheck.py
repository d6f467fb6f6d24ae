"""The checker itself: it must pass right gradients and reject each planted mistake."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import minixception as mx
from minixception.engine.op import RandomDraw, Rung
from minixception.engine.tensor import Tensor
from minixception.errors import DTypeError, GradientError
from minixception.ops import OPERATORS

pytestmark = pytest.mark.usefixtures("each_backend")


def _with_backward(op, backward):
    """The operator with another backward pass."""
    forward = op.rung("numpy").forward
    return replace(op, rungs={"numpy": Rung(forward, backward)})


def _zero(op):
    return lambda dy, saved: tuple(None if g is None else g * 0 for g in op.rung("numpy").backward(dy, saved))


def _scaled(op):
    return lambda dy, saved: tuple(None if g is None else g * 1.001 for g in op.rung("numpy").backward(dy, saved))


def _check(op, case):
    right = OPERATORS[op.name].rung("numpy")
    y, saved = right.forward(*case.arrays, **case.params)
    wanted = [g is not None for g in right.backward(np.ones_like(y), saved)]
    inputs = [Tensor(a, requires_grad=w) for a, w in zip(case.arrays, wanted, strict=True)]
    mx.gradcheck(lambda *xs: op(*xs, **case.params), inputs)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("plant", [_zero, _scaled])
def test_rejects_zero_and_slightly_scaled_gradients(name, plant):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(3))
    _check(op, case)
    with pytest.raises(GradientError):
        _check(_with_backward(op, plant(op)), case)


def test_rejects_batchnorm_without_the_variance_term():
    op = OPERATORS["batch_norm"]

    def backward(dy, saved):
        _x, gamma, _mean, var, eps, _training = saved
        scale = gamma / np.sqrt(var + eps)
        dx = scale * (dy - dy.mean(axis=(0, 1, 2)))  # the term of the mean, without the term of the variance
        _, dgamma, dbeta, _, _ = op.rung("numpy").backward(dy, saved)
        return dx, dgamma, dbeta, None, None

    rng = np.random.Generator(np.random.PCG64(0))
    x = Tensor(rng.standard_normal((3, 4, 4, 2)), requires_grad=True)
    fixed = [Tensor(a) for a in (np.ones(2), np.zeros(2), np.zeros(2), np.ones(2))]
    mx.gradcheck(lambda x: op(x, *fixed, training=True, eps=1e-3), [x])
    wrong = _with_backward(op, backward)
    with pytest.raises(GradientError, match="input 0"):
        mx.gradcheck(lambda x: wrong(x, *fixed, training=True, eps=1e-3), [x])


@pytest.mark.parametrize("name", ["conv2d", "depthwise_conv2d"])
def test_rejects_padding_off_by_one(name):
    op = OPERATORS[name]

    def backward(dy, saved):
        dx, dw = op.rung("numpy").backward(dy, saved)
        return np.roll(dx, 1, axis=2), dw

    _reject_convolution(op, backward)


@pytest.mark.parametrize("name", ["conv2d", "depthwise_conv2d"])
def test_rejects_transposed_kernel(name):
    op = OPERATORS[name]

    def backward(dy, saved):
        x, w, *rest = saved
        flipped = (x, np.ascontiguousarray(w.swapaxes(0, 1)), *rest)
        return op.rung("numpy").backward(dy, flipped)[0], op.rung("numpy").backward(dy, saved)[1]

    _reject_convolution(op, backward)


def _reject_convolution(op, backward):
    rng = np.random.Generator(np.random.PCG64(1))
    x = Tensor(rng.standard_normal((2, 5, 5, 3)), requires_grad=True)
    shape = (3, 3, 3, 4) if op.name == "conv2d" else (3, 3, 3)
    w = Tensor(rng.standard_normal(shape), requires_grad=True)
    params = {"stride": 1, "padding": "same"} | ({"groups": 1} if op.name == "conv2d" else {})
    mx.gradcheck(lambda x, w: op(x, w, **params), {"x": x, "w": w})
    with pytest.raises(GradientError, match=r"^x "):
        mx.gradcheck(lambda x, w: _with_backward(op, backward)(x, w, **params), {"x": x, "w": w})


def test_error_names_tensor_direction_and_both_slopes():
    op = OPERATORS["relu"]
    wrong = _with_backward(op, _scaled(op))
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    with pytest.raises(GradientError, match=r"image \(2,\), direction 0: analytic -?\d.*, numeric -?\d"):
        mx.gradcheck(lambda x: wrong(x), {"image": x})


def test_rejects_a_gradient_that_is_not_a_number():
    wrong = _with_backward(OPERATORS["relu"], lambda dy, saved: (np.full_like(dy, np.nan),))
    with pytest.raises(GradientError, match="analytic nan"):
        mx.gradcheck(wrong, [Tensor(np.array([1.0, 2.0]), requires_grad=True)])


def test_needs_float64_and_leaves_grad_alone():
    with pytest.raises(DTypeError, match="float64"):
        mx.gradcheck(lambda x: x * x, [mx.tensor([1.0], requires_grad=True)])
    x = Tensor(np.array([1.0, 2.0]), requires_grad=True)
    x.grad = np.array([5.0, 5.0])
    mx.gradcheck(lambda x: x * x, [x])
    np.testing.assert_array_equal(x.grad, [5.0, 5.0])
    np.testing.assert_array_equal(x.data, [1.0, 2.0])


def test_batchnorm_hides_from_a_cotangent_of_ones():
    """Why the cotangent is random: for the sum of its outputs, batchnorm's gradient in x is zero whatever x is."""
    op = OPERATORS["batch_norm"]
    rng = np.random.Generator(np.random.PCG64(2))
    x = Tensor(rng.standard_normal((4, 3, 3, 2)), requires_grad=True)
    fixed = [Tensor(a) for a in (np.ones(2), np.zeros(2), np.zeros(2), np.ones(2))]
    op(x, *fixed, training=True, eps=1e-3).sum().backward()
    assert np.abs(x.grad).max() < 1e-12
