"""The matrix products of the GPU, in Numba's simulator: sizes around the edges of tiles, and what the threads do.

The simulator runs a kernel's threads but does not see races or count reads, so the second half runs blocks on a watcher
that notes each access to memory with its thread and the number of barriers that this thread has passed.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from minixception.device import to_cpu, to_gpu
from minixception.kernels import gpu_gemm
from minixception.kernels.gpu_gemm import MATRIX_A, MATRIX_B, MATRIX_C, TRANSPOSED_A, TRANSPOSED_B
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
    ],
)
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
    ],
)
def test_conv2d_strides_groups_and_borders(rng, image, kernel, groups, stride, padding):
    arrays = (rng.standard_normal(image), rng.standard_normal(kernel))
    _assert_equal("conv2d", "cuda", arrays, {"stride": stride, "padding": padding, "groups": groups}, rng)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(rng, dtype, bias):
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in [(3, 9), (9, 5), (5,)][: 3 if bias else 2]]
    _assert_equal("linear", "cuda", arrays, {}, rng)


@pytest.mark.filterwarnings("ignore:.*invalid value encountered:RuntimeWarning")  # the simulator's threads, at Inf * 0
def test_a_long_sum_in_parts_is_the_same_sum_in_every_run(rng, monkeypatch):
    monkeypatch.setattr(gpu_gemm, "_SHORTEST_PART", 10)
    monkeypatch.setattr(gpu_gemm, "_ENOUGH_BLOCKS", 3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in [(1, 5, 7, 3), (3, 4)])
    assert gpu_gemm._parts(1, 35) == 3
    x[0, 1, 5, 2] = np.inf  # pixel 12, the second of the second part: nobody else may multiply by it, not even by 0
    law, got = _both_ways("pointwise_conv2d", "cuda", (x, w), {"stride": 1}, np.random.default_rng(1))
    again = _both_ways("pointwise_conv2d", "cuda", (x, w), {"stride": 1}, np.random.default_rng(1))[1]
    for expected, one, other in zip(law, got, again, strict=True):
        np.testing.assert_allclose(one, expected, **TOLERANCE["float32"])
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings(
    "ignore:.*invalid value encountered:RuntimeWarning"
)  # the simulator's threads, at Inf - Inf
@pytest.mark.parametrize("rung", ["cuda_naive", "cuda_tiled", "cuda"])
def test_nan_and_inf_go_where_the_definition_sends_them(rng, rung):
    x, w = rng.standard_normal((1, 3, 3, 5)), rng.standard_normal((5, 3))
    x[0, 0, 1, 2], x[0, 2, 2, 4], w[3, 1] = np.nan, np.inf, -np.inf
    law, got = _both_ways("pointwise_conv2d", rung, (x, w), {"stride": 1}, rng)
    for expected, value in zip(law, got, strict=True):
        assert not np.isfinite(expected).all()
        assert np.isfinite(expected).any()
        np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["pointwise_conv2d", "conv2d", "linear"])
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


class Watched:
    """An array that notes who reads and writes it: (kind, flat index, thread, barriers passed, accesses before)."""

    def __init__(self, values, me):
        self.values, self.shape, self.size, self._me = values, values.shape, values.size, me
        self.accesses = []

    def _note(self, kind, index):
        flat = int(np.ravel_multi_index(index, self.shape)) if isinstance(index, tuple) else int(index)
        before = self._me.counts[id(self)]
        self._me.counts[id(self)] = before + 1
        self.accesses.append((kind, flat, self._me.thread, self._me.barriers, before))

    def __getitem__(self, index):
        self._note("read", index)
        return self.values[index]

    def __setitem__(self, index, value):
        self._note("write", index)
        self.values[index] = value


def watch(product, a, b, c, shape, barriers_count=True):
    """Run a product of one block; return a, b, c and the shared arrays, each watched."""
    me, barrier, shared, failures = threading.local(), threading.Barrier(product.threads), {}, []

    def shared_array(shape, dtype):
        number = me.counts["shared"]
        me.counts["shared"] += 1
        return shared.setdefault(number, Watched(np.full(shape, np.nan, dtype), me))

    def syncthreads():
        barrier.wait()
        me.barriers += barriers_count

    class Threads:
        x = property(lambda self: me.thread)

    cuda = SimpleNamespace(
        threadIdx=Threads(),
        blockIdx=SimpleNamespace(x=0, y=0, z=0),
        gridDim=SimpleNamespace(y=1),
        grid=lambda _: me.thread,
        shared=SimpleNamespace(array=shared_array),
        local=SimpleNamespace(array=np.empty),
        syncthreads=syncthreads,
    )

    def made(source):
        return source.with_names(cuda, np.float32, made)

    kernel, arrays = made(product.kernel), [Watched(array.ravel(), me) for array in (a, b, c)]

    def run(thread):
        me.thread, me.barriers, me.counts = thread, 0, defaultdict(int)
        try:
            kernel(*arrays, c, c.size, shape)
        except Exception as error:
            failures.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(t,)) for t in range(product.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    return *arrays, list(shared.values())


def races(array):
    """Places that one thread writes and another reads or writes with no barrier between them."""
    by_place = defaultdict(list)
    for kind, place, thread, barriers, _ in array.accesses:
        by_place[place, barriers].append((kind, thread))
    return [at for at, them in by_place.items() if len({t for _, t in them}) > 1 and any(k == "write" for k, _ in them)]


def by_warp(array, kind):
    """The places that the threads of a warp touch with one instruction, for each."""
    groups = defaultdict(set)
    for how, place, thread, _, before in array.accesses:
        if how == kind:
            groups[thread // 32, before].add(place)
    return list(groups.values())


def queue(places):
    """How many numbers the busiest of the 32 banks of shared memory must serve."""
    return max(np.bincount([place % 32 for place in places]))


def sectors(places):
    """How many pieces of 32 bytes these float32 lie in."""
    return len({place // 8 for place in places})


LAYOUTS = {"forward": (MATRIX_A, MATRIX_B), "dx": (MATRIX_A, TRANSPOSED_B), "dw": (TRANSPOSED_A, MATRIX_B)}


def _watched(product, layouts, m, n, k, **options):
    """C = A B of these sizes, all of it one block's work."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    stored = (a.T.copy() if layouts == "dw" else a), (b.T.copy() if layouts == "dx" else b)
    watched = watch(product, *stored, np.zeros((m, n), np.float32), (m, n, k), **options)
    np.testing.assert_allclose(watched[2].values.reshape(m, n), a @ b, rtol=1e-4, atol=1e-4)
    return watched


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize(("step", "k"), [(gpu_gemm.tiled, 32), (gpu_gemm.register_tiled, 24)])
def test_a_tile_has_no_races_no_queues_and_reads_what_it_must(step, k, layouts):
    product = step(*LAYOUTS[layouts], MATRIX_C)
    side = product.tile
    a, b, c, shared = _watched(product, layouts, side, side, k)
    assert [races(array) for array in shared] == [[], []]
    for array in shared:
        assert max(map(queue, by_warp(array, "read"))) == 1
        assert max(map(queue, by_warp(array, "write"))) == 1
    assert (len(a.accesses) + len(b.accesses)) / c.size == 2 * k / side
    for array, kind in ((a, "read"), (b, "read"), (c, "write")):
        assert max(map(sectors, by_warp(array, kind))) == 4  # 32 numbers of 4 bytes


def test_the_watcher_sees_a_missing_barrier():
    product = gpu_gemm.tiled(*LAYOUTS["forward"], MATRIX_C)
    shared = _watched(product, "forward", 16, 16, 16, barriers_count=False)[3]
    assert all(races(array) for array in shared)


@pytest.mark.parametrize(
    ("step", "m", "n", "touched"), [(gpu_gemm.naive, 32, 4, [32, 1]), (gpu_gemm.coalesced, 4, 32, [1, 4])]
)
def test_the_second_step_of_the_ladder_reads_as_often_but_neighbours(step, m, n, touched):
    k = 16
    a, b, c, shared = _watched(step(*LAYOUTS["forward"], MATRIX_C), "forward", m, n, k)
    assert shared == []
    assert len(a.accesses) + len(b.accesses) == 2 * k * c.size
    assert [max(map(sectors, by_warp(array, "read"))) for array in (a, b)] == touched
