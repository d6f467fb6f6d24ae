"""The shared kernels by themselves: vectors stay inside of their n lanes, the matrix product at every kind of edge."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minixception.cpu import gemm as gemm_module
from minixception.cpu.gemm import gemm, panel_width
from minixception.cpu.jit import loops
from minixception.cpu.simd import fma, lanes, load, maximum, splat, store

DTYPES = (np.float32, pytest.param(np.float64, marks=pytest.mark.slow))  # their kernels compile for long
GUARD = -777.0


@loops
def _vector_step(x, w, y, at, n):
    store(y, at, maximum(fma(load(x, at, n), load(w, at, n), load(y, at, n)), splat(y, y.dtype.type(0))), n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_past_n_are_neither_written_nor_needed(rng, dtype):
    width = lanes(dtype)
    for at in (0, 1, 3):  # unaligned as well
        for n in range(1, width + 1):
            x, w, y = rng.standard_normal((3, at + n)).astype(dtype)  # ends right behind the last lane that counts
            guarded = np.full(at + n + width, GUARD, dtype)
            guarded[: at + n] = y
            _vector_step(x, w, guarded, at, n)
            expected = np.maximum(x[at:] * w[at:] + y[at:], 0)
            np.testing.assert_allclose(guarded[at : at + n], expected, rtol=1e-6, atol=1e-6)  # fused rounds once
            np.testing.assert_array_equal(guarded[:at], y[:at])
            np.testing.assert_array_equal(guarded[at + n :], GUARD)


@pytest.mark.parametrize("dtype", DTYPES)
def test_not_a_number_and_infinity_pass_through_a_vector(dtype):
    width = lanes(dtype)
    x = np.ones(width, dtype)
    x[0], x[1] = np.nan, np.inf
    y = np.zeros(width, dtype)
    _vector_step(x, np.ones(width, dtype), y, 0, width)
    assert np.isnan(y[0])
    assert y[1] == np.inf
    np.testing.assert_array_equal(y[2:], 1)


def _check(rng, m, n, k, dtype, transpose_a, transpose_b, accumulate):
    a = rng.standard_normal((k, m) if transpose_a else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if transpose_b else (k, n)).astype(dtype)
    guarded = np.full(m * n + 64, GUARD, dtype)
    out = guarded[: m * n].reshape(m, n)
    out[...] = rng.standard_normal((m, n))
    start = out.astype(np.float64) if accumulate else 0
    expected = (a.T if transpose_a else a).astype(np.float64) @ (b.T if transpose_b else b) + start
    gemm(a, b, out, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate)
    tolerance = (1e-5 if dtype == np.float32 else 1e-13) * np.sqrt(k)
    np.testing.assert_allclose(out, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(guarded[m * n :], GUARD)


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 150),
    k=st.integers(1, 60),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_product_of_any_small_shape(m, n, k, dtype, flags):
    _check(np.random.default_rng(0), m, n, k, dtype, *flags)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_product_across_all_blocks(rng, dtype, transposed, accumulate):
    width = panel_width(np.dtype(dtype))
    k = gemm_module.K_BLOCK + 5  # two blocks of k, several tasks of rows, a panel and a bit
    _check(rng, gemm_module.ROW_BLOCK + 7, width + 3, k, dtype, transposed, transposed, accumulate)
    k = 40 * gemm_module.LONG_K_BLOCK + 3  # a long product
    _check(rng, 5, width + 1, k, dtype, transposed, False, accumulate)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_product_keeps_what_is_not_finite_where_it_belongs(rng, value):
    a, b = rng.standard_normal((7, 9), np.float32), rng.standard_normal((9, 5), np.float32)
    a[2, 3] = value
    y = gemm(a, b, np.empty((7, 5), np.float32))
    assert not np.isfinite(y[2]).any()
    assert np.isfinite(np.delete(y, 2, axis=0)).all()
