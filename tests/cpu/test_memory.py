"""Buffers that are used again: by whom, and not before the last array that looks at one is gone."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from minixception.cpu import memory

SIZE = (1 << 15) + 8  # bytes: more than what is left to the C library


@pytest.fixture(autouse=True)
def empty_pool():
    gc.collect()
    memory.release()
    yield
    memory.release()


def place(array):
    return array.ctypes.data


def test_a_block_is_used_again_by_arrays_of_about_its_size():
    first = memory.empty((SIZE,), np.uint8)
    address = place(first)
    other = memory.empty((SIZE,), np.uint8)
    assert address % 64 == place(other) % 64 == 0
    assert place(other) != address
    assert memory.cached_bytes() == 0
    del first
    assert memory.cached_bytes() >= SIZE
    again = memory.empty((SIZE // 8,), np.float64)
    assert (place(again), again.shape, again.dtype) == (address, (SIZE // 8,), np.float64)
    assert memory.cached_bytes() == 0
    assert again.flags.c_contiguous
    assert again.flags.writeable


@pytest.mark.parametrize(
    "view", [lambda a: a[3:], lambda a: a.reshape(-1, 2), lambda a: a.view(np.uint16), lambda a: a.T]
)
def test_a_block_is_not_used_again_while_a_view_is_left(view):
    array = memory.empty((SIZE,), np.uint8)
    array.fill(7)
    left = view(array)
    del array
    assert memory.cached_bytes() == 0
    memory.empty((SIZE,), np.uint8).fill(0)
    assert set(left.view(np.uint8).ravel()) == {7}
    del left
    assert memory.cached_bytes() >= 2 * SIZE


def test_arrays_in_use_never_overlap(rng):
    arrays = {}
    for number in range(1500):
        if len(arrays) > 12:
            del arrays[rng.choice(list(arrays))]
        size = int(rng.integers(SIZE // 4, 2 * SIZE))
        array = memory.empty((size,), np.int64)
        array.fill(number)
        arrays[number] = array
    for number, array in arrays.items():
        assert (array == number).all()


def test_parts_of_one_block_begin_on_cache_lines_and_do_not_overlap():
    parts = memory.carve([3, 5000, 1, 17], np.float32)
    assert [part.size for part in parts] == [3, 5000, 1, 17]
    for number, part in enumerate(parts):
        assert place(part) % 64 == 0
        part.fill(number)
    assert [set(part) for part in parts] == [{0.0}, {1.0}, {2.0}, {3.0}]


def test_what_is_released_is_gone():
    memory.empty((SIZE,), np.uint8)
    assert memory.cached_bytes() > 0
    memory.release()
    assert memory.cached_bytes() == 0
