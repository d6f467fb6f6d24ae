"""What the zoo added to the layers: biases, batchnorm without gamma and frozen batchnorm, Flatten, Branches."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.engine.tensor import Tensor


def image(rng, *shape):
    return Tensor(rng.standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda bias: nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias), ["weight", "bias"]),
        (lambda bias: nn.PointwiseConv2d(3, 4, stride=2, bias=bias), ["weight", "bias"]),
    ],
    ids=["Conv2d", "PointwiseConv2d"],
)
def test_a_bias_is_added_to_every_pixel(rng, make, names):
    without, layer = make(False), make(True)
    assert list(without.state_dict()) == ["weight"]
    assert list(layer.state_dict()) == names
    np.testing.assert_array_equal(layer.bias.data, np.zeros(4))
    layer.weight.data[...] = without.weight.data
    layer.bias.data[...] = [1, 2, 3, 4]
    x = image(rng, 2, 6, 5, 3)
    y, plain = layer(x), without(x)
    np.testing.assert_array_equal(y.numpy(), plain.numpy() + np.float32([1, 2, 3, 4]))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    y.backward(dy)
    np.testing.assert_allclose(layer.bias.grad, dy.sum((0, 1, 2)), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
def test_batchnorm_without_gamma_is_batchnorm_with_gamma_one(rng, dtype, training):
    plain, scaled = nn.BatchNorm2d(3, scale=False), nn.BatchNorm2d(3)
    assert list(plain.state_dict()) == ["beta", "running_mean", "running_var"]
    assert plain.num_parameters(trainable=True) == 3
    results = []
    x, dy = rng.standard_normal((2, 4, 4, 4, 3)).astype(dtype)
    for layer in (plain, scaled):
        layer.astype(dtype).train(training)
        layer.beta.data[...] = [1, -2, 3]
        tensor = Tensor(x, requires_grad=True)
        y = layer(tensor)
        y.backward(dy)
        results.append([y.numpy(), tensor.grad, layer.beta.grad, layer.running_mean.data, layer.running_var.data])
    for one, other in zip(*results, strict=True):
        assert one.dtype == dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scale", [True, False])
def test_frozen_batchnorm_uses_its_running_statistics_in_training(rng, scale):
    layer = nn.BatchNorm2d(3, scale=scale)
    layer.running_mean.data[...], layer.running_var.data[...] = [1, 2, 3], [4, 5, 6]
    before = {name: array.copy() for name, array in layer.state_dict().items()}
    x = image(rng, 2, 4, 4, 3)
    at_inference = layer.eval()(x).numpy()
    layer.train()
    assert not np.allclose(layer(x).numpy(), at_inference)  # batch statistics, and the running ones move
    layer.load_state_dict(before)
    layer.freeze()
    np.testing.assert_array_equal(layer(x).numpy(), at_inference)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    one_value = Tensor(x.data[:1, :1, :1])  # too few for statistics of its own
    np.testing.assert_array_equal(layer(one_value).numpy(), at_inference[:1, :1, :1])
    layer.unfreeze()
    assert not np.allclose(layer(x).numpy(), at_inference)


def test_flatten_reads_height_then_width_then_channels(rng):
    x = Tensor(np.arange(24.0).reshape(2, 2, 3, 2), requires_grad=True)
    y = nn.Flatten()(x)
    np.testing.assert_array_equal(y.numpy(), np.arange(24.0).reshape(2, 12))
    y.backward(np.arange(24.0).reshape(2, 12))
    np.testing.assert_array_equal(x.grad, x.data)


def test_branches_stand_side_by_side_behind_their_trunk(rng):
    trunk, left, right = nn.PointwiseConv2d(3, 4), nn.Conv2d(4, 2, (1, 3)), nn.Conv2d(4, 5, (3, 1))
    x = image(rng, 2, 6, 5, 3)
    z = trunk(x)
    expected = np.concatenate([left(z).numpy(), right(z).numpy()], axis=-1)
    np.testing.assert_array_equal(nn.Branches({"1": trunk}, left=left, right=right)(x).numpy(), expected)
    np.testing.assert_array_equal(nn.Branches(left=left, right=right)(z).numpy(), expected)


def test_int_padding_reaches_the_layers(rng):
    x = image(rng, 1, 7, 7, 3)
    for layer in (
        nn.Conv2d(3, 3, 3, stride=2, padding=1),
        nn.DepthwiseConv2d(3, 3, stride=2, padding=1),
        nn.SeparableConv2d(3, 3, 3, stride=2, padding=1),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.AvgPool2d(3, stride=2, padding=1),
    ):
        assert layer(x).shape == (1, 4, 4, 3)  # floor((7 + 2 - 3) / 2) + 1
    assert mx.cost.table(nn.Conv2d(3, 4, 7, 2, 3, bias=True), (224, 224, 3)).macs == 112 * 112 * 49 * 3 * 4
