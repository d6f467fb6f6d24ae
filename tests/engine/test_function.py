"""mx.Function: an operator of one's own."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.errors import ArgumentError, GradientError

scaled = mx.Function(
    lambda x, w, power: (x**power * w, (x, w, power)),
    lambda dy, saved: (dy * saved[2] * saved[0] ** (saved[2] - 1) * saved[1], dy * saved[0] ** saved[2]),
    name="scaled",
)


def leaf(*shape):
    values = np.random.Generator(np.random.PCG64(0)).uniform(0.5, 2, shape)
    return mx.tensor(values, requires_grad=True)


def test_it_records_itself_and_is_checked_like_ours():
    x, w = leaf(2, 3), leaf(2, 3)
    y = scaled(x, w, power=3)
    np.testing.assert_allclose(y.numpy(), x.numpy() ** 3 * w.numpy())
    assert "op=scaled" in repr(y)
    mx.gradcheck(lambda x, w: scaled(x, w, power=3), [x, w])


def test_a_wrong_gradient_is_found():
    wrong = mx.Function(lambda x: (x * x, x), lambda dy, x: dy * x)
    with pytest.raises(GradientError, match="analytic"):
        mx.gradcheck(wrong, [leaf(3)])


def test_none_is_a_gradient_of_zeros():
    first = mx.Function(lambda x, w: (x * w, w), lambda dy, w: (dy * w, None))
    x, w = leaf(3), leaf(3)
    first(x, w).sum().backward()
    np.testing.assert_array_equal(x.grad, w.numpy())
    np.testing.assert_array_equal(w.grad, np.zeros(3))


@pytest.mark.parametrize("backend", mx.engine.backend.LADDER)
def test_it_runs_on_every_backend(backend):
    x, w = leaf(2, 3), leaf(2, 3)
    with mx.use_backend(backend):
        y = scaled(x, w, power=2)
        y.sum().backward()
    np.testing.assert_allclose(y.numpy(), x.numpy() ** 2 * w.numpy())
    np.testing.assert_allclose(x.grad, 2 * x.numpy() * w.numpy())


class Halves(nn.Module):
    """A layer with a function that changes the shape."""

    def __init__(self):
        super().__init__()
        self.half = mx.Function(lambda x: (x[..., ::2].copy(), x.shape), lambda dy, shape: np.repeat(dy, 2, -1))

    def forward(self, x):
        return self.half(x)


def test_a_layer_with_it_is_counted_and_compiled():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Halves(), nn.Conv2d(2, 3, 1)).eval()
    assert mx.cost.table(model, (8, 8, 3)).rows
    x = np.ones((2, 8, 8, 3), np.float32)
    with mx.no_grad():
        np.testing.assert_allclose(mx.compile(model)(x), model(mx.tensor(x)).numpy(), rtol=1e-5)


def test_what_it_should_not_return_is_an_error():
    x = leaf(3)
    with pytest.raises(ArgumentError, match=r"must return y and what backward needs, got float64 of shape \(3,\)"):
        mx.Function(lambda x: x * x, lambda dy, saved: dy)(x)
    with pytest.raises(ArgumentError, match=r"must return an array of float64, got bool of shape \(3,\)"):
        mx.Function(lambda x: (x > 0, None), lambda dy, saved: dy)(x)
    with pytest.raises(GradientError, match="returned 2 gradients of 1 inputs"):
        mx.Function(lambda x: (x, None), lambda dy, saved: (dy, dy))(x).sum().backward()
    with pytest.raises(GradientError, match=r"input 0 must be float64 of shape \(3,\), got float64 of shape \(1,\)"):
        mx.Function(lambda x: (x, None), lambda dy, saved: dy[:1])(x).sum().backward()
