"""The recorder of CUDA kernels: counts that can be worked out by hand, and planted mistakes that it must see."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception import course as lab
from minixception import viz
from minixception.analysis.counts import count, races
from minixception.analysis.recorder import Recorder
from minixception.engine.op import Case, Op, Rung
from minixception.errors import ArgumentError, KernelError, ShapeError
from minixception.gpu.kernel import cuda, device_function, dtype, kernel, redirected
from minixception.gpu.vectors import VECTOR, load4, store4
from minixception.gpu.warps import ALL_LANES
from minixception.ops import OPERATORS
from tests.helpers.processes import python

RUNGS = [(name, rung) for name, op in OPERATORS.items() for rung in op.rungs if rung.startswith("cuda")]
TILE = 32


def record(kernel, grid, *arrays, blocks=None):
    """The launch of a kernel on copies of NumPy arrays, and those copies after it."""
    recorder = Recorder(blocks)
    with redirected(recorder):
        there = [recorder.to_device(a) if isinstance(a, np.ndarray) else a for a in arrays]
        kernel[grid](*there)
    return recorder.launches[0], [a.data if hasattr(a, "data") else a for a in there]


def floats(*shape, number=np.float32):
    return np.arange(np.prod(shape), dtype=number).reshape(shape)


@kernel
def depthwise(x, w, y):
    """A thread per output of a 3 x 3 filter without padding."""
    i = cuda.grid(1)
    if i < y.size:
        c, column, row = i % y.shape[2], i // y.shape[2] % y.shape[1], i // (y.shape[2] * y.shape[1])
        total = dtype(0)
        for a in range(3):
            for b in range(3):
                total += x[row + a, column + b, c] * w[a, b, c]
        y[row, column, c] = total


@device_function
def _place(i, step, size):
    return i * step % size


@kernel
def copy(x, y, step):
    """Neighbouring threads copy elements that are step apart."""
    i = cuda.grid(1)
    y[_place(i, step, y.size)] = x[_place(i, step, x.size)]


def _transpose(columns):
    @kernel
    def transpose(x, y):
        tile = cuda.shared.array((TILE, columns), dtype)
        column = cuda.threadIdx.x
        for row in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
            tile[row, column] = x[row, column]
        cuda.syncthreads()
        for row in range(cuda.threadIdx.y, TILE, cuda.blockDim.y):
            y[row, column] = tile[column, row]

    return transpose


TRANSPOSE = {columns: _transpose(columns) for columns in (TILE, TILE + 1)}


def _neighbour(barrier):
    @kernel
    def neighbour(x, y):
        """y[i] = x[i + 1], by way of shared memory."""
        shared = cuda.shared.array(64, dtype)
        i = cuda.threadIdx.x
        shared[i] = x[i]
        if barrier == "block":
            cuda.syncthreads()
        elif barrier == "warp":
            cuda.syncwarp()
        elif barrier == "shuffle":
            cuda.shfl_sync(ALL_LANES, x[i], 0)
        y[i] = shared[(i + 1) % cuda.blockDim.x]

    return neighbour


NEIGHBOUR = {barrier: _neighbour(barrier) for barrier in ("block", "warp", "shuffle", "none")}


@kernel
def copy_vectors(x, y, shift):
    at = cuda.grid(1) * VECTOR + shift
    a, b, c, d = load4(x, at)
    store4(y, at, d, c, b, a)


@kernel
def overlapping(x, y):
    i = cuda.threadIdx.x
    if i == 0:
        store4(y, 0, x[0], x[0], x[0], x[0])
    else:
        y[i + 2] = x[0]


@kernel
def add_to_one(x, y):
    y[0] += x[cuda.grid(1)]


@kernel
def one_before(x, y):
    i = cuda.grid(1)
    y[i] = x[i - 1]


@kernel
def one_too_far(x, y):
    i = cuda.grid(1)
    y[i] = x[i + 1]


@kernel
def parted(x, y):
    i = cuda.threadIdx.x
    if i < 32:
        cuda.syncthreads()
        y[i] = x[i]
    else:
        cuda.syncthreads()
        y[i] = -x[i]


@kernel
def warp_sums(x, y):
    value = x[cuda.grid(1)]
    for delta in (16, 8, 4, 2, 1):
        value += cuda.shfl_down_sync(0xFFFFFFFF, value, delta)
    if cuda.laneid == 0:
        y[cuda.grid(1) // 32] = value


@kernel
def unfinished(x, y):
    i = cuda.grid(1)
    if i > 0:
        y[i] = x[i]


# Counts ---------------------------------------------------------------------------------------------------------------


def test_a_naive_depthwise_kernel_reads_18_numbers_for_each_output():
    x, w = floats(6, 7, 5), floats(3, 3, 5)
    y = np.zeros((4, 5, 5), np.float32)
    launch, (_, _, result) = record(depthwise, (4, 32), x, w, y)
    counts = count(launch)
    assert counts.global_reads == 18 * y.size
    assert counts.global_writes == y.size
    assert counts.shared_reads == counts.shared_writes == 0
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1))
    np.testing.assert_array_equal(result, np.einsum("ijcab,abc->ijc", windows, w))


@pytest.mark.parametrize(
    ("number", "step", "sectors", "ideal"),
    [
        (np.float32, 1, 4, 4),
        (np.float32, 8, 32, 4),
        (np.float32, 2, 8, 4),
        (np.float64, 1, 8, 8),
        (np.float64, 4, 32, 8),
    ],
)
def test_sectors_of_a_warp(number, step, sectors, ideal):
    launch, _ = record(copy, (2, 64), floats(1024, number=number), floats(1024, number=number), step)
    counts = count(launch)
    assert counts.sectors_per_access == sectors
    assert counts.coalescing == ideal / sectors
    assert counts.global_accesses == 2 * 4  # a read and a write by each of four warps


@pytest.mark.parametrize(("columns", "conflicts"), [(TILE, 32), (TILE + 1, 1)])
def test_a_padded_tile_has_no_bank_conflicts(columns, conflicts):
    x = floats(TILE, TILE)
    launch, (_, y) = record(TRANSPOSE[columns], (1, (TILE, 4)), x, np.zeros_like(x))
    counts = count(launch)
    np.testing.assert_array_equal(y, x.T)
    assert list(races(launch)) == []
    assert counts.wavefronts == TILE + TILE * conflicts  # 32 warp-wide writes along rows, 32 reads down columns
    assert counts.ideal_wavefronts == 2 * TILE
    assert counts.shared_reads == counts.shared_writes == TILE * TILE


def test_a_double_is_two_words_of_shared_memory():
    x = floats(64, number=np.float64)
    counts = count(record(NEIGHBOUR["block"], (1, 64), x, np.zeros_like(x))[0])
    assert counts.wavefronts == counts.ideal_wavefronts == 2 * 2 * 2  # two warps write and read 64 words each


def test_some_blocks_stand_for_all():
    arrays = floats(4096), floats(4096)
    all_blocks, _ = record(copy, (32, 128), *arrays, 2)
    some, _ = record(copy, (32, 128), *arrays, 2, blocks=5)
    assert len(some.ran) == 5
    assert count(some).global_reads == pytest.approx(4096)
    assert vars(count(some)) == pytest.approx(vars(count(all_blocks)))
    with pytest.raises(ArgumentError, match="at least 1 block, got 0"):
        Recorder(0)


def test_shuffles_exchange_and_touch_no_memory():
    x = floats(64)
    launch, (_, y) = record(warp_sums, (1, 64), x, np.zeros(2, np.float32))
    np.testing.assert_array_equal(y, x.reshape(2, 32).sum(axis=1))
    counts = count(launch)
    assert (counts.global_reads, counts.global_writes, counts.shared_reads) == (64, 2, 0)


@pytest.mark.parametrize(("number", "accesses"), [(np.float32, 1), (np.float64, 2)])
def test_a_vector_is_one_access_of_16_bytes(number, accesses):
    x = floats(2 * 32 * VECTOR, number=number)
    launch, (_, y, _) = record(copy_vectors, (1, 64), x, np.zeros_like(x), 0)
    np.testing.assert_array_equal(y.reshape(-1, VECTOR), x.reshape(-1, VECTOR)[:, ::-1])
    counts = count(launch)
    assert counts.global_reads == counts.global_writes == x.size
    assert counts.global_accesses == 2 * 2 * accesses  # a read and a write by each of two warps
    assert counts.sectors == 2 * 2 * accesses * (32 * VECTOR * 4 // 32 if accesses == 1 else 32)
    assert counts.coalescing == 1 / accesses  # of float64 each access takes the half of each sector


# Mistakes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("barrier", ["none", "shuffle"])  # a shuffle exchanges registers and orders no memory
def test_a_missing_barrier_is_a_race(barrier):
    x = floats(64)
    launch, (_, y) = record(NEIGHBOUR["block"], (1, 64), x, np.zeros_like(x))
    assert list(races(launch)) == []
    np.testing.assert_array_equal(y, np.roll(x, -1))
    launch, _ = record(NEIGHBOUR[barrier], (1, 64), x, np.zeros_like(x))
    found = list(races(launch))
    assert len(found) == 64
    assert found[1] == (
        "shared array 0[1]: thread 1 of block 0 writes and thread 0 of block 0 reads it, with no barrier between"
    )


def test_a_barrier_of_warps_orders_a_warp_and_not_two():
    x = floats(64)
    launch, _ = record(NEIGHBOUR["warp"], (1, 64), x, np.zeros_like(x))
    assert [text.split(":")[0] for text in races(launch)] == ["shared array 0[0]", "shared array 0[32]"]
    launch, _ = record(NEIGHBOUR["warp"], (1, 32), x, np.zeros_like(x))
    assert list(races(launch)) == []


def test_a_vector_meets_what_lies_within_it():
    launch, _ = record(overlapping, (1, 3), floats(4), floats(5))
    (found,) = races(launch)
    assert found.startswith("y[3]: thread 0 of block 0 writes and thread 1")


@pytest.mark.parametrize("grid", [(1, 2), (2, 1)])
def test_two_threads_of_a_block_or_of_two_at_one_output_are_a_race(grid):
    launch, _ = record(add_to_one, grid, floats(2), floats(1))
    (found,) = races(launch)
    assert found.startswith("y[0]: thread 0 of block 0 writes and thread")


@pytest.mark.parametrize(
    ("wrong", "grid", "message"),
    [
        (
            one_too_far,
            (2, 32),
            r"test_trace.one_too_far, block 1: thread 31: index \(64,\) is outside .* shape \(64,\)",
        ),
        (one_before, (2, 32), r"one_before, block 0: thread 0: index \(-1,\) is outside of an array of shape \(64,\)"),
        (parted, (1, 64), "test_trace.parted, block 0: thread 0 waits for its block at line .* thread 32 at line"),
        (warp_sums, (1, 16), "thread 0 waits for its warp at line .* lane 16, which the block does not have"),
    ],
)
def test_kernels_that_cannot_run_say_where(wrong, grid, message):
    with pytest.raises(KernelError, match=message):
        record(wrong, grid, floats(64), floats(64))


@pytest.mark.parametrize(("shift", "threads", "at"), [(2, 1, 2), (0, 17, 64), (-4, 1, -4)])
def test_a_vector_that_does_not_lie_in_fours_or_in_the_array_is_an_error(shift, threads, at):
    with pytest.raises(KernelError, match=f"thread {threads - 1}: no vector of 4 begins at element {at} of 64"):
        record(copy_vectors, (1, threads), floats(64), floats(64), shift)


def test_an_unknown_name_of_cuda_is_named():
    @kernel
    def atomic(x, y):
        cuda.atomic.add(y, 0, x[0])

    with pytest.raises(ArgumentError, match=r"does not know cuda\.atomic"):
        record(atomic, (1, 1), floats(1), floats(1))


def _operator(forward_kernel):
    """y = x, and what a kernel makes of it."""

    def forward(x):
        y = mx.gpu.kernel.empty(x.shape, x.dtype)
        forward_kernel[2, 32](x, y)
        return y, ()

    reference = Rung(lambda x: (x.copy(), ()), lambda dy, saved: (dy,))
    rungs = {"numpy": reference, "cuda": Rung(forward, lambda dy, saved: (dy,))}
    return Op("planted", rungs, lambda x: x, lambda draw: Case((draw.normal(64),)))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(unfinished, "planted forward, cuda: result 0 is not the definition's"), (add_to_one, "add_to_one has a race: y")],
)
def test_a_wrong_result_and_a_race_are_errors(monkeypatch, wrong, message):
    monkeypatch.setitem(OPERATORS, "planted", _operator(wrong))
    with pytest.raises(KernelError, match=message):
        lab.trace("planted")


# Operators ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(("name", "rung"), RUNGS)
def test_no_rung_has_a_race_and_each_equals_the_definition(name, rung, direction):
    lab.trace(name, rung, direction=direction)  # raises otherwise


def test_the_ladder_of_depthwise():
    shape = (1, 16, 16, 32)
    table = lab.ladder_table("depthwise_conv2d", shape)
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(rows) == [rung for name, rung in RUNGS if name == "depthwise_conv2d"]
    inside = lab.trace("depthwise_conv2d", "cuda_naive", shape, padding="valid")
    assert inside.total.global_reads == 18 * inside.outputs
    assert rows["cuda_naive"]["coalescing"] < 0.3
    assert rows["cuda_coalesced"]["sectors per access"] == 4
    assert rows["cuda_tiled"]["reads"] < 2
    assert rows["cuda"]["reads"] < 2
    assert rows["cuda"]["least bytes"] == pytest.approx(4 * (2 + 9 / 256))
    assert all(rows[name]["bank conflicts"] == 1 for name in rows)


def test_parameters_reach_the_operator():
    traced = lab.trace(
        "depthwise_conv2d", "cuda_naive", (1, 9, 9, 4), "float64", kernel_size=5, stride=2, padding="valid"
    )
    assert traced.total.global_reads == 2 * 25 * traced.outputs
    assert traced.outputs == 3 * 3 * 4
    assert traced.least_bytes == 8 * (81 * 4 + 25 * 4 + 36)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operator": "depthwise"}, "operator must be one of .*depthwise_conv2d.* got 'depthwise'"),
        ({"operator": ["relu"]}, r"operator must be one of .* got \['relu'\]"),
        ({"operator": "relu", "rung": "cpu"}, "rung of relu must be one of cuda, got 'cpu'"),
        ({"operator": "relu", "direction": "up"}, "direction must be one of forward, backward, got 'up'"),
        ({"operator": "relu", "dtype": "int8"}, "dtype must be one of float32, float64, got 'int8'"),
        ({"operator": "add", "shape": (2,)}, "shape is for .* not for add"),
        ({"operator": "relu", "shape": (2, 0)}, r"shape must be positive integers, .* got \(2, 0\)"),
        ({"operator": "depthwise_conv2d", "shape": ()}, r"shape must be positive integers, .* got \(\)"),
        ({"operator": "depthwise_conv2d", "size": 3}, "one of kernel_size, stride, padding, got 'size'"),
        ({"operator": "max_pool2d", "steps": 1}, "one of size, stride, padding, got 'steps'"),
        ({"operator": "relu", "steps": 1}, "parameter of relu must be one of none, got 'steps'"),
        ({"operator": "depthwise_conv2d", "kernel_size": -1}, "sides must be positive integers"),
        ({"operator": "pointwise_conv2d", "out_channels": 0}, "out_channels must be a positive integer, got 0"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    for show in (lab.trace, lab.ladder_table) if not arguments.keys() & {"rung"} else (lab.trace,):
        with pytest.raises(ArgumentError, match=message):
            show(**arguments)


def test_a_trace_is_the_same_every_time():
    one, two = (lab.trace("batch_norm", shape=(2, 3, 3, 8)) for _ in range(2))
    assert one.counts == two.counts
    assert str(one) == str(two)
    assert "batch_norm forward, cuda, x (2, 3, 3, 8) float32" in str(one)
    assert "<table>" in one._repr_html_()


def test_tracing_needs_no_gpu_and_no_simulator():
    code = "import sys; from minixception import lab; lab.trace('relu'); print('numba.cuda' in sys.modules)"
    done = python("-c", code, MINIXCEPTION_CUDA="")
    assert (done.stdout.strip(), done.stderr) == ("False", "")


# Figure ---------------------------------------------------------------------------------------------------------------


def test_the_figure_shows_threads_over_the_tile_and_its_halo():
    from minixception.analysis.thread_map import panels

    trace = lab.trace("depthwise_conv2d", "cuda_naive", (1, 8, 8, 4), padding="valid")
    plane, _ = panels(trace.launches, trace.case, trace.x, trace.results[0])
    assert plane.reads.max() == 9  # the middle of nine windows
    written = np.argwhere(plane.writers >= 0)
    touched = np.argwhere(plane.reads > 0)
    np.testing.assert_array_equal(written.min(axis=0) - 1, touched.min(axis=0))  # a halo of one pixel
    np.testing.assert_array_equal(written.max(axis=0) + 1, touched.max(axis=0))


@pytest.mark.parametrize("name", ["depthwise_conv2d", "pointwise_conv2d", "batch_norm", "relu"])
def test_figures_are_drawn(name):
    shape = (1, 6, 6, 8)
    figure = lab.trace(name, shape=shape).figure()
    assert figure.get_suptitle() == f"{name}, cuda: one block"
    assert len(figure.axes) == 3
    assert figure.svg().startswith("<?xml")


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ArgumentError, match="direction='forward'"):
        lab.trace("relu", direction="backward").figure()
    with pytest.raises(ArgumentError, match="at least one panel"):
        viz.threads([], "nothing")
    panel = viz.ThreadPanel("", np.zeros((2, 2), int), np.zeros((2, 3), int), ("", ""))
    with pytest.raises(ShapeError, match=r"got \(2, 2\) and \(2, 3\)"):
        viz.threads([panel], "nothing")
