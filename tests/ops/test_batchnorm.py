"""Batch normalisation: what the walk over the operator table does not see."""

from __future__ import annotations

import numpy as np
import pytest
from numba import get_num_threads, set_num_threads

import minixception as mx
from minixception.engine.backend import use_backend
from minixception.engine.op import Observer, observe
from minixception.errors import ArgumentError, DTypeError, ShapeError
from minixception.ops.batchnorm import BATCH_NORM, batch_norm
from minixception.ops.batchnorm.cpu import batch_statistics

RUNGS = ("numpy", "loops", "cpu")


def parameters(c, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    arrays = rng.standard_normal((3, c)), rng.uniform(0.5, 1.5, (1, c))
    return [row.astype(dtype) for block in arrays for row in block]  # gamma, beta, running_mean, running_var


def tensors(arrays):
    return [mx.tensor(array) for array in arrays]


def far_from_zero(shape, dtype, mean=1e4):
    return (mean + np.random.default_rng(1).standard_normal(shape)).astype(dtype)


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("shape", [(8, 9, 11, 37), (700, 5)])
def test_mean_1e4_std_1_in_float32(rung, shape):
    x = far_from_zero(shape, np.float32)
    axes = tuple(range(len(shape) - 1))
    exact = x.astype(np.float64)
    mean, var = exact.mean(axes), exact.var(axes)
    gamma, beta, *running = parameters(shape[-1], np.float32)
    y, saved = BATCH_NORM.rungs[rung].forward(x, gamma, beta, *running, training=True, eps=1e-3)
    np.testing.assert_allclose(saved[3], var, rtol=1e-5)
    np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + 1e-3) * gamma + beta, atol=5e-6)


