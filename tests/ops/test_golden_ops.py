"""Single operators against Keras and PyTorch: 70 cases, forward and both gradients, on every rung, in float64."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minixception as mx
from minixception import ops
from minixception.engine.tensor import Tensor
from tests.helpers.cases import in_float64
from tests.helpers.golden_rule import GOLDEN

DATA = dict(np.load(GOLDEN / "single_ops.npz"))
CASES = [str(name) for name in DATA["cases"]]
RTOL = 1e-10


def _close(got, expected):
    np.testing.assert_allclose(got.reshape(expected.shape), expected, rtol=RTOL, atol=RTOL * np.abs(expected).max())


OF = {"conv": "conv2d", "depthwise": "depthwise_conv2d", "separable": "separable_conv2d"}


def walk(cases):
    """Each case on each rung."""
    for case in cases:
        name = OF.get(case.split("_")[1], "pooling")
        yield from ((case, "numpy"), (case, "loops"), pytest.param(case, "cpu", marks=in_float64(name)))


@pytest.mark.parametrize(("case", "backend"), list(walk(CASES)))
def test_case(case, backend):
    match = re.fullmatch(r"\d+_(\w+)_k(\d)_s(\d)_(same|valid)_\d+x\d+", case)
    kind, size, stride, padding = match[1], int(match[2]), int(match[3]), match[4]
    data = {key.split("/")[1]: value for key, value in DATA.items() if key.startswith(f"{case}/")}
    x = Tensor(data["x"], requires_grad=True)
    ours = {"kernel": lambda w: w, "depthwise": lambda w: w[..., 0], "pointwise": lambda w: w[0, 0]}
    weights = {
        name: Tensor(np.ascontiguousarray(view(data[name])), requires_grad=True)
        for name, view in ours.items()
        if name in data
    }
    function = {
        "conv": lambda: ops.conv2d(x, *weights.values(), stride, padding),
        "depthwise": lambda: ops.depthwise_conv2d(x, *weights.values(), stride, padding),
        "separable": lambda: ops.separable_conv2d(x, *weights.values(), stride, padding),
        "maxpool": lambda: ops.max_pool2d(x, size, stride, padding),
        "avgpool": lambda: ops.avg_pool2d(x, size, stride, padding),
    }[kind]
    with mx.use_backend(backend):
        y = function()
    _close(y.numpy(), data["y"])
    y.backward(data["dy"])
    _close(x.grad, data["dx"])
    for name, w in weights.items():
        _close(w.grad, data[f"d{name}"])


@pytest.mark.parametrize(("case", "backend"), list(walk(case for case in CASES if "conv_k1" in case)))
def test_pointwise_is_the_1x1_convolution(case, backend):
    stride = int(re.search(r"_s(\d)", case)[1])
    x = Tensor(DATA[f"{case}/x"], requires_grad=True)
    w = Tensor(DATA[f"{case}/kernel"][0, 0].copy(), requires_grad=True)
    with mx.use_backend(backend):
        y = ops.pointwise_conv2d(x, w, stride)
    _close(y.numpy(), DATA[f"{case}/y"])
    y.backward(DATA[f"{case}/dy"])
    _close(x.grad, DATA[f"{case}/dx"])
    _close(w.grad, DATA[f"{case}/dkernel"])
