"""The matrix products of the GPU, in Numba's simulator: sizes around the edges of tiles, and what the threads do.

The simulator runs a kernel's threads but does not see races or count reads, so the second half runs on the recorder.
"""

from __future__ import annotations

import numpy as np
import pytest

from minixception.analysis.counts import count, races
from minixception.analysis.recorder import Recorder
from minixception.gpu import gemm as gpu_gemm
from minixception.gpu.device import to_cpu, to_gpu
from minixception.gpu.gemm import MATRIX_A, MATRIX_B, MATRIX_C, TRANSPOSED_A, TRANSPOSED_B, product
from minixception.gpu.kernel import empty, redirected
from minixception.ops import OPERATORS

TOLERANCE = {"float32": {"rtol": 1e-5, "atol": 1e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


def _both_ways(name, rung, arrays, params, rng):
    """Output and gradients of a rung, and those of the definition for the same cotangent."""
    results = []
    dy = None
    for backend in ("numpy", rung):
        move = to_gpu if backend != "numpy" else np.asarray
        chosen = OPERATORS[name].rungs[backend]
        y, saved = chosen.forward(*map(move, arrays), **params)
        dy = rng.standard_normal(y.shape).astype(y.dtype) if dy is None else dy
        results.append([to_cpu(a) for a in (y, *chosen.backward(move(dy), saved))])
    return results


def _assert_equal(name, rung, arrays, params, rng):
    law, got = _both_ways(name, rung, arrays, params, rng)
    for expected, value in zip(law, got, strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, **TOLERANCE[str(expected.dtype)])


# Against the definition -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rung", "pixels", "ci", "co", "stride"),
    [
        ("cuda_naive", 17, 5, 9, 1),
        ("cuda_coalesced", 17, 5, 9, 2),
        ("cuda_tiled", 1, 1, 1, 1),
        ("cuda_tiled", 15, 16, 17, 1),
        ("cuda_tiled", 17, 15, 16, 1),
        ("cuda_tiled", 16, 17, 3, 2),
        ("cuda", 1, 1, 1, 1),
        ("cuda", 63, 8, 65, 1),
        ("cuda", 65, 9, 7, 1),
        ("cuda", 33, 7, 64, 3),
        ("cuda", 65, 20, 68, 1),  # vectors; one pixel and four channels more than a tile, four k more than a slab
        ("cuda", 3, 4, 4, 1),
        ("cuda", 4, 4, 6, 1),  # a k of whole vectors, and columns that are not
    ],
)
@pytest.mark.gpu
def test_pointwise_around_the_edges_of_tiles(rng, rung, pixels, ci, co, stride):
    x, w = rng.standard_normal((1, 1, pixels, ci)), rng.standard_normal((ci, co))
    _assert_equal("pointwise_conv2d", rung, (x, w), {"stride": stride}, rng)


@pytest.mark.parametrize(
    ("image", "kernel", "groups", "stride", "padding"),
    [
        ((2, 5, 4, 3), (3, 3, 3, 5), 1, 1, "same"),
        ((1, 6, 7, 4), (3, 2, 2, 6), 2, 2, "same"),
        ((1, 5, 5, 2), (2, 1, 2, 3), 1, 3, "valid"),  # strides beyond the kernel: pixels that no window meets
        ((1, 4, 5, 1), (3, 3, 1, 2), 1, 2, 2),
        ((1, 1, 1, 1), (1, 1, 1, 1), 1, 1, "valid"),
        ((1, 5, 4, 8), (3, 3, 4, 8), 2, 2, "same"),  # vectors of channels
        ((1, 7, 11, 10), (3, 3, 2, 15), 5, 1, "same"),  # narrow segments, in strips of 2 x 8
        ((2, 3, 17, 6), (3, 3, 1, 12), 6, 2, 1),
        ((1, 3, 3, 36), (3, 3, 1, 36), 36, 1, "valid"),  # more channels than lanes
        ((1, 3, 3, 2), (3, 3, 1, 66), 2, 1, "same"),  # segments of 33 outputs have a product
        ((1, 3, 2, 1), (2, 2, 1, 4), 1, 1, "same"),  # k is 4, but not 4 neighbours
    ],
)
@pytest.mark.gpu
def test_conv2d_strides_groups_and_borders(rng, image, kernel, groups, stride, padding):
    arrays = (rng.standard_normal(image), rng.standard_normal(kernel))
    _assert_equal("conv2d", "cuda", arrays, {"stride": stride, "padding": padding, "groups": groups}, rng)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.gpu
def test_linear(rng, dtype, bias):
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in [(3, 9), (9, 5), (5,)][: 3 if bias else 2]]
    _assert_equal("linear", "cuda", arrays, {}, rng)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in [(4, 8), (8, 12), (12,)][: 3 if bias else 2]]
    _assert_equal("linear", "cuda", arrays, {}, rng)