@pytest.mark.parametrize("mean", [0.0, 1e4, -1e6])
def test_one_pass_statistics_in_float64_are_exact_to_rounding(mean):
    x = far_from_zero((3, 13, 17, 6), np.float64, mean)
    batch_mean, batch_var = batch_statistics(x)
    np.testing.assert_allclose(batch_mean, x.mean((0, 1, 2)), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(batch_var, x.var((0, 1, 2)), rtol=1e-11)


def test_an_outlier_as_a_blocks_shift_costs_few_digits():
    x = np.random.default_rng(2).standard_normal((640, 3)).astype(np.float32)
    x[::32] += 1000  # the kernel shifts each block of rows by its first row
    np.testing.assert_allclose(batch_statistics(x)[1], x.astype(np.float64).var(0), rtol=1e-5)


def test_a_channel_without_variance_gives_beta():
    x = np.full((4, 3, 3, 2), 1234.5, np.float32)
    gamma, beta, *running = parameters(2, np.float32)
    y, saved = BATCH_NORM.rungs["cpu"].forward(x, gamma, beta, *running, training=True, eps=1e-3)
    assert not saved[3].any()
    np.testing.assert_array_equal(y, np.broadcast_to(beta, x.shape))


@pytest.mark.parametrize("rung", RUNGS)
def test_backward_at_mean_1e4_in_float64(rung):
    x = far_from_zero((2, 9, 8, 5), np.float64)
    dy = np.random.default_rng(3).standard_normal(x.shape)
    gamma, beta, *running = parameters(5)
    near = x - 1e4  # the same data without its mean: the same gradients
    results = []
    for data in (x, near):
        _, saved = BATCH_NORM.rungs[rung].forward(data, gamma, beta, *running, training=True, eps=1e-3)
        results.append(BATCH_NORM.rungs[rung].backward(dy, saved)[:3])
    for far_gradient, near_gradient in zip(*results, strict=True):
        np.testing.assert_allclose(far_gradient, near_gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rung", RUNGS)
def test_no_shift_and_no_stretch_of_x_reaches_y(rung):
    x = np.random.default_rng(4).standard_normal((3, 7, 5, 4))
    gamma, beta, *running = parameters(4)
    y, saved = BATCH_NORM.rungs[rung].forward(x, gamma, beta, *running, training=True, eps=1e-12)
    backward = BATCH_NORM.rungs[rung].backward
    np.testing.assert_allclose(backward(np.ones_like(y), saved)[0], 0, atol=1e-12)
    np.testing.assert_allclose(backward((y - beta) / gamma, saved)[0], 0, atol=1e-10)


@pytest.mark.parametrize("rung", RUNGS)
def test_running_statistics_move_by_the_keras_rule_and_in_place(rung):
    x = np.random.default_rng(5).standard_normal((4, 3, 5, 6)) * 2 + 1
    gamma, beta, mean, var = tensors(parameters(6))
    mean_array, var_array = mean.data, var.data
    expected_mean = 0.9 * mean_array + 0.1 * x.mean((0, 1, 2))
    expected_var = 0.9 * var_array + 0.1 * x.var((0, 1, 2))  # the biased variance: divided by n*h*w
    with use_backend(rung), mx.no_grad():
        batch_norm(mx.tensor(x), gamma, beta, mean, var, training=True, momentum=0.9)
    assert mean.data is mean_array and var.data is var_array
    np.testing.assert_allclose(mean_array, expected_mean, rtol=1e-12)
    np.testing.assert_allclose(var_array, expected_var, rtol=1e-12)


@pytest.mark.parametrize("rung", RUNGS)
def test_inference_reads_the_running_statistics_and_leaves_them(rung):
    x = np.random.default_rng(6).standard_normal((2, 3, 3, 4))
    arrays = parameters(4)
    gamma, beta, mean, var = arrays
    with use_backend(rung):
        y = batch_norm(mx.tensor(x), *tensors(arrays), training=False).numpy()
    np.testing.assert_allclose(y, gamma * (x - mean) / np.sqrt(var + 1e-3) + beta, rtol=1e-12)
    np.testing.assert_array_equal(mean, parameters(4)[2])
    np.testing.assert_array_equal(var, parameters(4)[3])


@pytest.mark.parametrize("rung", RUNGS)
def test_a_training_step_after_inference_does_not_disturb_its_backward(rung):
    x = np.random.default_rng(7).standard_normal((6, 4))
    gradients = []
    for train_in_between in (False, True):
        gamma, beta, mean, var = tensors(parameters(4))
        gamma.requires_grad = True
        with use_backend(rung):
            y = batch_norm(mx.tensor(x), gamma, beta, mean, var)
            if train_in_between:
                batch_norm(mx.tensor(x + 5), gamma, beta, mean, var, training=True)
            y.backward(np.ones_like(x))
        gradients.append(gamma.grad)
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 1, 3)])
def test_training_on_one_value_per_channel_is_refused(shape):
    gamma, beta, mean, var = tensors(parameters(3))
    before = mean.data.copy()
    with pytest.raises(ShapeError, match=r"variance of one value is 0.*larger batch.*model\.eval\(\)"):
        batch_norm(mx.tensor(np.ones(shape)), gamma, beta, mean, var, training=True)
    np.testing.assert_array_equal(mean.data, before)
    assert batch_norm(mx.tensor(np.ones(shape)), gamma, beta, mean, var).shape == shape


def test_bad_arguments_are_named():
    x = mx.tensor(np.ones((2, 2, 2, 3)))
    gamma, beta, mean, var = tensors(parameters(3))
    with pytest.raises(ShapeError, match=r"beta must be \(3,\).*got \(4,\)"):
        batch_norm(x, gamma, mx.tensor(np.ones(4)), mean, var)
    with pytest.raises(ShapeError, match="got 3 dimensions"):
        batch_norm(mx.tensor(np.ones((2, 2, 3))), gamma, beta, mean, var)
    with pytest.raises(ArgumentError, match="eps"):
        batch_norm(x, gamma, beta, mean, var, eps=0.0)
    with pytest.raises(ArgumentError, match="momentum"):
        batch_norm(x, gamma, beta, mean, var, momentum=1.5)
    with pytest.raises(DTypeError, match="float32"):
        batch_norm(mx.tensor(np.ones((2, 3), np.float32)), gamma, beta, mean, var)


