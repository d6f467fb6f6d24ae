"""Pooling and dropout: what the walk over the operator table does not see."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numba import get_num_threads, set_num_threads

import minixception as mx
import minixception.engine.random
from minixception.engine.backend import use_backend
from minixception.engine.random import generator
from minixception.errors import ArgumentError, ShapeError
from minixception.ops.dropout import DROPOUT, dropout
from minixception.ops.pooling import AVG_POOL2D, GLOBAL_AVG_POOL, MAX_POOL2D, avg_pool2d, global_avg_pool, max_pool2d
from minixception.ops.pooling.max_pool import pool_into

RUNGS = ("numpy", "loops", "cpu")
nan, inf = np.nan, np.inf


def image(rows):
    return np.array(rows, np.float64)[None, :, :, None]


def run(op, rung, x, dy=None, **params):
    """y and, where dy is given, dx."""
    y, saved = op.rungs[rung].forward(x, **params)
    return y if dy is None else (y, op.rungs[rung].backward(dy, saved)[0])


# Max pooling


@pytest.mark.parametrize("rung", RUNGS)
def test_of_equal_values_the_first_in_row_major_order_gets_the_gradient(rung):
    x = image([[1, 7, 7], [7, 2, 7], [0, 7, 3]])
    y, dx = run(MAX_POOL2D, rung, x, np.ones((1, 1, 1, 1)), size=(3, 3), stride=1, padding="valid")
    assert y.item() == 7
    np.testing.assert_array_equal(dx, image([[0, 1, 0], [0, 0, 0], [0, 0, 0]]))


def test_maxima_without_taps_are_the_same(rng):
    """For inference: NaN first, last and twice in a window, infinities, zeros of both signs, less than a vector."""
    values = np.array([nan, inf, -inf, 0.0, -0.0, 1.0])
    x = values[rng.integers(0, len(values), (2, 7, 6, 21))]
    for size, stride, padding in (((3, 3), 2, "same"), ((2, 3), 1, "valid"), ((3, 2), 2, 1)):
        y = run(MAX_POOL2D, "numpy", x, size=size, stride=stride, padding=padding)
        got = pool_into(x, np.empty_like(y), size, stride, padding)
        np.testing.assert_array_equal(got, y)
        np.testing.assert_array_equal(np.signbit(got[got == 0]), np.signbit(y[y == 0]))


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("first", [0.0, -0.0])
def test_zeros_of_either_sign_are_equal(rung, first):
    x = image([[first, -first]])
    y, dx = run(MAX_POOL2D, rung, x, np.ones((1, 1, 1, 1)), size=(1, 2), stride=1, padding="valid")
    assert np.signbit(y.item()) == np.signbit(first)
    np.testing.assert_array_equal(dx, image([[1, 0]]))


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("row", [[nan, 1, 2], [1, nan, 2], [1, 2, nan], [nan, inf, nan], [-inf, nan, -inf]])
def test_the_first_nan_wins_the_window(rung, row):
    y, dx = run(MAX_POOL2D, rung, image([row]), np.ones((1, 1, 1, 1)), size=(1, 3), stride=1, padding="valid")
    assert np.isnan(y.item()) and np.isnan(np.maximum.reduce(row))
    assert dx.ravel().tolist() == (np.arange(3) == np.isnan(row).argmax()).tolist()


@pytest.mark.parametrize("rung", RUNGS)
def test_a_padded_pixel_never_wins_not_even_over_minus_infinity(rung):
    x = np.full((1, 3, 3, 2), -inf)
    dy = np.arange(18.0).reshape(x.shape)
    y, dx = run(MAX_POOL2D, rung, x, dy, size=(3, 3), stride=1, padding="same")
    np.testing.assert_array_equal(y, x)
    assert dx.sum() == dy.sum()  # every window's gradient went to a pixel of the image
    assert dx[0, 0, 0, 0] == dy[0, :2, :2, 0].sum()  # the corner is the first pixel of four windows


@pytest.mark.parametrize("rung", RUNGS)
def test_negative_images_stay_negative_at_the_border(rung):
    y = run(MAX_POOL2D, rung, np.full((1, 4, 4, 1), -5.0), size=(3, 3), stride=2, padding="same")
    np.testing.assert_array_equal(y, -5)


@pytest.mark.parametrize("rung", RUNGS)
def test_same_padding_of_an_even_side_puts_the_extra_pixel_at_the_end(rung):
    x = image([[1, 2, 3, 4]])
    y = run(MAX_POOL2D, rung, x, size=(1, 3), stride=2, padding="same")
    assert y.ravel().tolist() == [3, 4]  # windows 1 2 3 and 3 4 _; centred padding would give 2 and 4
    y = run(AVG_POOL2D, rung, x, size=(1, 3), stride=2, padding="same")
    assert y.ravel().tolist() == [2, 3.5]
    y = run(MAX_POOL2D, rung, image([[1, 2, 3, 4, 5]]), size=(1, 2), stride=1, padding="same")
    assert y.ravel().tolist() == [2, 3, 4, 5, 5]


@pytest.mark.parametrize("rung", RUNGS)
def test_a_number_of_pixels_pads_both_ends(rung):
    x = image([[1, 2, 3, 4]]).transpose(0, 2, 1, 3).repeat(2, axis=2)  # 4 x 2, so that height and width differ
    y = run(MAX_POOL2D, rung, x, size=(3, 3), stride=2, padding=1)
    assert y[0, :, :, 0].tolist() == [[2], [4]]  # windows _ 1 2 and 2 3 4: PyTorch's MaxPool2d(3, 2, 1)
    y = run(AVG_POOL2D, rung, x, size=(3, 3), stride=2, padding=1)
    assert y[0, :, :, 0].tolist() == [[1.5], [3]]
    y = run(MAX_POOL2D, rung, -x, size=(3, 3), stride=1, padding=2)
    np.testing.assert_array_equal(y[0, :, 1, 0], [-1, -1, -1, -2, -3, -4])  # floor((4 + 2*2 - 3) / 1) + 1 rows


@pytest.mark.parametrize("rung", RUNGS)
def test_windows_of_more_than_256_taps(rung):
    x = np.zeros((1, 20, 20, 1))
    x[0, 18, 19] = 1
    y, dx = run(MAX_POOL2D, rung, x, np.full((1, 1, 1, 1), 3.0), size=(20, 20), stride=1, padding="valid")
    assert y.item() == 1 and dx[0, 18, 19, 0] == 3 and dx.sum() == 3


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("op", [MAX_POOL2D, AVG_POOL2D])
def test_pixels_between_windows_get_no_gradient(rung, op):
    x = np.arange(25.0).reshape(1, 5, 5, 1)
    _, dx = run(op, rung, x, np.ones((1, 2, 2, 1)), size=(1, 1), stride=3, padding="valid")
    assert set(zip(*np.nonzero(dx[0, :, :, 0]), strict=True)) == {(0, 0), (0, 3), (3, 0), (3, 3)}


def test_max_pool_saves_one_byte_per_output_and_not_x():
    x = np.random.default_rng(0).standard_normal((1, 9, 9, 4))
    for rung in RUNGS:
        y, saved = MAX_POOL2D.rungs[rung].forward(x, size=(3, 3), stride=2, padding="same")
        arrays = [item for item in saved if isinstance(item, np.ndarray)]
        assert [(a.shape, a.dtype) for a in arrays] == [(y.shape, np.dtype(np.uint8))]


# Average pooling


@pytest.mark.parametrize("rung", RUNGS)
def test_padding_is_not_counted_in_the_mean(rung):
    x = np.full((1, 4, 5, 3), 2.5)
    y, dx = run(AVG_POOL2D, rung, x, np.ones_like(x), size=(3, 3), stride=1, padding="same")
    np.testing.assert_allclose(y, x, rtol=1e-15)
    np.testing.assert_allclose(dx.sum(), x.size)  # a mean hands on all of its gradient


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("op", [AVG_POOL2D, GLOBAL_AVG_POOL])
@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_a_bad_pixel_reaches_its_windows_only(rung, op, value):
    x = np.ones((1, 6, 6, 2))
    x[0, 0, 0, 0] = value
    params = {} if op is GLOBAL_AVG_POOL else {"size": (2, 2), "stride": 2, "padding": "valid"}
    y = run(op, rung, x, **params)
    np.testing.assert_array_equal(y.reshape(-1, 2)[0], [value, 1])
    np.testing.assert_array_equal(y.reshape(-1, 2)[1:], 1)


@pytest.mark.parametrize("rung", RUNGS)
def test_global_average_of_a_large_float32_image_is_exact_to_rounding(rung):
    x = np.random.default_rng(1).uniform(0, 1, (1, 150, 150, 3)).astype(np.float32) + 100
    np.testing.assert_allclose(run(GLOBAL_AVG_POOL, rung, x), x.mean((1, 2), dtype=np.float64), rtol=1e-7)


# All of them


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("op", [MAX_POOL2D, AVG_POOL2D, GLOBAL_AVG_POOL])
def test_the_number_of_threads_does_not_change_a_bit(op, dtype):
    x = np.random.default_rng(2).standard_normal((3, 11, 13, 70)).astype(dtype)
    params = {} if op is GLOBAL_AVG_POOL else {"size": (3, 3), "stride": 2, "padding": "same"}
    dy = np.random.default_rng(3).standard_normal(op.shape(x.shape, **params)).astype(dtype)
    results, available = [], get_num_threads()
    try:
        for threads in (1, available):
            set_num_threads(threads)
            results.append(run(op, "cpu", x, dy, **params))
    finally:
        set_num_threads(available)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("pool", [max_pool2d, avg_pool2d])
def test_arguments_of_the_functions(pool):
    x = mx.tensor(np.arange(24.0).reshape(1, 4, 6, 1))
    assert pool(x, 2).shape == (1, 2, 3, 1)  # windows tile x
    np.testing.assert_array_equal(pool(x, 2).numpy(), pool(x, (2, 2), stride=2).numpy())
    assert pool(x, (1, 3), stride=1, padding="same").shape == x.shape
    np.testing.assert_array_equal(pool(x, (1, 3)).numpy(), pool(x, (1, 3), stride=(1, 3)).numpy())
    for bad in (0, (1, 2, 3), (2, 1.5), "2"):
        with pytest.raises(ArgumentError, match=r"size must be a positive integer or a pair .*, got "):
            pool(x, bad, stride=1)
    with pytest.raises(ArgumentError, match=r"must be 'same', 'valid' or a number .* from 0 to 1, .*, got 'full'"):
        pool(x, 2, padding="full")
    for bad in (2, -1, 0.5):  # 2: a window of 2 could lie outside of the image
        with pytest.raises(ArgumentError, match=f"from 0 to 1, .*, got {bad}"):
            pool(x, 2, padding=bad)
    with pytest.raises(ArgumentError, match="stride must be a positive integer, got 0"):
        pool(x, 2, stride=0)
    with pytest.raises(ShapeError, match="5x5 window does not fit into 4x6 pixels"):
        pool(x, 5)
    with pytest.raises(ShapeError, match="got 2 dimensions"):
        pool(mx.tensor(np.ones((4, 6))), 2)


def test_gradients_pass_through_the_tape():
    x = mx.tensor(np.arange(16.0).reshape(1, 4, 4, 1), requires_grad=True)
    global_avg_pool(max_pool2d(x, 2)).backward(np.full((1, 1), 8.0))
    np.testing.assert_array_equal(x.grad[0, :, :, 0], np.kron(np.ones((2, 2)), [[0, 0], [0, 2]]))


# Dropout


@pytest.mark.parametrize("rung", RUNGS)
def test_dropout_drops_the_same_values_backward_as_forward(rung):
    x = mx.tensor(np.random.default_rng(4).uniform(1, 2, (50, 40)), requires_grad=True)
    with use_backend(rung):
        y = dropout(x, 0.3, rng=np.random.default_rng(5))
        y.backward(np.ones(y.shape))
    np.testing.assert_array_equal(y.numpy() != 0, x.grad != 0)
    np.testing.assert_allclose(x.grad[x.grad != 0], 1 / 0.7)
    assert abs((y.numpy() == 0).mean() - 0.3) < 0.05  # 2000 draws: five standard deviations
    assert abs(y.numpy().mean() / x.numpy().mean() - 1) < 0.05


def test_dropout_outside_of_training_is_the_identity():
    x = mx.tensor([1.0, 2.0])
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0, nan])
def test_dropout_refuses_a_rate_outside_of_0_to_1(rate):
    with pytest.raises(ArgumentError, match="rate must be at least 0 and less than 1"):
        dropout(mx.tensor([1.0]), rate)


def test_dropout_refuses_a_mask_of_another_shape():
    with pytest.raises(ShapeError, match=r"mask must have the shape of x \(3,\), got \(2,\)"):
        DROPOUT(mx.tensor(np.ones(3)), mx.tensor(np.ones(2, np.uint8)), rate=0.5)


def test_the_seed_of_a_thread_decides_its_masks_whatever_other_threads_draw():
    x, turn, masks = mx.tensor(np.ones(50)), threading.Barrier(2, timeout=1800), {}

    def draw(seed):
        mx.seed(seed)
        masks[seed] = []
        for _ in range(5):
            turn.wait()  # both draw, again and again
            masks[seed].append(dropout(x, 0.5).numpy())

    threads = [threading.Thread(target=draw, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in (1, 2):
        mx.seed(seed)
        np.testing.assert_array_equal(masks[seed], [dropout(x, 0.5).numpy() for _ in range(5)])


def test_a_thread_starts_at_the_seed_that_was_set_last():
    drawn = []
    mx.seed(11)
    first = generator().random()
    thread = threading.Thread(target=lambda: drawn.append(generator().random()))
    thread.start()
    thread.join()
    assert drawn == [first]


def test_the_packages_generator_repeats_after_seed_and_is_one_object():
    x = mx.tensor(np.ones(100))
    held = minixception.engine.random.generator()
    draws = []
    for seed in (7, 7, 8):
        minixception.engine.random.seed(seed)
        draws.append(dropout(x, 0.5).numpy())
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert minixception.engine.random.generator() is held
    for bad in (-1, 1.5, "one"):
        with pytest.raises(ArgumentError, match="seed must be an integer"):
            minixception.engine.random.seed(bad)


@pytest.mark.parametrize("rung", RUNGS)
def test_nothing_but_nan_in_a_window_is_nan(rung):
    x = image([[nan, nan, 1]])
    y, dx = run(MAX_POOL2D, rung, x, np.ones((1, 1, 3, 1)), size=(1, 1), stride=1, padding="valid")
    np.testing.assert_array_equal(y.ravel(), [nan, nan, 1])
    np.testing.assert_array_equal(dx.ravel(), [1, 1, 1])
    y, dx = run(MAX_POOL2D, rung, x, np.ones((1, 1, 2, 1)), size=(1, 2), stride=1, padding="valid")
    np.testing.assert_array_equal(y.ravel(), [nan, nan])
    np.testing.assert_array_equal(dx.ravel(), [1, 1, 0])
