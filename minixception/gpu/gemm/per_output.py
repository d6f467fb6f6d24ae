"""Steps 1 and 2: a thread per element of C."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..kernel import THREADS, cuda, device_function, dtype, kernel
from .layout import Layout
from .product import Product


@device_function
def _down(t, shape):
    return t % shape[0], t // shape[0]


@device_function
def _across(t, shape):
    return t // shape[1], t % shape[1]


def naive(a: Layout, b: Layout, c: Layout) -> Product:
    """Step 1: neighbouring threads on neighbouring rows of C."""
    return _thread_per_output(a, b, c, _down)


def coalesced(a: Layout, b: Layout, c: Layout) -> Product:
    """Step 2: neighbouring threads on neighbouring columns of C."""
    return _thread_per_output(a, b, c, _across)


@cache
def _thread_per_output(a: Layout, b: Layout, c: Layout, placed: Any) -> Product:
    a_i, a_k, b_j, b_k, c_i, c_j = *a[:2], *b[:2], *c[:2]

    @kernel
    def one_each(a, b, c, extra, size, shape):
        t, z = cuda.grid(1), cuda.blockIdx.z
        if t < shape[0] * shape[1]:
            i, j = placed(t, shape)
            row, column = a_i(i, z, shape), b_j(j, z, shape)
            total = dtype(0)
            for k in range(shape[2]):
                total += a[row + a_k(k, z, shape)] * b[column + b_k(k, z, shape)]
            c[c_i(i, z, shape) + c_j(j, z, shape)] = total

    return Product(one_each, 0, THREADS)
