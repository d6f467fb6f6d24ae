"""Depthwise and separable convolution on the GPU: edges of tiles and strips, promises beside the numbers, traffic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import minixception as mx
from minixception.gpu.device import to_cpu, to_gpu
from minixception.gpu.kernel import empty
from minixception.ops.depthwise import DEPTHWISE_CONV2D
from minixception.ops.depthwise.cuda import SHARED, tile_side
from minixception.ops.separable import RELU_SEPARABLE_CONV2D, SEPARABLE_CONV2D
from minixception.ops.separable.cuda import fused, pack
from tests.helpers.launches import recorded_launches

pytestmark = pytest.mark.gpu
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def _both(rng, op, rung, shapes, dtype="float64", **params):
    """(y, *gradients) of a rung and of the definition, for the same random inputs and dy."""
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    y, saved = op.rungs["numpy"].forward(*arrays, **params)
    dy = rng.standard_normal(y.shape).astype(dtype)
    expected = y, *op.rungs["numpy"].backward(dy, saved)
    y, saved = op.rungs[rung].forward(*map(to_gpu, arrays), **params)
    got = y, *op.rungs[rung].backward(to_gpu(dy), saved)
    return [to_cpu(array) for array in got], expected


def _assert_equal_to_definition(rng, op, rung, shapes, dtype="float64", **params):
    for got, expected in zip(*_both(rng, op, rung, shapes, dtype, **params), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


# Shapes: images (n, h, w, c) and what is special about them ----------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "stride", "padding"),
    [
        ((1, 1, 1, 1), 1, "same"),  # one pixel
        ((1, 1, 9, 2), 1, "same"),  # one row, one output more than two strips across
        ((1, 17, 1, 1), 1, 1),  # one column, one output more than two strips down
        ((2, 9, 5, 3), 1, "same"),  # one more than a strip down and across
        ((1, 3, 4, 33), 1, "valid"),  # one channel more than a block has; fewer outputs than a strip
        ((1, 18, 3, 1), 2, "same"),
        ((1, 6, 7, 2), 2, 2),
        ((3, 2, 2, 1), 2, 1),
        ((1, 7, 8, 1), 3, "same"),  # a stride that has no strips
    ],
)
def test_3x3_at_the_edges_of_strips(rng, image, stride, padding):
    shapes = image, (3, 3, image[3])
    _assert_equal_to_definition(rng, DEPTHWISE_CONV2D, "cuda", shapes, stride=stride, padding=padding)


@pytest.mark.parametrize(
    ("image", "stride", "padding"),
    [
        ((1, 1, 1, 1), 1, "same"),
        ((1, 9, 1, 1), 1, 1),  # one column, one output more than a tile
        ((2, 2, 9, 1), 1, "same"),  # one more across
        ((1, 3, 3, 33), 1, "valid"),  # one channel more than a block has
        ((1, 10, 4, 1), 2, "same"),  # smaller tiles, one output more
    ],
)
def test_3x3_at_the_edges_of_tiles(rng, image, stride, padding):
    shapes = image, (3, 3, image[3])
    _assert_equal_to_definition(rng, DEPTHWISE_CONV2D, "cuda_tiled", shapes, stride=stride, padding=padding)


@pytest.mark.parametrize("rung", ["cuda_naive", "cuda_coalesced"])
def test_a_thread_per_output(rng, rung):
    shapes = (2, 5, 4, 3), (3, 2, 3)
    _assert_equal_to_definition(rng, DEPTHWISE_CONV2D, rung, shapes, stride=2, padding="same")


@pytest.mark.parametrize("rung", ["cuda_tiled", "cuda"])
def test_other_kernels_gather_and_sum_tap_by_tap(rng, rung):
    """Of even height, so that a turned kernel has another padding."""
    shapes = (1, 5, 4, 1), (2, 3, 1)
    _assert_equal_to_definition(rng, DEPTHWISE_CONV2D, rung, shapes, stride=1, padding="same")


@pytest.mark.parametrize("kernel", [(1, 1), (7, 5), (11, 11)])
def test_other_kernels_have_tiles_of_another_side_or_none(rng, kernel):
    x, w = rng.standard_normal((1, 5, 4, 1)), rng.standard_normal((*kernel, 1))
    y, _ = DEPTHWISE_CONV2D.rungs["numpy"].forward(x, w, stride=1, padding="same")
    got, _ = DEPTHWISE_CONV2D.rungs["cuda"].forward(to_gpu(x), to_gpu(w), stride=1, padding="same")
    np.testing.assert_allclose(to_cpu(got), y, rtol=1e-12, atol=1e-12)


def test_tiles_are_the_largest_that_fit():
    assert [tile_side((k, k), 1) for k in (1, 3, 5, 7, 9, 11)] == [8, 8, 8, 4, 1, 0]
    assert [tile_side((3, 3), stride) for stride in (1, 2, 3, 9)] == [8, 4, 4, 2]
    for k, stride in ((3, 1), (3, 2), (5, 1), (9, 1)):
        across = (tile_side((k, k), stride) - 1) * stride + k
        assert (across * across + k * k) * 32 <= SHARED
    assert SHARED * 8 <= 48 * 1024  # in float64, what a block may have


def test_sums_over_many_strips_and_blocks(rng):
    """More strips than one block has, so that the second stage adds; a wrong share would be seen in dw."""
    shapes = (2, 10, 9, 1), (3, 3, 1)
    _assert_equal_to_definition(rng, DEPTHWISE_CONV2D, "cuda", shapes, "float32", stride=1, padding="same")
    _assert_equal_to_definition(rng, DEPTHWISE_CONV2D, "cuda_tiled", shapes, "float32", stride=1, padding="same")


# Separable ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [SEPARABLE_CONV2D, RELU_SEPARABLE_CONV2D], ids=lambda op: op.name)
@pytest.mark.parametrize(("kernel", "stride"), [((3, 3), 1), ((3, 3), 2), ((1, 2), 1)])
def test_separable_with_and_without_strips(rng, op, kernel, stride):
    shapes = (1, 5, 6, 3), (*kernel, 3), (3, 5)
    _assert_equal_to_definition(rng, op, "cuda", shapes, stride=stride, padding="same")


@pytest.mark.parametrize(
    ("image", "outputs", "stride"),
    [
        ((1, 1, 1, 1), 1, 1),
        ((2, 6, 6, 2), 3, 1),  # 72 pixels, more than a block has, and a warp's pixels cross rows and images
        ((1, 3, 3, 33), 65, 2),  # one channel more than a slab has, and than a block makes
    ],
)
@pytest.mark.parametrize("op", [SEPARABLE_CONV2D, RELU_SEPARABLE_CONV2D], ids=lambda op: op.name)
def test_fused_forward(rng, op, image, outputs, stride):
    arrays = [rng.standard_normal(shape) for shape in (image, (3, 3, image[3]), (image[3], outputs))]
    y, _ = op.rungs["numpy"].forward(*arrays, stride=stride, padding="same")
    got, _ = op.rungs["cuda_fused"].forward(*map(to_gpu, arrays), stride=stride, padding="same")
    np.testing.assert_allclose(to_cpu(got), y, rtol=1e-12, atol=1e-12)


def test_fused_adds_bias_and_residual(rng):
    arrays = [rng.standard_normal(shape) for shape in ((2, 3, 4, 2), (3, 3, 2), (2, 5))]
    y, _ = RELU_SEPARABLE_CONV2D.rungs["numpy"].forward(*arrays, stride=1, padding="same")
    bias, residual = rng.standard_normal(5), rng.standard_normal(y.shape)
    x, wd, wp = map(to_gpu, arrays)
    for add_bias, add_residual, relu_after in ((True, True, False), (True, False, True), (False, True, True)):
        got = fused(
            x, wd, pack(wp), empty(y.shape, y.dtype), 1, "same", True,
            to_gpu(bias) if add_bias else None, to_gpu(residual) if add_residual else None, relu_after,
        )  # fmt: skip
        expected = y + add_bias * bias + add_residual * residual
        expected = np.maximum(expected, 0) if relu_after else expected
        np.testing.assert_allclose(to_cpu(got), expected, rtol=1e-12, atol=1e-12)


# What is promised beside the numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rung", ["cuda_tiled", "cuda"])
def test_two_runs_have_the_same_bits(rung):
    shapes = (1, 9, 9, 2), (3, 3, 2)
    runs = [
        _both(np.random.default_rng(1), DEPTHWISE_CONV2D, rung, shapes, "float32", stride=1, padding="same")[0]
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("rung", "stages"), [("cuda_naive", 1), ("cuda_tiled", 2), ("cuda", 2)])
def test_backward_computes_what_is_wanted(rng, rung, stages, wanted):
    x, w = to_gpu(rng.standard_normal((1, 3, 3, 1))), to_gpu(rng.standard_normal((3, 3, 1)))
    y, saved = DEPTHWISE_CONV2D.rungs[rung].forward(x, w, stride=1, padding="same")
    with recorded_launches() as launches:
        gradients = DEPTHWISE_CONV2D.rungs[rung].backward(y, saved, wanted)
    assert tuple(gradient is not None for gradient in gradients) == wanted
    assert len(launches) == wanted[0] + stages * wanted[1]


@pytest.mark.parametrize("wanted", [(True, False, False), (False, True, False), (False, False, True)])
def test_separable_backward_computes_what_is_wanted(rng, wanted):
    arrays = [rng.standard_normal(shape) for shape in ((1, 4, 4, 2), (3, 3, 2), (2, 3))]
    rungs = RELU_SEPARABLE_CONV2D.rungs
    y, saved = rungs["numpy"].forward(*arrays, stride=1, padding="same")
    expected = rungs["numpy"].backward(y, saved)
    y, saved = rungs["cuda"].forward(*map(to_gpu, arrays), stride=1, padding="same")
    for got, want, law in zip(rungs["cuda"].backward(y, saved, wanted), wanted, expected, strict=True):
        assert (got is not None) == want
        if want:
            np.testing.assert_allclose(to_cpu(got), law, rtol=1e-12, atol=1e-12)


def test_a_nan_in_x_stays_where_it_is(rng):
    """Also behind a ReLU; and in the gradient of the weights it meets only the taps that it met."""
    x, w = rng.standard_normal((1, 5, 5, 1)), np.ones((3, 3, 1))
    x[0, 0, 0, 0] = np.nan
    pointwise = np.ones((1, 1))
    for op, arrays in ((DEPTHWISE_CONV2D, (x, w)), (RELU_SEPARABLE_CONV2D, (x, w, pointwise))):
        y, saved = op.rungs["numpy"].forward(*arrays, stride=1, padding="same")
        got, got_saved = op.rungs["cuda"].forward(*map(to_gpu, arrays), stride=1, padding="same")
        np.testing.assert_array_equal(np.isnan(to_cpu(got)), np.isnan(y))
        dw = op.rungs["numpy"].backward(np.ones_like(y), saved)[1]
        got_dw = op.rungs["cuda"].backward(to_gpu(np.ones_like(y)), got_saved)[1]
        np.testing.assert_array_equal(np.isnan(to_cpu(got_dw)), np.isnan(dw))
        assert 0 < np.isnan(dw).sum() < dw.size


# What the kernels ask of memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rung", "reads", "shared_reads"),
    [
        ("cuda_coalesced", 9 + 9, 0),
        ("cuda_tiled", 10 * 10 / 64 + 9 / 64, 9 + 9),
        ("cuda", 6 * 10 / 32 + 9 / 32, 0),
    ],
)
def test_reads_per_output_are_as_written(rung, reads, shared_reads):
    """10x18 pixels without padding: two tiles and four strips, all full. The trace refuses races as well."""
    trace = mx.lab.trace("depthwise_conv2d", rung, shape=(1, 10, 18, 32), padding="valid")
    assert trace.total.global_reads / trace.outputs == pytest.approx(reads)
    assert trace.total.shared_reads / trace.outputs == pytest.approx(shared_reads)
    assert trace.total.coalescing == 1
    assert trace.total.conflicts == 1


def test_the_backward_pass_is_a_ladder_as_well():
    """Each step moves less; and but for the first all loads are of neighbours."""
    table = mx.lab.ladder_table("depthwise_conv2d", (1, 8, 8, 32), direction="backward")
    moved, coalescing = (
        [row[table.header.index(name)] for row in table.rows] for name in ("bytes moved", "coalescing")
    )
    assert all(more > 1.5 * less for more, less in itertools.pairwise(moved))
    assert coalescing[0] < 0.3
    assert coalescing[1:] == [1, 1, 1]


@pytest.mark.parametrize("rung", ["cuda_tiled", "cuda"])
def test_backward_has_no_races(rung):
    trace = mx.lab.trace("depthwise_conv2d", rung, shape=(2, 9, 5, 33), direction="backward")
    assert trace.total.shared_writes > 0


@pytest.mark.parametrize("rung", ["cuda_fused", "cuda"])
def test_separable_has_no_races(rung):
    trace = mx.lab.trace("relu_separable_conv2d", rung)
    assert trace.total.shared_writes > 0
