"""Tensors from a shape alone: shapes, dtypes, and where random numbers come from."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception.errors import ArgumentError, DTypeError


@pytest.mark.parametrize("make", [mx.zeros, mx.ones, mx.randn])
def test_a_shape_is_numbers_or_one_tuple(make):
    for shape in ((), (3,), (2, 0), (2, 3, 4)):
        assert make(*shape).shape == make(shape).shape == make(list(shape)).shape == shape
    assert make(np.int64(2), 3).shape == (2, 3)
    t = make(2)
    assert (t.dtype, t.requires_grad) == (np.float32, False)
    t = make(2, dtype="float64", requires_grad=True)
    assert (t.dtype, t.requires_grad, t.data.flags.c_contiguous) == (np.float64, True, True)
    for bad in ((-1,), (2.0,), ("2",), ((2, 3), 4), (None,)):
        with pytest.raises(ArgumentError, match="integers of 0 or more"):
            make(*bad)
    with pytest.raises(DTypeError, match="float16"):
        make(2, dtype=np.float16)
    with pytest.raises(DTypeError, match="only floating tensors"):
        make(2, dtype=np.int64, requires_grad=True)


def test_what_they_hold():
    np.testing.assert_array_equal(mx.zeros(2, 3).numpy(), np.zeros((2, 3)))
    np.testing.assert_array_equal(mx.ones((2,), dtype=np.int64).numpy(), [1, 1])
    numbers = mx.randn(100, 100).numpy()
    assert abs(numbers.mean()) < 0.05 and abs(numbers.std() - 1) < 0.05  # five standard deviations of either


def test_random_numbers_follow_the_seed_of_the_package_or_their_own():
    mx.seed(3)
    first, second = mx.randn(4).numpy(), mx.randn(4).numpy()
    assert (first != second).all()
    mx.seed(3)
    np.testing.assert_array_equal(mx.randn(4).numpy(), first)
    own = mx.randn(4, seed=3).numpy()  # does not draw from the package's
    np.testing.assert_array_equal(mx.randn(4).numpy(), second)
    np.testing.assert_array_equal(own, mx.randn((2, 2), seed=3).numpy().ravel())
    np.testing.assert_array_equal(own, mx.randn(4, dtype="float64", seed=3).numpy().astype(np.float32))
    for bad in (-1, 1.5, "one"):
        with pytest.raises(ArgumentError, match="a seed must be an integer of 0 or more"):
            mx.randn(2, seed=bad)
