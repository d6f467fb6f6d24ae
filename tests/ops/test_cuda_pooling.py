"""Pooling and reflect padding on the GPU: ties, NaN, borders, and images that do not fill their blocks."""

from __future__ import annotations

import numpy as np
import pytest

from minixception.gpu.device import to_cpu, to_gpu
from minixception.gpu.pixels import CHANNELS, PIXELS, pixel_grid
from minixception.ops.pooling import AVG_POOL2D, GLOBAL_AVG_POOL, MAX_POOL2D
from minixception.ops.reflect_pad import REFLECT_PAD2D

pytestmark = pytest.mark.gpu
nan, inf = np.nan, np.inf


def run(op, x, dy, **params):
    """y and dx from the GPU."""
    y, saved = op.rungs["cuda"].forward(to_gpu(x), **params)
    return to_cpu(y), to_cpu(op.rungs["cuda"].backward(to_gpu(dy), saved)[0])


def image(rows):
    return np.array(rows, np.float64)[None, :, :, None]


ONE = np.ones((1, 1, 1, 1))


def test_of_equal_values_the_first_in_row_major_order_gets_the_gradient():
    x = image([[1, 7, 7], [7, 2, 7], [0, 7, 3]])
    y, dx = run(MAX_POOL2D, x, ONE, size=(3, 3), stride=1, padding="valid")
    assert y.item() == 7
    np.testing.assert_array_equal(dx, image([[0, 1, 0], [0, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize("first", [0.0, -0.0])
def test_zeros_of_either_sign_are_equal(first):
    y, dx = run(MAX_POOL2D, image([[first, -first]]), ONE, size=(1, 2), stride=1, padding="valid")
    assert np.signbit(y.item()) == np.signbit(first)
    np.testing.assert_array_equal(dx, image([[1, 0]]))


@pytest.mark.parametrize("row", [[nan, 1, 2], [1, nan, 2], [1, 2, nan], [nan, inf, nan], [-inf, nan, -inf]])
def test_the_first_nan_wins_the_window(row):
    y, dx = run(MAX_POOL2D, image([row]), ONE, size=(1, 3), stride=1, padding="valid")
    assert np.isnan(y.item())
    assert dx.ravel().tolist() == (np.arange(3) == np.isnan(row).argmax()).tolist()


def test_a_padded_pixel_never_wins_not_even_over_minus_infinity():
    x = np.full((1, 3, 3, 2), -inf)
    dy = np.arange(18.0).reshape(x.shape)
    y, dx = run(MAX_POOL2D, x, dy, size=(3, 3), stride=1, padding="same")
    np.testing.assert_array_equal(y, x)
    assert dx.sum() == dy.sum()  # every window's gradient went to a pixel of the image
    assert dx[0, 0, 0, 0] == dy[0, :2, :2, 0].sum()  # the corner is the first pixel of four windows


def test_a_window_of_more_than_256_taps():
    x = np.arange(17 * 17.0).reshape(1, 17, 17, 1)
    y, dx = run(MAX_POOL2D, x, ONE, size=(17, 17), stride=17, padding="valid")
    assert y.item() == 288
    assert dx.ravel().nonzero()[0].tolist() == [288]


WINDOWS = [
    {"size": (3, 3), "stride": 2, "padding": "same"},
    {"size": (2, 3), "stride": 3, "padding": "valid"},  # pixels that no window covers
    {"size": (5, 5), "stride": 1, "padding": 2},
]


@pytest.mark.parametrize("shape", [(2, 5, 6, 33), (1, 7, 5, 1)])  # neither channels nor columns fill their blocks
@pytest.mark.parametrize("params", WINDOWS)
@pytest.mark.parametrize("op", [MAX_POOL2D, AVG_POOL2D], ids=lambda op: op.name)
def test_windows_equal_the_definition(op, params, shape):
    _assert_equals_definition(op, shape, params)


@pytest.mark.parametrize("shape", [(2, 4, 6, 33), (1, 5, 3, 1)])
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_reflections_equal_the_definition(shape, padding):
    _assert_equals_definition(REFLECT_PAD2D, shape, {"padding": padding})


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (2, 6, 6, 33), (1, 1, 40, 2)])
def test_global_means_equal_the_definition(shape):
    _assert_equals_definition(GLOBAL_AVG_POOL, shape, {})


def _assert_equals_definition(op, shape, params):
    rng = np.random.default_rng(0)
    x = rng.permutation(np.arange(np.prod(shape)) * 0.1).reshape(shape)
    law = op.rungs["numpy"]
    expected, saved = law.forward(x, **params)
    dy = rng.standard_normal(expected.shape)
    y, dx = run(op, x, dy, **params)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    np.testing.assert_allclose(dx, law.backward(dy, saved)[0], rtol=1e-12, atol=1e-14)


def test_blocks_cover_an_image_and_long_dimensions_come_first():
    blocks, threads = pixel_grid((256, 299, 301, 65))
    assert threads == (CHANNELS, PIXELS)
    assert blocks == (256 * 299, 76, 3)  # a GPU takes 2^31 blocks in the first dimension, 65,535 in the others
