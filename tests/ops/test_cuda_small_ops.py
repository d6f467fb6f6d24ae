"""The small operators on the GPU where the walk's random cases do not go: long sums, many axes, masks, labels."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import minixception as mx
from minixception.engine.random import seed
from minixception.engine.tensor import Tensor
from minixception.gpu.device import to_cpu, to_gpu
from minixception.gpu.kernel import cuda, kernel
from minixception.gpu.reduce import block_max, block_sum, broadcast, repeat, sums
from minixception.ops import CONCAT, CROSS_ENTROPY, MULTIPLY, SOFTMAX
from minixception.ops.dropout import DROPOUT, dropout
from minixception.optim.cuda import sum_of_squares
from tests.helpers.launches import recorded_launches

pytestmark = pytest.mark.gpu


# Sums and broadcasting ------------------------------------------------------------------------------------------------


@kernel
def _block_results(x, results):
    thread = cuda.threadIdx.x
    total = block_sum(x[thread])
    top = block_max(x[thread])
    results[0, thread], results[1, thread] = total, top


@pytest.mark.parametrize("threads", [32, 64, 96, 128])
def test_all_threads_of_a_block_get_the_sum_and_the_maximum(rng, threads):
    x = rng.standard_normal(threads)
    results = to_gpu(np.zeros((2, threads)))
    _block_results[1, threads](to_gpu(x), results)
    total, top = to_cpu(results)
    np.testing.assert_allclose(total, np.full(threads, x.sum()), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(top, np.full(threads, x.max()))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 70, 2), (1,)),
        ((1100,), (0,)),  # more than 32 * 32: two stages, by warps
        ((1100, 2), (0,)),  # three stages
        ((3, 33), (1,)),  # a warp for each row, and one without a row
        ((32,), (0,)),  # a single thread
        ((33, 2), (0,)),
        ((4, 5, 6, 7), (0, 2)),
        ((4, 5, 6, 7), (0, 1, 3)),
        ((1, 1, 1), (0, 2)),
        ((2, 3), ()),
    ],
)
def test_sums_over_any_axes_are_the_same_in_every_run(rng, shape, axes):
    x = rng.standard_normal(shape)
    there = to_gpu(x)
    for mean, expected in ((False, x.sum(axis=axes)), (True, x.mean(axis=axes))):
        y = to_cpu(sums(there, axes, mean))
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        assert to_cpu(sums(there, axes, mean)).tobytes() == y.tobytes()
    repeated = to_cpu(repeat(to_gpu(y), axes, shape, divisor=2))
    np.testing.assert_array_equal(repeated, np.broadcast_to(np.expand_dims(y, axes), shape) / 2)


@pytest.mark.parametrize(("shape", "launches"), [((32,), 1), ((1024,), 1), ((1025,), 2), ((1025, 2), 3), ((5, 33), 1)])
def test_warps_make_stages_few(shape, launches):
    x = to_gpu(np.ones(shape))
    with recorded_launches() as found:
        sums(x, (len(shape) - 1,) if shape == (5, 33) else (0,))
    assert len(found) == launches


def test_sums_of_squares_of_many_arrays(rng):
    arrays = [rng.standard_normal(shape) for shape in (5000, 3, (0, 2), (7, 20))]
    arrays[1] = np.float32(1e30) * np.ones(3, np.float32)  # its square is no float32
    there = [to_gpu(array) for array in arrays]
    exact = sum(np.square(array, dtype=np.float64).sum() for array in arrays)
    assert sum_of_squares(there) == pytest.approx(exact, rel=1e-12)
    assert sum_of_squares(there[2:]) == pytest.approx(np.square(arrays[3]).sum(), rel=1e-12)


def test_axes_are_merged_as_far_as_all_inputs_allow():
    assert broadcast((2, 3, 4), (2, 3, 4), (2, 3, 4)) == ((24,), (1,), (1,))
    assert broadcast((2, 3, 4), (2, 3, 4), ()) == ((24,), (1,), (0,))
    assert broadcast((2, 3, 1, 4), (2, 3, 1, 4), (3, 1, 1)) == ((2, 3, 4), (12, 4, 1), (0, 1, 0))
    assert broadcast((1, 1), (1, 1), (1,)) == ((1,), (0,), (0,))


def test_operands_that_are_repeated_in_turn(rng):
    a, b = rng.standard_normal((2, 1, 3, 1, 2)), rng.standard_normal((4, 1, 3, 1))
    y, saved = MULTIPLY.rungs["cuda"].forward(to_gpu(a), to_gpu(b))
    np.testing.assert_array_equal(to_cpu(y), a * b)
    dy = rng.standard_normal(y.shape)
    gradients = MULTIPLY.rungs["cuda"].backward(to_gpu(dy), saved)
    for got, expected in zip(gradients, MULTIPLY.rungs["numpy"].backward(dy, (a, b)), strict=True):
        np.testing.assert_allclose(to_cpu(got), expected, rtol=1e-12, atol=1e-12)


def test_concat_of_a_part_without_channels(rng):
    a, b = rng.standard_normal((2, 3)), np.zeros((2, 0))
    y, saved = CONCAT.rungs["cuda"].forward(to_gpu(a), to_gpu(b), axis=1)
    np.testing.assert_array_equal(to_cpu(y), a)
    da, db = CONCAT.rungs["cuda"].backward(y, saved)
    np.testing.assert_array_equal(to_cpu(da), a)
    assert db.shape == (2, 0)


# Softmax and losses ---------------------------------------------------------------------------------------------------


def test_rows_longer_than_a_block(rng):
    x = rng.standard_normal((2, 300)) * 10
    y, saved = SOFTMAX.rungs["cuda"].forward(to_gpu(x))
    expected, expected_saved = SOFTMAX.rungs["numpy"].forward(x)
    np.testing.assert_allclose(to_cpu(y), expected, rtol=1e-12, atol=1e-300)
    dy = rng.standard_normal(x.shape)
    (dx,) = SOFTMAX.rungs["cuda"].backward(to_gpu(dy), saved)
    np.testing.assert_allclose(
        to_cpu(dx), SOFTMAX.rungs["numpy"].backward(dy, expected_saved)[0], rtol=1e-9, atol=1e-15
    )


def test_a_nan_reaches_its_whole_row_and_no_other():
    x = np.array([[0.0, np.nan, 1.0], [0.0, 1.0, 1000.0]])
    y = to_cpu(SOFTMAX.rungs["cuda"].forward(to_gpu(x))[0])
    np.testing.assert_array_equal(y, [[np.nan] * 3, [0, 0, 1]])


@pytest.mark.parametrize(("label_smoothing", "expected"), [(0.0, np.log(2)), (0.1, np.inf)])
def test_a_logit_of_minus_infinity_costs_nothing_without_smoothing(label_smoothing, expected):
    logits, labels = np.array([[0.0, -np.inf, 0.0]]), np.array([2])
    loss, saved = CROSS_ENTROPY.rungs["cuda"].forward(to_gpu(logits), to_gpu(labels), label_smoothing=label_smoothing)
    assert to_cpu(loss) == pytest.approx(expected)
    np.testing.assert_allclose(to_cpu(saved[0]), [[0.5, 0, 0.5]])


# Dropout --------------------------------------------------------------------------------------------------------------


def _philox(counter, key):
    philox = sys.modules[DROPOUT.rungs["cuda"].forward.__module__]._philox.function
    return " ".join(f"{number:08x}" for number in philox(*map(np.uint64, (*counter, *key))))


def test_philox_gives_the_known_answers():
    """The test vectors of philox4x32 with 10 rounds in Random123, the authors' own implementation."""
    ones = 2**32 - 1
    assert _philox([0] * 4, [0] * 2) == "6627e8d5 e169c58d bc57ac4c 9b00dbd8"
    assert _philox([ones] * 4, [ones] * 2) == "408f276d 41c83b0e a20bc7c6 6d5451fd"
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert _philox(*pi) == "d16cfe09 94fdcceb 5001e420 24126ea1"