@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")  # the simulator's threads, at Inf * 0
@pytest.mark.gpu
def test_a_long_sum_in_parts_is_the_same_sum_in_every_run(rng, monkeypatch):
    monkeypatch.setattr(product, "_SHORTEST_PART", 10)
    monkeypatch.setattr(product, "_ENOUGH_BLOCKS", 3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in [(1, 5, 7, 3), (3, 4)])
    assert product._parts(1, 35) == 3
    x[0, 2, 2, 2] = np.inf  # pixel 16, the first of the second part: nobody else may multiply by it, not even by 0
    law, got = _both_ways("pointwise_conv2d", "cuda", (x, w), {"stride": 1}, np.random.default_rng(1))
    again = _both_ways("pointwise_conv2d", "cuda", (x, w), {"stride": 1}, np.random.default_rng(1))[1]
    for expected, one, other in zip(law, got, again, strict=True):
        np.testing.assert_allclose(one, expected, **TOLERANCE["float32"])
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings(
    "ignore:.*invalid value encountered:RuntimeWarning"
)  # the simulator's threads, at Inf - Inf
@pytest.mark.parametrize("rung", ["cuda_naive", "cuda_tiled", "cuda"])
@pytest.mark.gpu
def test_nan_and_inf_go_where_the_definition_sends_them(rng, rung):
    x, w = rng.standard_normal((1, 3, 3, 5)), rng.standard_normal((5, 3))
    x[0, 0, 1, 2], x[0, 2, 2, 4], w[3, 1] = np.nan, np.inf, -np.inf
    law, got = _both_ways("pointwise_conv2d", rung, (x, w), {"stride": 1}, rng)
    for expected, value in zip(law, got, strict=True):
        assert not np.isfinite(expected).all()
        assert np.isfinite(expected).any()
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["pointwise_conv2d", "conv2d", "linear"])
@pytest.mark.gpu
def test_only_the_wanted_gradient_is_computed(rng, name):
    shapes = {
        "pointwise_conv2d": [(1, 2, 2, 3), (3, 2)],
        "conv2d": [(1, 2, 2, 3), (1, 2, 3, 2)],
        "linear": [(2, 3), (3, 2)],
    }
    params = {"pointwise_conv2d": {"stride": 1}, "conv2d": {"stride": 1, "padding": "same", "groups": 1}, "linear": {}}
    rung = OPERATORS[name].rungs["cuda"]
    y, saved = rung.forward(*[to_gpu(rng.standard_normal(shape)) for shape in shapes[name]], **params[name])
    everything = rung.backward(y, saved)
    for only in (0, 1):
        some = rung.backward(y, saved, wanted=(only == 0, only == 1))
        assert some[1 - only] is None
        np.testing.assert_array_equal(to_cpu(some[only]), to_cpu(everything[only]))


# What the threads do --------------------------------------------------------------------------------------------------


LAYOUTS = {"forward": (MATRIX_A, MATRIX_B), "dx": (MATRIX_A, TRANSPOSED_B), "dw": (TRANSPOSED_A, MATRIX_B)}


def _counted(step, layouts, m, n, k):
    """What the threads do that make C = A B of these sizes; the result is right and no thread races another."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    recorder = Recorder()
    with redirected(recorder):
        there = to_gpu(a.T.copy() if layouts == "dw" else a), to_gpu(b.T.copy() if layouts == "dx" else b)
        c = step(*LAYOUTS[layouts], MATRIX_C)(*there, empty((m, n), np.float32), (m, n, k))
        np.testing.assert_allclose(to_cpu(c), a @ b, rtol=1e-4, atol=1e-4)
    (launch,) = recorder.launches
    assert list(races(launch)) == []
    return count(launch)


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize(
    ("step", "side", "k", "sectors"),
    [
        (gpu_gemm.tiled, 16, 32, 4),  # 32 numbers of 4 bytes
        (gpu_gemm.register_tiled, 64, 40, 16),  # 32 vectors of 16 bytes; the last slab is half full
    ],
)
def test_a_tile_has_no_queues_and_reads_what_it_must(step, side, k, sectors, layouts):
    counts = _counted(step, layouts, side, side, k)
    assert counts.conflicts == 1
    assert counts.global_reads / side**2 == 2 * k / side
    assert counts.sectors_per_access == sectors
    assert counts.coalescing == 1


@pytest.mark.parametrize("layouts", LAYOUTS)
def test_without_vectors_the_last_step_reads_the_same_numbers(layouts):
    """Rows of 63 and 9 numbers do not begin where vectors may."""
    counts = _counted(gpu_gemm.register_tiled, layouts, 63, 63, 9)
    assert counts.conflicts == 1
    assert counts.global_reads == 2 * 63 * 9
    assert counts.global_accesses > counts.global_reads / 32  # each a number, not four
    assert counts.sectors_per_access < 8


def test_vectors_ask_for_shared_memory_less_often():
    """Per k and warp: a vector of A and one of B; or, without, a vector of A and 4 numbers of B."""
    by_vectors, one_by_one = (_counted(gpu_gemm.register_tiled, "forward", 64, n, 16) for n in (64, 63))
    put = 4 + 1, 2 * (2 + 2)  # a warp's stores into shared memory: all of k by vectors, half of k one by one
    assert by_vectors.shared_accesses == 8 * (16 * 2 + put[0])
    assert one_by_one.shared_accesses == 8 * (16 * 5 + put[1])


@pytest.mark.parametrize(
    ("step", "m", "n", "touched"),
    [
        (gpu_gemm.naive, 32, 4, (32, 1, 16)),  # a row of A each, one number of B for all, rows of 16 bytes in C
        (gpu_gemm.coalesced, 4, 32, (1, 4, 4)),
    ],
)
def test_the_second_step_of_the_ladder_reads_as_often_but_neighbours(step, m, n, touched):
    k = 16
    counts = _counted(step, "forward", m, n, k)
    of_a, of_b, of_c = touched
    assert counts.shared_accesses == 0
    assert counts.global_reads == 2 * k * m * n
    assert counts.sectors == m * n // 32 * (k * (of_a + of_b) + of_c)
