"""Warps where threads take turns, in the simulator and on the recorder: shuffles, barriers, and mistakes with them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from minixception.analysis.recorder import Recorder
from minixception.errors import KernelError
from minixception.gpu.device import to_cpu, to_gpu
from minixception.gpu.kernel import cuda, dtype, is_simulated, kernel, redirected
from minixception.gpu.reduce import warp_sum
from minixception.gpu.scheduler import _Carrier
from minixception.gpu.warps import ALL_LANES

LOWER, UPPER = 0x0000FFFF, 0xFFFF0000
DISTANCES = (1, 5, 31, 32, 33)


def on_the_gpu(kernel, threads, *arrays):
    """The arrays after a launch of one block: in the simulator, or on a GPU."""
    there = [to_gpu(array) for array in arrays]
    kernel[1, threads](*there)
    return [to_cpu(array) for array in there]


def on_the_recorder(kernel, threads, *arrays):
    recorder = Recorder()
    with redirected(recorder):
        there = [recorder.to_device(array) for array in arrays]
        kernel[1, threads](*there)
    return [array.data for array in there]


@pytest.fixture(params=[pytest.param(on_the_gpu, marks=pytest.mark.gpu), on_the_recorder], ids=["gpu", "recorder"])
def run(request):
    return request.param


def on_the_simulator(kernel, threads, *arrays):
    """Where a wrong kernel ends: on a GPU it might not, or do anything at all."""
    assert is_simulated()
    return on_the_gpu(kernel, threads, *arrays)


@pytest.fixture(params=[on_the_simulator, on_the_recorder], ids=["simulator", "recorder"])
def run_wrong(request):
    return request.param


# Shuffles -------------------------------------------------------------------------------------------------------------


@kernel
def shuffles(x, distances, y):
    i = cuda.threadIdx.x + cuda.blockDim.x * (cuda.threadIdx.y + cuda.blockDim.y * cuda.threadIdx.z)
    for k in range(distances.size):
        distance = distances[k]
        y[0, k, i] = cuda.shfl_sync(ALL_LANES, x[i], distance)
        y[1, k, i] = cuda.shfl_up_sync(ALL_LANES, x[i], distance)
        y[2, k, i] = cuda.shfl_down_sync(ALL_LANES, x[i], distance)
        y[3, k, i] = cuda.shfl_xor_sync(ALL_LANES, x[i], distance)


@pytest.mark.parametrize("threads", [64, (8, 4, 2), (2, 16, 3)])
@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_shuffles_have_the_meaning_of_the_hardware(run, threads, number):
    """From the PTX manual: the lane is j, of which distances count 5 bits, and j beyond the warp is the lane itself."""
    x = np.random.default_rng(1).standard_normal(np.prod(threads)).astype(number)
    y = np.zeros((4, len(DISTANCES), x.size), number)
    _, _, y = run(shuffles, threads, x, np.array(DISTANCES), y)
    for k, distance in enumerate(DISTANCES):
        for i in range(x.size):
            start, lane, bits = i - i % 32, i % 32, distance & 31
            down = lane + bits if lane + bits < 32 else lane
            up = lane - bits if lane >= bits else lane
            assert y[:, k, i].tolist() == x[[start + bits, start + up, start + down, start + (lane ^ bits)]].tolist()


@kernel
def halves(x, y):
    """The lower lanes exchange neighbours, and the upper ones in another branch, both in their own masks."""
    i = cuda.threadIdx.x
    if i < 16:
        y[i] = cuda.shfl_xor_sync(LOWER, x[i], 1)
    else:
        cuda.syncwarp(UPPER)
        y[i] = cuda.shfl_xor_sync(UPPER, x[i], 2)
    y[i] += cuda.shfl_sync(-1, x[i], 0)  # all bits set, as a signed number


def test_a_mask_of_some_lanes_waits_for_no_others(run):
    x = np.arange(32.0) + 100
    _, y = run(halves, 32, x, np.zeros(32))
    lanes = np.arange(32)
    np.testing.assert_array_equal(y, np.where(lanes < 16, x[lanes ^ 1], x[lanes ^ 2]) + x[0])


@kernel
def thirds(x, y):
    """One lane in two offers a float32, the others a float64: a compiler makes float64 of all."""
    i = cuda.threadIdx.x
    value = x[i]
    if i % 2:
        value = np.float64(value) / 3
    y[i] = cuda.shfl_xor_sync(ALL_LANES, value, 1)
    y[i] += cuda.shfl_sync(ALL_LANES, x[i], 1) / dtype(3)


def test_results_are_typed(run):
    x, lanes = np.arange(32, dtype=np.float32), np.arange(32)
    _, y = run(thirds, 32, x, np.zeros(32))
    exact = np.where(lanes % 2, lanes - 1, (lanes + 1) / 3)
    np.testing.assert_array_equal(y, exact + np.float64(np.float32(1) / np.float32(3)))


@kernel
def integers(x, y):
    i = cuda.threadIdx.x
    y[i] = cuda.shfl_down_sync(ALL_LANES, x[i], 16) // 2 + cuda.shfl_sync(ALL_LANES, i, 3)


def test_integers_are_shuffled_too(run):
    x = np.arange(32) + 2**40
    _, y = run(integers, 32, x, np.zeros(32, np.int64))
    np.testing.assert_array_equal(y, np.concatenate([x[16:], x[16:]]) // 2 + 3)


@kernel
def sums(x, y):
    i = cuda.threadIdx.x
    y[i] = warp_sum(x[i])


def test_every_lane_has_the_same_sum_of_its_warp(run):
    x = np.random.default_rng(2).standard_normal(96).astype(np.float32)
    _, y = run(sums, 96, x, np.zeros_like(x))
    tree = x.reshape(3, 32)
    while tree.shape[1] > 1:
        tree = tree[:, : tree.shape[1] // 2] + tree[:, tree.shape[1] // 2 :]
    np.testing.assert_array_equal(y.reshape(3, 32), np.broadcast_to(tree, (3, 32)))


# Barriers -------------------------------------------------------------------------------------------------------------


def _reversed(barrier):
    @kernel
    def reverse(x, y):
        """Each warp turns its numbers round, by way of shared memory."""
        shared = cuda.shared.array(64, dtype)
        i = cuda.threadIdx.x
        shared[i] = x[i]
        if barrier:
            cuda.syncwarp()
        y[i] = shared[i // 32 * 32 + 31 - i % 32]

    return reverse


REVERSE = {barrier: _reversed(barrier) for barrier in (True, False)}
ORDER = []


@kernel
def note(x):
    lane = cuda.laneid
    ORDER.append(int(lane))
    if lane < 4:
        cuda.shfl_sync(0xF, x[0], 0)
    ORDER.append(int(lane))


def test_a_warp_waits_for_all_its_lanes(run):
    x = np.arange(64.0)
    expected = np.concatenate([x[31::-1], x[:31:-1]])
    _, y = run(REVERSE[True], 64, x, np.zeros(64))
    np.testing.assert_array_equal(y, expected)


def test_without_a_barrier_it_does_not(run_wrong):
    x = 1000 + np.arange(64.0)  # values of no other test: new shared memory may hold what a block before left there
    _, y = run_wrong(REVERSE[False], 64, x, np.zeros(64))
    assert y[31] == 1000
    assert y[0] != 1031


def test_turns_are_taken_in_the_same_order_in_every_run(run_wrong):
    ORDER.clear()
    run_wrong(note, (4, 2), np.zeros(1))
    assert ORDER == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 7, 0, 1, 2, 3]


# Mistakes -------------------------------------------------------------------------------------------------------------


@kernel
def ended(x):
    if cuda.threadIdx.x != 37:
        cuda.shfl_down_sync(ALL_LANES, x[0], 1)


@kernel
def elsewhere(x):
    if cuda.threadIdx.x < 40:
        cuda.syncthreads()
    else:
        cuda.syncwarp()


@kernel
def two_lines(x):
    if cuda.laneid < 8:
        cuda.shfl_sync(ALL_LANES, x[0], 0)
    else:
        cuda.shfl_sync(ALL_LANES, x[0], 0)


@kernel
def two_masks(x):
    mask = ALL_LANES if cuda.laneid < 31 else UPPER
    cuda.syncwarp(mask)


@kernel
def not_named(x):
    cuda.syncwarp(LOWER)


@kernel
def taken_from_others(x):
    if cuda.laneid < 16:
        cuda.shfl_xor_sync(LOWER, x[0], 16)


@kernel
def truth(x):
    cuda.shfl_sync(ALL_LANES, x[0] > 0, 0)


@kernel
def two_barriers(x):
    if cuda.threadIdx.x < 32:
        cuda.syncthreads()
    else:
        cuda.syncthreads()


MISTAKES = [
    (ended, 64, r"ended, block .*: thread 32 waits for its warp at line \d+, .* names thread 37, which has ended"),
    (sums, 48, r"thread 32 waits for its warp .* names lane 16, which the block does not have"),
    (elsewhere, 64, r"thread 40 waits .* names thread 32, which waits for its block at line \d+$"),
    (two_lines, 32, r"thread 0 waits .* names thread 8, which waits for its warp at line \d+ with the mask 0xffffffff"),
    (two_masks, 32, r"thread 0 waits .* names thread 31, .* with the mask 0xffff0000"),
    (not_named, 32, "lane 16 calls with the mask 0xffff, which does not name it"),
    (taken_from_others, 32, "thread 0 takes the value of lane 16, which takes no part in the shuffle"),
    (truth, 32, "a shuffle takes one of int32, .* float64, got bool"),
    (two_barriers, 64, r"thread 0 waits for its block at line \d+, and thread 32 at line \d+"),
]


@pytest.mark.parametrize(("wrong", "threads", "message"), MISTAKES)
def test_mistakes_are_named_and_end_the_block(run_wrong, wrong, threads, message):
    arrays = [np.zeros(threads)] * wrong.function.__code__.co_argcount
    with pytest.raises(KernelError, match=message):
        run_wrong(wrong, threads, *arrays)
    carriers = [thread for thread in threading.enumerate() if isinstance(thread, _Carrier)]
    assert [carrier for carrier in carriers if carrier not in _Carrier.idle] == []
    x = np.ones(32)
    assert run_wrong(sums, 32, x, np.zeros(32))[1].tolist() == [32] * 32