def test_masks_keep_the_rate_and_are_independent():
    n, rate = 3001, 0.3
    x = Tensor(np.ones(n, np.float32)).to("cuda")
    seed(1)
    kept = np.stack([dropout(x, rate).numpy() != 0 for _ in range(3)])
    one_sigma = 1 / np.sqrt(n)
    assert np.abs(kept.mean(axis=1) - (1 - rate)).max() < 4 * np.sqrt(rate * (1 - rate)) * one_sigma
    neighbours = [np.corrcoef(kept[0][lag:], kept[0][:-lag])[0, 1] for lag in (1, 2, 3, 4, 128)]
    between_calls = np.corrcoef(kept)[np.triu_indices(3, 1)]
    assert np.abs([*neighbours, *between_calls]).max() < 4 * one_sigma


def test_a_seed_gives_the_same_masks_again_and_the_gradient_uses_them():
    x = Tensor(np.full((3, 7), 2.0), requires_grad=True).to("cuda")
    seed(2)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    seed(2)
    again = dropout(x, 0.5)
    np.testing.assert_array_equal(first.numpy(), again.numpy())
    assert (first.numpy() != second.numpy()).any()
    again.backward(np.ones((3, 7)))
    np.testing.assert_array_equal(to_cpu(x.grad), again.numpy() / 2)