def test_asking_for_shapes_only_leaves_the_running_statistics():
    observer = Observer()
    observer.shapes_only = True
    gamma, beta, mean, var = tensors(parameters(3))
    before = mean.data.copy()
    with observe(observer):
        y = batch_norm(mx.tensor(np.ones((2, 4, 4, 3))), gamma, beta, mean, var, training=True)
    assert y.shape == (2, 4, 4, 3)
    np.testing.assert_array_equal(mean.data, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("training", [True, False])
def test_a_bad_pixel_spoils_what_the_definition_says(value, training):
    x = np.random.default_rng(8).standard_normal((2, 6, 6, 3))
    x[1, 2, 3, 1] = value
    arrays = parameters(3)
    with np.errstate(invalid="ignore"):
        expected, _ = BATCH_NORM.rungs["numpy"].forward(x, *arrays, training=training, eps=1e-3)
        got, _ = BATCH_NORM.rungs["cpu"].forward(x, *arrays, training=training, eps=1e-3)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("training", [True, False])
def test_the_number_of_threads_does_not_change_a_bit(dtype, training):
    x = np.random.default_rng(9).standard_normal((4, 15, 17, 21)).astype(dtype)
    dy = np.random.default_rng(10).standard_normal(x.shape).astype(dtype)
    results, available = [], get_num_threads()
    try:
        for threads in (1, available):
            set_num_threads(threads)
            y, saved = BATCH_NORM.rungs["cpu"].forward(x, *parameters(21, dtype), training=training, eps=1e-3)
            results.append((y, *saved[2:4], *BATCH_NORM.rungs["cpu"].backward(dy, saved)[:3]))
    finally:
        set_num_threads(available)
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("mean", [0.0, 1e5])
@pytest.mark.parametrize("rows", [1025, 3000, 40_000])
def test_blocks_and_chunks_of_rows_are_merged(rows, mean):
    """More rows than 32 blocks of 32: chunks of several blocks, whose means differ."""
    rng = np.random.default_rng(7)
    drift = np.linspace(-3, 3, rows)[:, None]
    x, dy = mean + drift + rng.standard_normal((rows, 3)), drift + rng.standard_normal((rows, 3))
    results = []
    for rung in ("numpy", "cpu"):
        y, saved = BATCH_NORM.rungs[rung].forward(x, *parameters(3), training=True, eps=1e-3)
        results.append((y, *saved[2:4], *BATCH_NORM.rungs[rung].backward(dy, saved)[:3]))
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("rows", [40, 3000])  # a block and a bit, and chunks of several blocks
@pytest.mark.parametrize("scale", [1e19, 1e25, 1e30])
@pytest.mark.parametrize("rung", RUNGS)
def test_squares_beyond_float32_are_taken_in_float64(rung, scale, rows):
    """x, y and all gradients are far inside of float32's range; x squared is not."""
    rng = np.random.default_rng(11)
    x, dy = rng.standard_normal((2, rows, 20))
    x[:, :10] *= scale  # the other channels have nothing to suffer
    x, dy = x.astype(np.float32), dy.astype(np.float32)
    arrays = parameters(20, np.float32)
    exact = [a.astype(np.float64) for a in (x, *arrays)]
    law, rung = BATCH_NORM.rungs["numpy"], BATCH_NORM.rungs[rung]
    expected, saved = law.forward(*exact, training=True, eps=1e-3)
    y, got_saved = rung.forward(x, *arrays, training=True, eps=1e-3)
    np.testing.assert_allclose(got_saved[3], saved[3], rtol=1e-5)
    results = zip(
        (expected, *law.backward(dy.astype(np.float64), saved)[:3]),
        (y, *rung.backward(dy, got_saved)[:3]),
        strict=True,
    )
    for right, got in results:
        assert got.dtype == np.float32
        scales = np.abs(right).reshape(-1, 20).max(0)  # of each channel
        np.testing.assert_allclose(got / scales, right / scales, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("rung", RUNGS)
def test_running_statistics_of_finite_images_stay_finite(rung, momentum):
    x = np.array([[1e30], [-1e30]], np.float32)
    tensors_ = tensors(parameters(1, np.float32))
    with use_backend(rung):
        for _ in range(200 if momentum == 0.9 else 2):
            batch_norm(mx.tensor(x), *tensors_, training=True, momentum=momentum)
    assert np.isfinite(tensors_[3].numpy())
    assert np.isfinite(batch_norm(mx.tensor(x), *tensors_).numpy()).all()


@pytest.mark.parametrize("rung", RUNGS)
def test_not_a_number_reaches_the_running_statistics(rung):
    gamma, beta, mean, var = tensors(parameters(1, np.float32))
    with use_backend(rung):
        batch_norm(mx.tensor(np.array([[1.0], [np.nan]], np.float32)), gamma, beta, mean, var, training=True)
    assert np.isnan([mean.numpy(), var.numpy()]).all()
