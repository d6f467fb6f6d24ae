"""Dilation, and strides, paddings and pools that differ down and across: numbers of PyTorch 2.13, rules, refusals."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception import nn, ops
from minixception.errors import ArgumentError, ShapeError
from minixception.ops.window import window_arguments

X = (np.arange(60).reshape(1, 5, 6, 2) * 7 % 11 - 5).astype(np.float64)
FILTERS = (np.arange(18).reshape(3, 3, 2) * 5 % 9 - 4).astype(np.float64)


def integers(*shape):
    return mx.tensor((np.arange(np.prod(shape)).reshape(shape) * 5 % 9 - 4).astype(np.float64))


# Of the same integers, channels first, y and in the last line 6 y:
#   F.conv2d(x, w, None, (1, 2), (2, 1), (2, 3), groups=2)           w (3, 2, 1, 4) as (4, 1, 3, 2)
#   F.conv2d(x, w, None, (4, 1), 2, dilation=2, groups=2)            w (3, 3, 2) as (2, 1, 3, 3)
#   F.conv2d(F.conv2d(F.relu(x), w, None, (2, 1), 0, (1, 2), 2), p)  p (2, 3) as (3, 2, 1, 1)
#   F.max_pool2d(x, (3, 2), (2, 1), (1, 0), (1, 2))
#   F.avg_pool2d(x, (2, 3), (1, 3), (1, 0), count_include_pad=False)
OF_PYTORCH = {
    "conv2d": (
        lambda x: ops.conv2d(x, integers(3, 2, 1, 4), (1, 2), (2, 1), groups=2, dilation=(2, 3)),
        [[[-10, 6, -9, 3], [-1, 14, 36, -36], [-16, -16, -12, 3]], [[-6, 6, 20, -16], [9, -36, -22, 8], [12, 0, 0, 11]],
         [[18, -13, -3, -3], [24, -12, -32, 30], [-20, 20, 23, -14]],
         [[6, -9, -16, 20], [-36, 36, 8, -16], [0, -12, 11, -5]],
         [[-16, 20, 9, -3], [2, -22, 8, -24], [16, 0, -14, 21]]],
    ),
    "depthwise_conv2d": (
        lambda x: ops.depthwise_conv2d(x, mx.tensor(FILTERS), stride=(4, 1), padding=2, dilation=2),
        [[[11, -4], [-9, -17], [5, 1], [-1, 38], [4, -19], [-6, 16]],
         [[-6, 13], [4, 18], [-1, -28], [5, 14], [-9, 10], [11, -25]]],
    ),
    "separable_conv2d": (
        lambda x: ops.separable_conv2d(
            x, mx.tensor(FILTERS), mx.tensor(np.arange(6.0).reshape(2, 3) - 2), (2, 1), "valid", True, (1, 2)
        ),
        [[[-35, -40, -45], [14, 7, 0]], [[14, 7, 0], [-33, -6, 21]]],
    ),
    "max_pool2d": (
        lambda x: ops.max_pool2d(x, (3, 2), (2, 1), (1, 0), dilation=(1, 2)),
        [[[2, 4], [5, 5], [3, 4], [4, 2]], [[5, 5], [5, 4], [4, 4], [3, 5]], [[5, 3], [4, 4], [2, 3], [5, 5]]],
    ),
    "avg_pool2d": (
        lambda x: ops.avg_pool2d(x, (2, 3), (1, 3), (1, 0)) * mx.tensor(np.array(6.0)),
        [[[-12, 8], [-2, -4]], [[-2, 7], [-3, -5]], [[7, 5], [-5, -7]], [[5, 3], [-7, 2]], [[3, 1], [2, 0]],
         [[2, 0], [12, -12]]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_PYTORCH)
def test_numbers_of_pytorch(name):
    function, expected = OF_PYTORCH[name]
    np.testing.assert_allclose(function(mx.tensor(X)).numpy()[0], expected, rtol=0, atol=1e-12)


def test_same_padding_is_tensorflows_with_the_span_in_the_place_of_the_kernel():
    """ceil(size / stride) outputs; of max((outputs - 1) stride + (k - 1) d + 1 - size, 0) pixels the extra at the end.

    So say tf.nn.convolution's notes on padding, where the effective filter size is (filter_size - 1) * rate + 1.
    """
    x, w = mx.tensor(np.arange(1.0, 6).reshape(1, 1, 5, 1)), mx.tensor(np.array([1.0, 10]).reshape(1, 2, 1, 1))
    y = ops.conv2d(x, w, dilation=(1, 3))  # 3 pixels of padding: 1 in front, 2 behind
    assert y.numpy().ravel().tolist() == [30, 41, 52, 3, 4]
    y = ops.conv2d(x, w, stride=2, dilation=3)  # 4 + 4 - 5 = 3 pixels
    assert y.numpy().ravel().tolist() == [30, 52, 4]


def test_a_window_whose_taps_all_miss_the_image():
    """They lie two pixels to the left and to the right of an image of one."""
    x = mx.tensor(np.ones((1, 1, 1, 1)), requires_grad=True)
    assert ops.conv2d(x, mx.tensor(np.ones((1, 2, 1, 1))), dilation=4).item() == 0
    y = ops.max_pool2d(x, (1, 2), 1, "same", dilation=4)
    assert y.item() == -np.inf
    y.backward()
    assert x.grad.item() == 0


def ran(function):
    """The operators that ran."""
    names = []

    class Names(mx.engine.op.Observer):
        def on_op(self, op, inputs, params, output):
            names.append(op.name)

    with mx.engine.op.observe(Names()):
        function()
    return names


def test_the_fast_rungs_serve_every_square_window_without_dilation():
    x = mx.tensor(np.ones((1, 4, 4, 2), np.float32))
    filters, kernels = mx.tensor(np.ones((3, 3, 2), np.float32)), mx.tensor(np.ones((3, 3, 2, 2), np.float32))
    points = mx.tensor(np.ones((2, 2), np.float32))
    for stride, padding in ((2, 1), ((2, 2), (1, 1)), ([2, 2], [1, 1]), (np.int64(2), 1)):
        window = {"stride": stride, "padding": padding}
        calls = {
            "conv2d": lambda w=window: ops.conv2d(x, kernels, **w, dilation=(1, 1)),
            "depthwise_conv2d": lambda w=window: ops.depthwise_conv2d(x, filters, **w, dilation=[1, 1]),
            "relu_separable_conv2d": lambda w=window: ops.separable_conv2d(x, filters, points, **w, relu=True),
            "max_pool2d": lambda w=window: ops.max_pool2d(x, 3, **w),
            "avg_pool2d": lambda w=window: ops.avg_pool2d(x, (3, 3), **w),
        }
        with mx.use_backend("numpy"):
            assert [name for name, call in calls.items() if ran(call) != [name]] == []
    with mx.use_backend("numpy"):
        assert ran(lambda: ops.conv2d(x, kernels, (2, 1))) == ["general_conv2d"]
        assert ran(lambda: ops.avg_pool2d(x, (1, 2))) == ["general_avg_pool2d"]


def test_pools_without_a_stride_tile_the_image():
    x = mx.tensor(np.arange(24.0).reshape(1, 4, 6, 1))
    assert ops.max_pool2d(x, (1, 3)).numpy().ravel().tolist() == [2, 5, 8, 11, 14, 17, 20, 23]
    assert ops.avg_pool2d(x, (4, 3)).numpy().ravel().tolist() == [10, 13]


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ({"stride": (1, 0)}, "stride must be a positive integer, got 0"),
        ({"stride": (1, 2, 3)}, r"stride must be one value or a pair \(down, across\), got \(1, 2, 3\)"),
        ({"stride": (1.5, 1)}, "stride must be a positive integer, got 1.5"),
        ({"dilation": 0}, "dilation must be a positive integer or a pair of them, got 0"),
        ({"dilation": (2, "a")}, r"dilation must be .* got \(2, 'a'\)"),
        ({"dilation": None}, "dilation must be .* got None"),
        ({"padding": (0, 3)}, "pixels from 0 to 2, less than the window's sides, got 3"),
        ({"padding": 5, "dilation": 2}, "pixels from 0 to 4, .* got 5"),
        ({"padding": ("same", "full")}, "padding must be 'same', .* got 'full'"),
    ],
)
def test_what_is_no_window(window, words):
    x = mx.tensor(np.ones((1, 8, 8, 2)))
    for call in (
        lambda: ops.conv2d(x, mx.tensor(np.ones((3, 3, 2, 2))), **window),
        lambda: ops.depthwise_conv2d(x, mx.tensor(np.ones((3, 3, 2))), **window),
        lambda: ops.max_pool2d(x, 3, **{"stride": 1, **window}),
    ):
        with pytest.raises(ArgumentError, match=words):
            call()


def test_a_dilated_window_must_fit_and_a_pointwise_stride_is_one_number():
    x = mx.tensor(np.ones((1, 4, 4, 2)))
    with pytest.raises(ShapeError, match=r"a 3x3 window with dilation 2 does not fit into 4x4 pixels"):
        ops.conv2d(x, mx.tensor(np.ones((3, 3, 2, 2))), padding="valid", dilation=2)
    with pytest.raises(ArgumentError, match=r"stride must be a positive integer, got \(2, 1\)"):
        ops.pointwise_conv2d(x, mx.tensor(np.ones((2, 2))), (2, 1))


# Layers ---------------------------------------------------------------------------------------------------------------


def test_layers_pass_on_their_windows_and_know_a_pair_of_equal_numbers():
    x = mx.tensor(X)
    pairs = {"stride": (2, 1), "padding": (1, 2)}
    layers = {
        nn.Conv2d(2, 3, (3, 2), **pairs, dilation=2): lambda m: ops.conv2d(x, m.weight, **pairs, dilation=2),
        nn.DepthwiseConv2d(2, 3, **pairs, dilation=2): lambda m: ops.depthwise_conv2d(x, m.weight, **pairs, dilation=2),
        nn.SeparableConv2d(2, 3, **pairs, dilation=2, activation="relu"): lambda m: ops.pointwise_conv2d(
            ops.relu(ops.depthwise_conv2d(x, m.depthwise, **pairs, dilation=2)), m.pointwise
        ),
        nn.SeparableConv2d(2, 3, **pairs, dilation=2, relu=True): lambda m: ops.separable_conv2d(
            x, m.depthwise, m.pointwise, **pairs, dilation=2, relu=True
        ),
        nn.MaxPool2d((2, 3), (2, 1), (1, 2), dilation=2): lambda m: ops.max_pool2d(x, (2, 3), (2, 1), (1, 2), 2),
        nn.AvgPool2d((2, 3), (2, 1), (1, 2)): lambda m: ops.avg_pool2d(x, (2, 3), (2, 1), (1, 2)),
    }
    for layer, expected in layers.items():
        layer.astype(np.float64)
        np.testing.assert_array_equal(layer(x).numpy(), expected(layer).numpy())
    assert "stride=(2, 1), padding=(1, 2), groups=1, dilation=2" in repr(next(iter(layers)))
    square = nn.Conv2d(2, 3, [3, 3], (2, 2), (1, 1), dilation=(1, 1))
    assert (square.stride, square.padding, square.dilation) == (2, 1, 1)


def test_a_summary_counts_the_arithmetic_of_the_taps_and_not_of_the_holes():
    layers = {
        "conv": nn.Conv2d(3, 4, dilation=3),
        "sep": nn.SeparableConv2d(4, 5, stride=(2, 1), dilation=2, relu=True),
        "pool": nn.MaxPool2d((2, 1), dilation=2),
    }
    rows = {row.name: row for row in nn.Sequential(**layers).summary((8, 6, 3)).rows}
    assert rows["conv"].macs == 8 * 6 * 9 * 3 * 4
    assert rows["sep"].macs == 4 * 6 * 4 * (9 + 5)
    assert rows["sep"].output_shape == (4, 6, 5)
    assert rows["pool"].output_shape == (1, 6, 5)


def test_equal_numbers_are_one_argument():
    assert window_arguments([2, 2], (1, 1), np.int64(1)) == {"stride": 2, "padding": 1}
    assert window_arguments((2, 1), "same") == {"stride": (2, 1), "padding": "same", "dilation": 1}
