"""Where the elements of A, B and C lie in memory: said by functions, so that one kernel serves every layout."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..kernel import device_function


class Layout(NamedTuple):
    """Where the elements of A, B or C lie in a flat array.

    Each is the sum of two places: A[i, k] is a[i_place + k_place], B[k, j] is b[j_place + k_place], C[i, j] is
    c[i_place + j_place]. A place is what a function (index, z, shape) returns. shape holds m, n, k, and then whatever
    else these functions need; z is the index of the product where there are several, the groups of a convolution.
    """

    outer: Any  # the function for i of A and C, for j of B
    inner: Any  # for k of A and B, for j of C
    along_k: bool = True  # of A and B: whether neighbours along k are neighbours in memory
    run: int | None = None  # shape[run] neighbours lie side by side in memory; None: nothing is known


@device_function
def identity(index, z, shape):
    """One element after the other."""
    return index


@device_function
def _times_m(index, z, shape):
    return index * shape[0]


@device_function
def _times_n(index, z, shape):
    return index * shape[1]


@device_function
def _times_k(index, z, shape):
    return index * shape[2]


MATRIX_A = Layout(_times_k, identity, run=2)  # (m, k)
MATRIX_B = Layout(identity, _times_n, along_k=False, run=1)  # (k, n)
MATRIX_C = Layout(_times_n, identity, run=1)  # (m, n)
TRANSPOSED_A = Layout(identity, _times_m, along_k=False, run=0)  # of a matrix (k, m)
TRANSPOSED_B = Layout(_times_k, identity, run=2)  # of a matrix (n, k)


@device_function
def divided(a, b):
    """(a // b, a % b) of integers from 0 to 2^32 - 1.

    A GPU has no instruction for it: dividing takes some twenty others with 32 bits, and several times that with 64.
    """
    quotient = np.int64(np.uint32(a) // np.uint32(b))
    return quotient, a - quotient * b
