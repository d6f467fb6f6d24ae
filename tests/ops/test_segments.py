"""Grouped convolution with narrow segments: every width, stride and border beside the definition; C segments are the
depthwise operator to the bit.
"""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception.cpu.simd import lanes
from minixception.ops import OPERATORS
from minixception.ops.conv2d import segment_weights, segments

CONV, DEPTHWISE = OPERATORS["conv2d"], OPERATORS["depthwise_conv2d"]
WIDE = lanes(np.float32)
# (groups, inputs, outputs) of a segment: powers of two, what does not divide a register, unequal, one per register, and
# so many that a block of the last ones is not full.
WIDTHS = [(40, 1, 1), (24, 2, 2), (9, 4, 4), (5, 8, 8), (3, 16, 16), (7, 3, 3), (5, 6, 6), (3, 7, 7), (2, 11, 11),
          (6, 2, 5), (6, 5, 2), (3, 1, 16), (3, 13, 1), (17, 1, 2), (2, 20, 20),
          (5, 24, 24), (4, 15, 31), (3, 32, 17), (7, 15, 15), (2, 40, 40), (2, 4, 40)]  # fmt: skip


def both(arrays, params):
    """y and gradients by the definition and by the fast rung."""
    results = []
    for rung in (CONV.rung("numpy"), CONV.rung("cpu")):
        y, saved = rung.forward(*arrays, **params)
        dy = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
        results.append([y, *rung.backward(dy, saved)])
    return results


def close(one, other):
    tolerance = 1e-5 if one.dtype == np.float32 else 1e-12
    assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)


@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_every_width_of_a_segment(rng, widths):
    groups, inputs, outputs = widths
    x = rng.standard_normal((2, 7, 12, groups * inputs)).astype(np.float32)
    w = rng.standard_normal((3, 3, inputs, groups * outputs)).astype(np.float32)
    for law, fast in zip(*both((x, w), {"stride": 1, "padding": "same", "groups": groups}), strict=True):
        close(fast, law)


@pytest.mark.parametrize("size", [3, 5, 2])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("image", [(1, 5, 5), (3, 9, 23), (1, 11, 10)])
def test_every_window_and_border(rng, size, stride, padding, image):
    for inputs, outputs in ((3, 4), (9, 12)):
        x, w = rng.standard_normal((*image, 6 * inputs)), rng.standard_normal((size, size, inputs, 6 * outputs))
        for law, fast in zip(*both((x, w), {"stride": stride, "padding": padding, "groups": 6}), strict=True):
            close(fast, law)


@pytest.mark.parametrize(("groups", "width"), [(1, 20), (2, 20), (5, 20), (6, 3), (3, 9), (8, 1)])
@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 4), (3, 2, 5), (5, 1, 2), (2, 3, 3)])
def test_windows_that_see_padding_alone(rng, groups, width, size, stride, padding):
    """Lines of padding are left out of the products, and a window may have no others."""
    x, w = rng.standard_normal((2, 6, 4, groups * width)), rng.standard_normal((size, size, width, groups * width))
    for law, fast in zip(*both((x, w), {"stride": stride, "padding": padding, "groups": groups}), strict=True):
        close(fast, law)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_segment_for_each_channel_is_the_depthwise_operator_to_the_bit(rng, stride):
    x, w = rng.standard_normal((2, 9, 11, 37)).astype(np.float32), rng.standard_normal((3, 3, 37)).astype(np.float32)
    window = {"stride": stride, "padding": "same"}
    y, saved = CONV.rung("cpu").forward(x, w[:, :, None], groups=37, **window)
    expected, kept = DEPTHWISE.rung("cpu").forward(x, w, **window)
    np.testing.assert_array_equal(y, expected)
    dx, dw = CONV.rung("cpu").backward(y, saved)
    of_x, of_w = DEPTHWISE.rung("cpu").backward(y, kept)
    np.testing.assert_array_equal(dx, of_x)
    np.testing.assert_array_equal(dw[:, :, 0], of_w)


def test_which_segments_are_narrow():
    float32 = np.dtype(np.float32)
    assert segments.suits((3, 3, WIDE // 2, WIDE), 1, 2, float32)
    assert not segments.suits((3, 3, WIDE // 2 + 1, WIDE), 1, 2, float32)  # an input too many for two in a register
    assert segment_weights.suits((3, 3, WIDE, 2 * WIDE), 1, 2, float32)
    assert segment_weights.suits((3, 3, WIDE + 1, 2 * WIDE), 1, 2, float32)
    assert segment_weights.suits((3, 3, WIDE - 1, 4 * WIDE - 2), 1, 2, float32)
    assert not segment_weights.suits((3, 3, 2 * WIDE, 4 * WIDE), 1, 2, float32)  # a product has full registers
    assert not segment_weights.suits((3, 3, 2, 4 * WIDE - 2), 1, 2, float32)  # more than two segments share one
    assert not segments.suits((3, 3, 1, WIDE), 1, 1, float32)  # one segment is no segment
    assert not segments.suits((7, 7, 2, 8), 1, 4, float32)  # no tile is compiled for these
    assert not segments.suits((3, 3, 2, 8), 3, 4, float32)


def test_kernels_are_packed_and_unpacked(rng):
    w = rng.standard_normal((3, 5, 3, 7 * 3)).astype(np.float32)
    packed = segments.pack(w, 7)
    assert packed.shape == (-(-7 // (WIDE // 3)), 3, 3, 5, WIDE)
    np.testing.assert_array_equal(packed[0, 1, 2, 4, :9], w[1, 4, 2, :9])
    segment_weights.unpack(packed, again := np.empty_like(w), 7)
    np.testing.assert_array_equal(again, w)


def test_the_result_does_not_depend_on_the_number_of_threads(rng):
    from minixception.bench.threads import numba_threads

    x, w = rng.standard_normal((3, 9, 12, 64)).astype(np.float32), rng.standard_normal((3, 3, 4, 64)).astype(np.float32)
    params = {"stride": 1, "padding": "same", "groups": 16}
    results = []
    for threads in (1, 2):
        with numba_threads(threads):
            y, saved = CONV.rung("cpu").forward(x, w, **params)
            results.append([y, *CONV.rung("cpu").backward(y, saved)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_nan_and_infinity_stay_in_their_segment():
    x = np.zeros((1, 4, 4, 12), np.float32)
    x[0, 1, 1, 5] = np.nan  # second of three segments
    with mx.no_grad():
        y = mx.ops.conv2d(mx.tensor(x), mx.tensor(np.ones((3, 3, 4, 12), np.float32)), groups=3).numpy()
    assert np.isnan(y[0, :3, :3, 4:8]).all()
    assert not np.isnan(y[..., :4]).any()
    assert not np.isnan(y[..., 8:]).any()
