"""The small operators where random cases do not go: extreme values, bad arguments, scalars, threads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import config, set_num_threads

from minixception import tensor
from minixception.engine.backend import use_backend
from minixception.engine.op import Op, RandomDraw
from minixception.errors import ArgumentError, DTypeError, LabelError, ShapeError
from minixception.ops import (
    ADD,
    CROSS_ENTROPY,
    ELU,
    GELU,
    LINEAR,
    LOG_SOFTMAX,
    MEAN,
    RELU,
    SIGMOID,
    SOFTMAX,
    SUM,
    add,
    binary_cross_entropy_with_logits,
    concat,
    cross_entropy,
    divide,
    elu,
    gelu,
    linear,
    log_softmax,
    mean,
    mse_loss,
    multiply,
    relu,
    reshape,
    sigmoid,
    softmax,
    subtract,
)
from minixception.ops import sum as sum_

BACKENDS = ("numpy", "loops", "cpu")
DTYPES = (np.float32, np.float64)


@pytest.fixture(params=BACKENDS)
def backend(request):
    with use_backend(request.param):
        yield request.param


# Activations


def test_relu_passes_nan_on_and_has_gradient_0_at_0(backend):
    x = tensor(np.array([np.nan, -1.0, 0.0, 2.0]), requires_grad=True)
    y = relu(x)
    np.testing.assert_array_equal(y.numpy(), [np.nan, 0, 0, 2])
    y.backward(np.full(4, 3.0))
    np.testing.assert_array_equal(x.grad, [0, 0, 0, 3])


def test_relu_saves_its_output_itself():
    x = np.array([-1.0, 2.0])
    for backend in BACKENDS:
        y, saved = RELU.rungs[backend].forward(x)
        assert saved[0] is y


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid_and_elu_of_extreme_values(backend, dtype):
    x = tensor(np.array([-1e30, -1e4, 1e4, 1e30], dtype))
    np.testing.assert_array_equal(sigmoid(x).numpy(), np.array([0, 0, 1, 1], dtype))
    np.testing.assert_array_equal(elu(x).numpy(), np.array([-1, -1, 1e4, 1e30], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_of_extreme_values(backend, dtype):
    x = tensor(np.array([-1e4, -50, 0, 50, 1e4], dtype), requires_grad=True)
    y = gelu(x)
    np.testing.assert_array_equal(y.numpy(), np.array([0, 0, 0, 50, 1e4], dtype))
    y.backward(np.ones(5, dtype))
    np.testing.assert_array_equal(x.grad, np.array([0, 0, 0.5, 1, 1], dtype))


def test_gelu_is_the_exact_form(backend):
    expected = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in (-1.5, 0.3, 2.0)]
    np.testing.assert_allclose(gelu(tensor(np.array([-1.5, 0.3, 2.0]))).numpy(), expected, rtol=1e-15)


def test_elu_is_accurate_close_to_0(backend):
    assert elu(tensor(np.array([-1e-12]))).item() == pytest.approx(-1e-12, rel=1e-9)


# Softmax


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", (0, 1e4, -1e4))
def test_softmax_depends_on_differences_only(backend, dtype, offset):
    x = tensor(np.array([[0, 1, 2], [-5, 0, 3]], dtype) + dtype(offset))
    p = np.exp([[0, 1, 2], [-5, 0, 3]])
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(x).numpy(), p, rtol=1e-6)
    np.testing.assert_allclose(log_softmax(x).numpy(), np.log(p), rtol=1e-6)


def test_softmax_takes_the_last_of_any_number_of_axes(backend):
    x = RandomDraw(0).normal(2, 3, 4)
    np.testing.assert_array_equal(softmax(tensor(x)).numpy()[1, 2], softmax(tensor(x[1, 2])).numpy())


def test_log_softmax_where_softmax_is_0(backend):
    x = tensor(np.array([[0.0, 1e4]]))
    assert softmax(x).numpy().tolist() == [[0, 1]]
    assert log_softmax(x).numpy().tolist() == [[-1e4, 0]]


def test_softmax_of_a_scalar_is_an_error():
    with pytest.raises(ShapeError, match=r"got shape \(\)"):
        softmax(tensor(1.0))


# Arithmetic


@pytest.mark.parametrize("function", (add, subtract, multiply, divide))
def test_shapes_that_do_not_broadcast(function):
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(2,\) do not broadcast"):
        function(tensor(np.ones((2, 3))), tensor(np.ones(2)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("number", (2, 0.5, True, np.float64(0.5), np.float32(0.5), np.int64(2)))
def test_numbers_keep_the_dtype_of_the_tensor(backend, dtype, number):
    x = tensor(np.array([1.0, 4.0], dtype))
    for y, expected in (
        (x + number, [1 + number, 4 + number]),
        (number - x, [number - 1, number - 4]),
        (number * x, [number, number * 4]),
        (x / number, [1 / number, 4 / number]),
        (number / x, [number / 1, number / 4]),
    ):
        assert y.dtype == dtype
        np.testing.assert_array_equal(y.numpy(), expected)


def test_arrays_on_either_side():
    x, a = tensor(np.array([1.0, 2.0])), np.array([3.0, 5.0])
    assert (a - x).numpy().tolist() == [2, 3]
    assert (x - a).numpy().tolist() == [-2, -3]


@pytest.mark.parametrize("other", (np.arange(2), tensor([1, 2]), np.array([True, False]), None, "2"))
def test_operands_that_are_not_floating(other):
    with pytest.raises(DTypeError, match="takes floating tensors"):
        add(tensor([1.0, 2.0]), other)


def test_mixed_dtypes_are_an_error():
    with pytest.raises(DTypeError, match="float32, float64"):
        multiply(tensor([1.0]), np.array([1.0]))


def test_gradients_of_scalars_are_arrays_without_dimensions(backend):
    x, scale = tensor(np.arange(6.0).reshape(2, 3)), tensor(np.array(2.0), requires_grad=True)
    sum_(x * scale / 4.0).backward()
    assert isinstance(scale.grad, np.ndarray)
    assert scale.grad.shape == ()
    assert scale.grad == 15 / 4


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_gradient_of_a_repeated_operand_is_a_sum(data):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    cut = data.draw(st.integers(0, len(sizes)))
    small = [data.draw(st.sampled_from((1, size))) for size in sizes[cut:]]
    a, b = RandomDraw(0).normal(*sizes), RandomDraw(1).normal(*small)
    dy = RandomDraw(2).normal(*sizes)
    left, right = tensor(a, requires_grad=True), tensor(b, requires_grad=True)
    (left * right).backward(dy)
    np.testing.assert_allclose(left.grad, dy * b)
    # The derivative along b itself: multiplication is linear in b.
    assert np.sum(right.grad * b) == pytest.approx(np.sum(dy * a * b))
    assert right.grad.shape == b.shape


def test_add_hands_dy_on_to_both_inputs():
    dy = np.ones(3)
    for rung in map(ADD.rungs.get, BACKENDS):
        assert all(gradient is dy for gradient in rung.backward(dy, ((3,), (3,))))


# Reshape and concat


def test_reshape_moves_no_bytes_and_infers_one_size():
    x = tensor(np.arange(6.0))
    y = reshape(x, (2, -1))
    assert y.shape == (2, 3)
    assert np.shares_memory(x.numpy(), y.numpy())


@pytest.mark.parametrize("shape", ((4,), (2, 2), (-1, 4), (-1, -1), (-2, 3), (-6, -1), (0, -1)))
def test_reshape_to_another_number_of_elements(shape):
    with pytest.raises(ShapeError, match="6 elements"):
        reshape(tensor(np.arange(6.0)), shape)


def test_concat_of_what_does_not_fit():
    a, b = tensor(np.ones((2, 3))), tensor(np.ones((3, 3)))
    assert concat([a, b], axis=0).shape == (5, 3)
    with pytest.raises(ShapeError, match=r"\(2, 3\), \(3, 3\)"):
        concat([a, b])
    with pytest.raises(ArgumentError, match="axis"):
        concat([a, a], axis=2)
    with pytest.raises(ArgumentError, match="at least one"):
        concat([])


# Reduction


@pytest.mark.parametrize("axis", (None, 0, -1, (0, 2), (2, 0), [1], (0, 1, 2), ()))
def test_axes_as_numpy_names_them(backend, axis):
    x = RandomDraw(3).normal(2, 3, 4)
    named = tuple(axis) if isinstance(axis, list) else axis
    np.testing.assert_allclose(sum_(tensor(x), axis).numpy(), x.sum(axis=named), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(mean(tensor(x), axis).numpy(), x.mean(axis=named), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("axis", (3, -4, (0, 0), (0, -3)))
def test_axes_that_do_not_exist_or_repeat(axis):
    with pytest.raises(ArgumentError, match=r"\(2, 3, 4\)"):
        sum_(tensor(np.ones((2, 3, 4))), axis)


def test_the_sum_of_a_scalar(backend):
    x = tensor(np.array(3.0), requires_grad=True)
    y = mean(sum_(x))
    y.backward()
    assert (y.item(), y.shape, x.grad) == (3.0, (), 1.0)


@pytest.mark.parametrize("shape, axis", (((1_000_003,), 0), ((100_003, 5), 0), ((3, 70_001), 1)))
def test_long_sums_in_float32_are_as_accurate_as_in_numpy(shape, axis):
    x = np.full(shape, 0.1, np.float32)
    exact = x.astype(np.float64).sum(axis=axis)
    np.testing.assert_allclose(sum_(tensor(x), axis).numpy(), exact, rtol=1e-5)


def test_a_nan_reaches_only_its_own_sum(backend):
    x = np.ones((2, 37))
    x[1, 36] = np.nan
    np.testing.assert_array_equal(sum_(tensor(x), 1).numpy(), [37, np.nan])


# Linear


def test_linear_says_which_shape_is_wrong():
    x, w = tensor(np.ones((2, 3))), tensor(np.ones((3, 4)))
    with pytest.raises(ShapeError, match="x must be"):
        linear(tensor(np.ones((2, 3, 1))), w)
    with pytest.raises(ShapeError, match="ci = 3"):
        linear(x, tensor(np.ones((4, 3))))
    with pytest.raises(ShapeError, match=r"b must be \(4,\)"):
        linear(x, w, tensor(np.ones(3)))


def test_linear_counts_its_products_and_not_its_bias():
    assert LINEAR.macs((2, 3), (3, 4)) == LINEAR.macs((2, 3), (3, 4), (4,)) == 24


# Losses


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", (0, 1e4, -1e4))
def test_cross_entropy_of_even_logits_is_log_k(backend, dtype, offset):
    x = tensor(np.full((3, 7), offset, dtype), requires_grad=True)
    loss = cross_entropy(x, [0, 3, 6])
    assert (loss.shape, loss.dtype) == ((), dtype)
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)
    loss.backward()
    assert x.grad[1, 3] == pytest.approx((1 / 7 - 1) / 3, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_hopeless_and_of_certain_logits(backend, dtype):
    x = tensor(np.array([[1e4, -1e4], [1e4, -1e4]], dtype), requires_grad=True)
    loss = cross_entropy(x, [0, 1])
    assert loss.item() == 1e4
    loss.backward()
    np.testing.assert_array_equal(x.grad, [[0, 0], [0.5, -0.5]])


def test_a_class_ruled_out_costs_nothing(backend):
    assert cross_entropy(tensor(np.array([[0.0, 0.0, -np.inf]])), [1]).item() == pytest.approx(math.log(2))


def test_label_smoothing_against_the_formula(backend):
    x, labels, s = RandomDraw(4).normal(5, 3), np.array([0, 2, 1, 1, 0]), 0.1
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    q = (1 - s) * np.eye(3)[labels] + s / 3
    logits = tensor(x, requires_grad=True)
    loss = cross_entropy(logits, labels, label_smoothing=s)
    loss.backward()
    assert loss.item() == pytest.approx(-(q * np.log(p)).sum(axis=1).mean(), rel=1e-13)
    np.testing.assert_allclose(logits.grad, (p - q) / 5, rtol=1e-12)


@pytest.mark.parametrize("labels", ([0, 1], np.array([0, 1], np.uint8), tensor([0, 1])))
def test_labels_in_any_integer_form(backend, labels):
    assert cross_entropy(tensor(np.zeros((2, 4))), labels).item() == pytest.approx(math.log(4))


@pytest.mark.parametrize(
    "labels, got",
    (([0, 4], "got 4 at position 1"), ([-1, 0], "got -1 at position 0"), ([0.0, 1.5], "float64")),
)
def test_labels_that_are_no_class(labels, got):
    with pytest.raises(LabelError, match=f"from 0 to 3.*{got}"):
        cross_entropy(tensor(np.zeros((2, 4))), labels)


def test_losses_say_which_argument_is_wrong():
    x = tensor(np.zeros((2, 4)))
    with pytest.raises(ShapeError, match=r"labels must be \(2,\)"):
        cross_entropy(x, [0, 1, 2])
    with pytest.raises(ShapeError, match=r"labels must be \(2,\)"):
        cross_entropy(x, 1)
    with pytest.raises(ShapeError, match="logits must be"):
        cross_entropy(tensor(np.zeros(4)), [0])
    with pytest.raises(ArgumentError, match="label_smoothing"):
        cross_entropy(x, [0, 1], label_smoothing=1.0)
    with pytest.raises(ShapeError, match="targets"):
        binary_cross_entropy_with_logits(x, np.zeros((2, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy_of_extreme_logits(backend, dtype):
    x = tensor(np.array([[1e4, -1e4], [1e4, -1e4]], dtype), requires_grad=True)
    loss = binary_cross_entropy_with_logits(x, [[1, 0], [0, 1]])
    assert (loss.shape, loss.dtype, loss.item()) == ((), dtype, 5e3)
    loss.backward()
    np.testing.assert_array_equal(x.grad, np.array([[0, 0], [0.25, -0.25]], dtype))


def test_binary_cross_entropy_against_the_formula(backend):
    x, t = RandomDraw(5).normal(4, 3), np.array([[0, 1, 0.25]] * 4)
    p = 1 / (1 + np.exp(-x))
    expected = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    assert binary_cross_entropy_with_logits(tensor(x), t).item() == pytest.approx(expected, rel=1e-13)


# Threads


@pytest.mark.parametrize("op", (RELU, ELU, GELU, SIGMOID, ADD, SUM, MEAN, SOFTMAX, LOG_SOFTMAX, LINEAR, CROSS_ENTROPY))
def test_one_and_two_threads_give_the_same_bits(op: Op):
    arrays, params = _large_case(op)
    if config.NUMBA_NUM_THREADS < 2:
        pytest.fail("this test needs NUMBA_NUM_THREADS of at least 2")
    one, two = (_run(op, arrays, params, threads) for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


def _large_case(op: Op):
    """Inputs of many chunks, and a last one that is not full."""
    draw = RandomDraw(6, np.float32)
    if op is LINEAR:
        return (draw.normal(37, 301), draw.normal(301, 203), draw.normal(203)), {}
    if op is CROSS_ENTROPY:
        return (draw.normal(37, 301), np.arange(37)), {"label_smoothing": 0.1}
    if op in (SUM, MEAN):
        return (draw.normal(50_003, 3),), {"axis": (0, 1)}
    return tuple(draw.normal(101, 1003) for _ in range(2 if op is ADD else 1)), {}


def _run(op: Op, arrays, params, threads):
    set_num_threads(threads)
    try:
        y, saved = op.rungs["cpu"].forward(*arrays, **params)
        return [y, *(g for g in op.rungs["cpu"].backward(np.ones_like(y), saved) if g is not None)]
    finally:
        set_num_threads(config.NUMBA_NUM_THREADS)


# Mean squared error


def test_mse_loss_is_pytorchs():
    """torch.nn.functional.mse_loss of PyTorch 2.13, and both gradients."""
    x = tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    targets = tensor([[0.0, 4.0], [3.0, 1.0]], requires_grad=True)
    loss = mse_loss(x, targets)
    assert loss.item() == 5.25 and loss.shape == ()
    loss.backward()
    np.testing.assert_array_equal(x.grad, [[0.5, -1], [0, 2]])
    np.testing.assert_array_equal(targets.grad, [[-0.5, 1], [0, -2]])


def test_targets_of_mse_loss_may_be_lists_or_integers_and_are_never_repeated():
    x = tensor([[1.0], [2.0]])
    assert mse_loss(x, [[0], [4]]).item() == mse_loss(x, tensor([[0], [4]])).item() == 2.5
    with pytest.raises(ShapeError, match=r"targets must have the shape of x \(2, 1\), got \(2,\)"):
        mse_loss(x, [0, 4])  # (2, 2) differences, if they were
    with pytest.raises(DTypeError):
        mse_loss(x, tensor(np.zeros((2, 1))))
