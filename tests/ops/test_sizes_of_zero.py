"""Arrays with a size of 0: on every rung the same empty answer and gradients, or the same typed error."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, ShapeError
from minixception.gpu.device import to_cpu
from minixception.ops import OPERATORS

SAME = {"stride": 1, "padding": "same"}
WINDOW = {"size": (2, 2), **SAME}
GENERAL = {"stride": (2, 1), "padding": "same"}
LABELS = np.zeros(2, np.int64)
# Each operator's inputs behind x (n, h, w, c), as shapes or arrays, and its parameters.
INPUTS = {
    "conv2d": lambda x: ([(3, 3, x[3], 4)], {**SAME, "groups": 1}),
    "general_conv2d": lambda x: ([(3, 3, x[3], 4)], {**GENERAL, "groups": 1, "dilation": 2}),
    "depthwise_conv2d": lambda x: ([(3, 3, x[3])], SAME),
    "general_depthwise_conv2d": lambda x: ([(3, 3, x[3])], {**GENERAL, "dilation": 2}),
    "pointwise_conv2d": lambda x: ([(x[3], 4)], {"stride": 1}),
    "separable_conv2d": lambda x: ([(3, 3, x[3]), (x[3], 4)], SAME),
    "relu_separable_conv2d": lambda x: ([(3, 3, x[3]), (x[3], 4)], SAME),
    "batch_norm": lambda x: ([x[3:], x[3:], np.zeros(x[3:]), np.ones(x[3:])], {"training": True, "eps": 1e-3}),
    **{name: lambda x: ([], {}) for name in ("relu", "elu", "gelu", "sigmoid", "tanh", "softmax", "log_softmax")},
    **{name: lambda x: ([x[3:]], {}) for name in ("add", "subtract", "multiply", "divide")},
    **{name: lambda x: ([], {}) for name in ("exp", "log", "sqrt", "abs")},
    "power": lambda x: ([], {"exponent": 2.0}),
    "clip": lambda x: ([], {"low": -1.0, "high": 0.5}),
    "matmul": lambda x: ([(x[3], 4)], {}),
    "reshape": lambda x: ([], {"shape": (*x[:2], x[2] * x[3])}),
    "transpose": lambda x: ([], {"axes": (0, 3, 1, 2)}),
    "concat": lambda x: ([x], {"axis": 3}),
    "index": lambda x: ([], {"index": (slice(None), slice(0, 1))}),
    "sum": lambda x: ([], {"axis": (1, 2)}),
    "mean": lambda x: ([], {"axis": (1, 2)}),
    "max": lambda x: ([], {"axis": (3,)}),
    "min": lambda x: ([], {"axis": (3,)}),
    "reflect_pad2d": lambda x: ([], {"padding": 1}),
    "max_pool2d": lambda x: ([], WINDOW),
    "general_max_pool2d": lambda x: ([], {"size": (2, 2), **GENERAL, "dilation": 2}),
    "avg_pool2d": lambda x: ([], WINDOW),
    "general_avg_pool2d": lambda x: ([], {"size": (2, 2), **GENERAL}),
    "global_avg_pool": lambda x: ([], {}),
    "linear": lambda x: ([(x[3], 4), (4,)], {}),
    "dropout": lambda x: ([np.zeros(x, np.uint8)], {"rate": 0.5}),
    "cross_entropy": lambda x: ([LABELS], {"label_smoothing": 0.0}),
    "binary_cross_entropy_with_logits": lambda x: ([np.zeros(x)], {}),
    "mse_loss": lambda x: ([x], {}),
}
TAKES_ROWS = ("linear", "cross_entropy")  # x (n, c)


def outcome(name, backend, x):
    """What an operator makes of an x of this shape, and the gradients; or the error it raises."""
    others, params = INPUTS[name](x)
    shape = (x[0] * x[1] * x[2], x[3]) if name in TAKES_ROWS else x
    inputs = [Tensor(np.ones(shape), requires_grad=True)]
    for given in others:
        inputs.append(Tensor(np.ones(given), requires_grad=True) if isinstance(given, tuple) else Tensor(given))
    try:
        with mx.use_backend(backend):
            y = OPERATORS[name](*inputs, **params)
            y.backward(np.ones(y.shape))
    except (ShapeError, ArgumentError) as error:
        return repr(error)
    return [y.numpy(), *(None if t.grad is None else to_cpu(t.grad) for t in inputs)]


def test_every_operator_has_its_inputs():
    assert list(INPUTS) == list(OPERATORS)


@pytest.mark.gpu
@pytest.mark.parametrize("x", [(0, 3, 3, 2), (2, 0, 3, 2), (2, 3, 0, 2), (2, 3, 3, 0), (0, 0, 0, 0)], ids=str)
@pytest.mark.parametrize("name", OPERATORS)
def test_all_rungs_agree_on_what_nothing_gives(name, x):
    expected = outcome(name, "numpy", x)
    for array in expected if isinstance(expected, list) else ():
        assert array is None or np.isfinite(array).all()
    for backend in ("loops", "cpu", "cuda"):
        got = outcome(name, backend, x)
        if isinstance(expected, str) or isinstance(got, str):
            assert got == expected
            continue
        for one, other in zip(got, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                assert (one.shape, one.dtype) == (other.shape, other.dtype)
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("axis", [None, 0, (1, 2)])
def test_a_mean_of_nothing_is_an_error(axis):
    x = mx.tensor(np.ones((0, 0, 3), np.float32))
    with pytest.raises(ShapeError, match=r"at least one element to take the mean of, got shape \(0, 0, 3\)"):
        x.mean(axis)
    assert x.mean(2).shape == (0, 0)
    assert x.sum(axis).numpy().sum() == 0


def test_a_global_mean_needs_a_pixel():
    with pytest.raises(ShapeError, match="at least one pixel, got 0x3"):
        mx.ops.global_avg_pool(mx.tensor(np.ones((2, 0, 3, 4), np.float32)))


@pytest.mark.parametrize("shape", [(0, 4, 4, 3), (2, 0, 4, 3), (2, 4, 0, 3), (0, 0, 0, 3)])
def test_a_compiled_model_gives_nothing_where_the_model_does(shape):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Activation("relu"))
    assert mx.compile(model)(np.ones(shape, np.float32)).shape == shape