# Together -------------------------------------------------------------------------------------------------------------


def test_labels_and_targets_may_be_on_the_gpu(rng):
    logits, labels, targets = rng.standard_normal((3, 4)), np.array([1, 3, 0]), np.eye(4, dtype=int)[:3]
    for loss, wanted in ((mx.cross_entropy, labels), (mx.ops.binary_cross_entropy_with_logits, targets)):
        here, there = Tensor(logits, requires_grad=True), Tensor(logits, requires_grad=True).to("cuda")
        expected = loss(here, Tensor(wanted)) * 2.0 + 1.0
        got = loss(there, Tensor(wanted).to("cuda")) * 2.0 + 1.0
        expected.backward()
        got.backward()
        assert (got.device, got.shape) == ("cuda", ())
        assert got.item() == pytest.approx(expected.item(), rel=1e-12)
        np.testing.assert_allclose(to_cpu(there.grad), here.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("low", [-1e4, -1e30])
def test_very_negative_logits(low):
    """exp of them is 0, and of their opposites it would be inf."""
    logits, labels = np.array([[0.0, low, 1.0], [low, low, low + 1]]), np.array([0, 2])
    for name, arrays, params in (
        ("softmax", (logits,), {}),
        ("log_softmax", (logits,), {}),
        ("cross_entropy", (logits, labels), {"label_smoothing": 0.0}),
        ("binary_cross_entropy_with_logits", (logits, (logits > low).astype(float)), {}),
        ("sigmoid", (logits,), {}),
        ("elu", (logits,), {}),
    ):
        op = mx.ops.OPERATORS[name]
        y, saved = op.rungs["numpy"].forward(*arrays, **params)
        got, got_saved = op.rungs["cuda"].forward(*map(to_gpu, arrays), **params)
        np.testing.assert_allclose(to_cpu(got), y, rtol=1e-12, err_msg=name)
        dy = np.ones_like(y)
        gradients = op.rungs["cuda"].backward(to_gpu(dy), got_saved)
        for a, b in zip(gradients, op.rungs["numpy"].backward(dy, saved), strict=True):
            if b is not None:
                np.testing.assert_allclose(to_cpu(a), b, rtol=1e-12, atol=1e-300, err_msg=name)
