"""Batch normalisation on the GPU: what the walk over the operator table, whose samples are small, does not see."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import minixception as mx
from minixception.analysis import machine_code
from minixception.engine.backend import use_backend
from minixception.engine.tensor import Tensor
from minixception.gpu.device import is_on_gpu, to_cpu, to_gpu
from minixception.gpu.kernel import redirected
from minixception.ops.batchnorm import BATCH_NORM, batch_norm
from minixception.ops.batchnorm.cuda import _slabs
from tests.helpers.launches import recorded_launches
from tests.helpers.processes import compiled_elsewhere

pytestmark = pytest.mark.gpu
RUNGS = [name for name in BATCH_NORM.rungs if name.startswith("cuda")]
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def parameters(c, dtype=np.float64):
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((3, c)), rng.uniform(0.5, 1.5, (1, c))
    return [row.astype(dtype) for block in arrays for row in block]  # gamma, beta, running_mean, running_var


def forward(rung, x, training=True):
    """y and what is saved, on the processor, from a forward pass on the GPU."""
    arrays = map(to_gpu, (x, *parameters(x.shape[-1], x.dtype)))
    y, saved = BATCH_NORM.rungs[rung].forward(*arrays, training=training, eps=1e-3)
    return to_cpu(y), tuple(to_cpu(value) if hasattr(value, "shape") else value for value in saved)


def backward(rung, dy, saved):
    there = tuple(to_gpu(value) if isinstance(value, np.ndarray) else value for value in saved)
    return [to_cpu(gradient) for gradient in BATCH_NORM.rungs[rung].backward(to_gpu(dy), there)[:3]]


EDGES = [
    (2, 1),  # two numbers
    (3, 33),  # a channel beyond a warp, and threads without a row
    (64, 4),  # one whole slab
    (65, 4),  # a slab of one row
    (1, 17, 7, 33),  # a slab that ends within a group of 8 rows
    (200, 1, 1, 3),  # images of one pixel
]


@pytest.mark.parametrize(
    ("rung", "training"),
    [
        ("cuda", True),
        *(pytest.param(rung, True, marks=pytest.mark.slow) for rung in RUNGS if rung != "cuda"),
        *(pytest.param(rung, False, marks=pytest.mark.slow) for rung in ("cuda_naive", "cuda")),
    ],
)
@pytest.mark.parametrize(("shape", "dtype"), [*zip(EDGES, ["float32", "float64"] * 3, strict=True)])
def test_edges_of_slabs_and_warps(rung, shape, dtype, training):
    rng = np.random.default_rng(1)
    x, dy = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    law = BATCH_NORM.rungs["numpy"]
    y, saved = law.forward(x, *parameters(shape[-1], dtype), training=training, eps=1e-3)
    got, got_saved = forward(rung, x, training)
    results = zip(
        (y, *saved[2:4], *law.backward(dy, saved)[:3]), (got, *got_saved[2:4], *backward(rung, dy, saved)), strict=True
    )
    for expected, result in results:
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])


@pytest.mark.parametrize(("mean", "rtol"), [(0, 1e-12), (1e4, 1e-10)])
@pytest.mark.parametrize("rung", ["cuda_block", "cuda"])
def test_slabs_of_many_rows(rung, mean, rtol, monkeypatch):
    """As in a large batch: here one slab of 150 rows, of which a thread takes two groups of 8 and a part of a third."""
    monkeypatch.setattr("minixception.ops.batchnorm.cuda._BLOCKS", 1)
    assert _slabs(150, 3) == (192, ((1, 1), (32, 8)))
    rng = np.random.default_rng(12)
    x, dy = mean + rng.standard_normal((150, 3)), rng.standard_normal((150, 3))
    x[70:] += 3  # the groups' means differ
    law = BATCH_NORM.rungs["numpy"]
    y, saved = law.forward(x, *parameters(3), training=True, eps=1e-3)
    got, got_saved = forward(rung, x)
    np.testing.assert_allclose(got, y, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(got_saved[3], saved[3], rtol=rtol)
    for gradient, expected in zip(backward(rung, dy, saved), law.backward(dy, saved)[:3], strict=True):
        np.testing.assert_allclose(gradient, expected, rtol=rtol, atol=rtol)


def test_edges_are_edges():
    assert [_slabs(math.prod(shape[:-1]), shape[-1])[1][0] for shape in EDGES] == [
        (1, 1), (1, 2), (1, 1), (2, 1), (2, 2), (4, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("m", "c"), [(1, 1), (11552, 728), (691488, 64), (10**9, 3), (5, 10**6)])
def test_slabs_cover_all_rows_and_stay_few(m, c):
    rows, ((slabs, tiles), threads) = _slabs(m, c)
    assert (slabs - 1) * rows < m <= slabs * rows
    assert (tiles - 1) * threads[0] < c <= tiles * threads[0]
    assert slabs == 1 or slabs * tiles <= 4096


@pytest.mark.parametrize("rung", RUNGS)
def test_mean_1e4_std_1_in_float32(rung):
    x = (1e4 + np.random.default_rng(2).standard_normal((2, 7, 11, 3))).astype(np.float32)
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    gamma, beta, *_ = parameters(3, np.float32)
    y, saved = forward(rung, x)
    np.testing.assert_allclose(saved[3], var, rtol=1e-5)
    np.testing.assert_allclose(y, (exact - mean) / np.sqrt(var + 1e-3) * gamma + beta, atol=5e-6)


@pytest.mark.parametrize("mean", [1e4, -1e6])
@pytest.mark.parametrize("rung", RUNGS)
def test_statistics_in_float64_are_exact_to_rounding(rung, mean):
    x = mean + np.random.default_rng(3).standard_normal((150, 2))
    _, saved = forward(rung, x)
    np.testing.assert_allclose(saved[2], x.mean(0), rtol=1e-14)
    np.testing.assert_allclose(saved[3], x.var(0), rtol=1e-11)


def test_an_outlier_as_a_slabs_shift_costs_no_digits():
    x = np.random.default_rng(4).standard_normal((128, 2)).astype(np.float32)
    x[::64] += 1e4
    _, saved = forward("cuda", x)
    np.testing.assert_allclose(saved[3], x.astype(np.float64).var(0), rtol=1e-6)


@pytest.mark.parametrize("rung", RUNGS)
def test_a_channel_without_variance_gives_beta(rung):
    x = np.full((4, 5, 4, 2), 1234.5, np.float32)
    y, saved = forward(rung, x)
    assert not saved[3].any()
    np.testing.assert_array_equal(y, np.broadcast_to(parameters(2, np.float32)[1], x.shape))


@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")  # in the simulator's threads
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_pixel_spoils_what_the_definition_says(value, training):
    x = np.random.default_rng(5).standard_normal((2, 5, 7, 3))
    x[1, 4, 3, 1] = value
    with np.errstate(invalid="ignore"):
        expected, _ = BATCH_NORM.rungs["numpy"].forward(x, *parameters(3), training=training, eps=1e-3)
        got, _ = forward("cuda", x, training)
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:.*overflow encountered:RuntimeWarning")  # in the simulator's threads
@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("scale", [1e19, 1e25, 1e30])
@pytest.mark.parametrize("rung", RUNGS)
def test_squares_beyond_float32_are_taken_in_float64(rung, scale):
    rng = np.random.default_rng(13)
    x, dy = (scale * rng.standard_normal((150, 3))).astype(np.float32), rng.standard_normal((150, 3))
    law = BATCH_NORM.rungs["numpy"]
    y, saved = law.forward(x.astype(np.float64), *parameters(3), training=True, eps=1e-3)
    got, got_saved = forward(rung, x)
    np.testing.assert_allclose(got_saved[3], saved[3], rtol=1e-6)
    gradients = backward(rung, dy.astype(np.float32), got_saved)
    for expected, result in zip((y, *law.backward(dy, saved)[:3]), (got, *gradients), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("rung", RUNGS)
def test_no_shift_and_no_stretch_of_x_reaches_y(rung):
    x = np.random.default_rng(6).standard_normal((2, 5, 7, 4))
    y, saved = forward(rung, x)
    _, beta, *_ = parameters(4)
    saved = (*saved[:4], 1e-12, True)  # without an eps to speak of
    np.testing.assert_allclose(backward(rung, np.ones_like(y), saved)[0], 0, atol=1e-12)
    np.testing.assert_allclose(backward(rung, y - beta, saved)[0], 0, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_two_runs_give_the_same_bits(training):
    rng = np.random.default_rng(7)
    x, dy = (rng.standard_normal((130, 3)).astype(np.float32) for _ in range(2))  # three slabs
    runs = []
    for _ in range(2):
        y, saved = forward("cuda", x, training)
        runs.append((y, *saved[2:4], *backward("cuda", dy, saved)))
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)


def test_inference_is_one_pass():
    x = np.ones((70, 3), np.float32)
    with recorded_launches() as launches:
        forward("cuda", x, training=False)
    assert [any(a is not None and getattr(a, "size", 0) == x.size for a in arguments) for _, arguments in launches] == [
        False,
        True,
    ]


# Shuffles


def print_shuffles():
    """For another process: shuffles in the PTX of each kernel of the fast rung in training, and spills."""
    notebook, found = machine_code.LaunchRecorder(), {}
    with redirected(notebook):
        arrays = [notebook.to_device(a) for a in (np.ones((4, 3), np.float32), *parameters(3, np.float32))]
        y, saved = BATCH_NORM.rungs["cuda"].forward(*arrays, training=True, eps=1e-3)
        BATCH_NORM.rungs["cuda"].backward(y, saved)
    for one in notebook.signatures.values():
        name = one.kernel.__qualname__
        found[name] = [machine_code.ptx(one, at).count("shfl.sync.bfly") for at in machine_code.ARCHITECTURES]
    print(json.dumps(found))


@pytest.mark.slow
def test_what_reduces_by_shuffles_has_them_in_its_ptx():
    (found,) = compiled_elsewhere("tests.ops.test_cuda_batchnorm", "print_shuffles()")
    assert {name for name, counts in found.items() if all(counts)} == {
        "group_statistics", "group_gradient_sums", "_merge_statistics", "_merge_gradient_sums",
    }  # fmt: skip
    assert found["_normalise"] == found["_input_gradient"] == [0, 0, 0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("rung", [pytest.param("cuda_block", marks=pytest.mark.slow), "cuda"])
def test_blocks_have_no_race_and_no_bank_conflict(rung, direction, dtype):
    traced = mx.lab.trace("batch_norm", rung, (1, 7, 13, 33), dtype, direction)  # raises at a race
    first = traced.counts[0]
    assert first.conflicts == 1
    assert first.shared_writes >= 2 * 256  # two numbers of each thread, in each block: the kernel of the slabs


# Running statistics


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_statistics_on_the_gpu_move_by_the_keras_rule_and_in_place(dtype):
    x = np.random.default_rng(8).standard_normal((4, 3, 5, 6)).astype(dtype) * 2 + 1
    tensors = [Tensor(array).to("cuda") for array in parameters(6, dtype)]
    arrays = [t.data for t in tensors[2:]]
    with mx.no_grad():
        y = batch_norm(Tensor(x).to("cuda"), *tensors, training=True, momentum=0.9)
    assert is_on_gpu(y.data)
    assert [t.data for t in tensors[2:]] == arrays
    _, _, mean, var = parameters(6)
    exact = x.astype(np.float64)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12}
    np.testing.assert_allclose(tensors[2].numpy(), 0.9 * mean + 0.1 * exact.mean((0, 1, 2)), **tolerance)
    np.testing.assert_allclose(tensors[3].numpy(), 0.9 * var + 0.1 * exact.var((0, 1, 2)), **tolerance)


@pytest.mark.filterwarnings("ignore:.*overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_running_statistics_on_the_gpu_stay_finite(momentum):
    x = np.array([[1e30], [-1e30]], np.float32)
    tensors = [Tensor(array).to("cuda") for array in parameters(1, np.float32)]
    for _ in range(2):
        batch_norm(Tensor(x).to("cuda"), *tensors, training=True, momentum=momentum)
    assert np.isfinite(tensors[3].numpy())
    batch_norm(Tensor(x * np.float32(np.nan)).to("cuda"), *tensors, training=True, momentum=0.9)
    assert np.isnan([tensors[2].numpy(), tensors[3].numpy()]).all()  # what was not finite is not hidden


def test_running_statistics_may_stay_on_the_processor():
    x = np.random.default_rng(9).standard_normal((5, 4))
    gamma, beta, mean, var = map(Tensor, parameters(4))
    mean_array, var_array = mean.data, var.data
    with use_backend("cuda"):
        y = batch_norm(Tensor(x), gamma, beta, mean, var, training=True, momentum=0.9)
    assert is_on_gpu(y.data)
    assert mean.data is mean_array and var.data is var_array
    np.testing.assert_allclose(mean_array, 0.9 * parameters(4)[2] + 0.1 * x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(var_array, 0.9 * parameters(4)[3] + 0.1 * x.var(0), rtol=1e-12)


def test_inference_on_the_gpu_leaves_the_running_statistics():
    tensors = [Tensor(array).to("cuda") for array in parameters(4)]
    batch_norm(Tensor(np.ones((3, 4))).to("cuda"), *tensors)
    for tensor, before in zip(tensors, parameters(4), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), before)


def test_a_training_step_after_inference_does_not_disturb_its_backward():
    x = np.random.default_rng(10).standard_normal((6, 4))
    gradients = []
    for train_in_between in (False, True):
        gamma, *others = [Tensor(array).to("cuda") for array in parameters(4)]
        gamma.requires_grad = True
        y = batch_norm(Tensor(x).to("cuda"), gamma, *others)
        if train_in_between:
            batch_norm(Tensor(x + 5).to("cuda"), gamma, *others, training=True)
        y.backward(np.ones_like(x))
        gradients.append(to_cpu(gamma.grad))
    np.testing.assert_array_equal(*gradients)


@pytest.mark.parametrize(("direction", "ideal"), [("forward", 2 + 4 / 8), ("backward", 4 + 5 / 8)])
def test_the_fast_rung_reads_little_more_than_its_slabs_must(direction, ideal):
    """Both passes read every element; a thread has 8 rows of a slab, and 4 or 5 numbers of its channel for them."""
    traced = mx.lab.trace("batch_norm", "cuda", shape=(4, 16, 16, 32), direction=direction)
    reads = traced.total.global_reads / traced.outputs
    assert 0.99 * ideal < reads < 1.2 * ideal
    assert traced.total.coalescing > 0.95
