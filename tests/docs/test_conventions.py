"""What docs/conventions.md says of this package and no other test holds: layouts, defaults and initial values."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

import minixception as mx
from minixception import nn


@pytest.mark.parametrize(
    ("layer", "name", "shape"),
    [
        (lambda: nn.Conv2d(6, 4, (3, 5), groups=2), "weight", (3, 5, 3, 4)),
        (lambda: nn.DepthwiseConv2d(6, (3, 5)), "weight", (3, 5, 6)),
        (lambda: nn.PointwiseConv2d(6, 4), "weight", (6, 4)),
        (lambda: nn.SeparableConv2d(6, 4, (3, 5)), "depthwise", (3, 5, 6)),
        (lambda: nn.SeparableConv2d(6, 4, (3, 5)), "pointwise", (6, 4)),
        (lambda: nn.Linear(6, 4), "weight", (6, 4)),
    ],
)
def test_layouts_of_kernels(layer, name, shape):
    assert dict(layer().named_parameters())[name].shape == shape


def test_nothing_stands_between_depthwise_and_pointwise(rng):
    x = mx.tensor(rng.standard_normal((1, 5, 5, 6)).astype(np.float32))
    layer = nn.SeparableConv2d(6, 4)
    by_hand = mx.ops.pointwise_conv2d(mx.ops.depthwise_conv2d(x, layer.depthwise), layer.pointwise)
    np.testing.assert_allclose(layer(x).numpy(), by_hand.numpy(), rtol=1e-5, atol=1e-5)
    assert {block.activation for block in separable_layers(mx.models.Xception(num_classes=2))} == {None}


def separable_layers(module):
    for child in module.children().values():
        if isinstance(child, nn.SeparableConv2d):
            yield child
        yield from separable_layers(child)


def test_networks_give_logits(rng):
    mx.seed(0)
    model = mx.models.mini_xception(3, (8,), 0, 8).eval()
    with mx.no_grad():
        logits = model(mx.tensor(50 * rng.standard_normal((4, 16, 16, 3)).astype(np.float32))).numpy()
    assert not np.allclose(logits.sum(axis=1), 1)
    assert logits.min() < 0


def test_defaults_of_batchnorm(rng):
    x = rng.standard_normal((4, 3, 3, 2))
    layer = nn.BatchNorm2d(2).astype("float64")
    y = layer(mx.tensor(x)).numpy()
    np.testing.assert_allclose(y, (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-3), rtol=1e-10)
    np.testing.assert_allclose(layer.running_mean.data, 0.01 * x.mean((0, 1, 2)), rtol=1e-10)


@pytest.mark.parametrize(
    ("layer", "fans"),
    [
        (lambda: nn.Conv2d(32, 64), 9 * 32 + 9 * 64),
        (lambda: nn.PointwiseConv2d(64, 96), 64 + 96),
        (lambda: nn.Linear(64, 96), 64 + 96),
    ],
)
def test_kernels_begin_as_glorot_says(layer, fans):
    assert_uniform(layer().weight.data, math.sqrt(6 / fans))


def test_the_fans_of_a_depthwise_kernel_are_its_window():
    limit = math.sqrt(6 / (9 + 9))
    assert_uniform(nn.DepthwiseConv2d(500).weight.data, limit)
    assert_uniform(nn.SeparableConv2d(500, 4).depthwise.data, limit)


def assert_uniform(values, limit):
    """At least 4000 values: their largest is near the limit, and their variance that of the uniform distribution."""
    assert 0.99 * limit < np.abs(values).max() <= limit * (1 + 1e-6)
    assert values.var() == pytest.approx(limit**2 / 3, rel=0.1)


def test_xception_has_dropout_only_if_asked():
    assert inspect.signature(mx.models.Xception).parameters["dropout"].default == 0
    assert not hasattr(mx.models.Xception(num_classes=2), "dropout")
    assert mx.models.Xception(num_classes=2, dropout=0.5).dropout.rate == 0.5
