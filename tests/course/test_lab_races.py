"""Races in ``prange`` kernels: each is found, whether or not it changes a result, and none where there is none."""

from functools import partial

import numba
import numpy as np
import pytest
from numba import get_num_threads, get_thread_id, guvectorize, njit, prange
from numba import prange as at_once

from minixception.analysis.prange_races import race
from minixception.course.checks import Function, judge
from minixception.cpu.simd import fma, splat, store
from minixception.engine.op import Case

FILLS = Function(
    name="product",
    notebook=5,
    title="A matrix product",
    reference=lambda x, w: x @ w,
    draw=lambda draw: Case((draw.normal(draw.integer(2, 6), 4), draw.normal(4, draw.integer(2, 6)))),
    fills=True,
)


@njit(parallel=True)
def rows_of_their_own(x, w, y):
    for i in prange(x.shape[0]):
        for j in range(w.shape[1]):
            y[i, j] = 0
            for k in range(x.shape[1]):
                y[i, j] += x[i, k] * w[k, j]


@njit(parallel=True)
def sums_shared(x, w, y):
    y[:] = 0
    for k in numba.prange(x.shape[1]):
        for i in range(x.shape[0]):
            y[i] += x[i, k] * w[k]


@njit
def _add_row(x, w, y, k):
    for i in range(x.shape[0]):
        for j in range(w.shape[1]):
            y[i, j] += x[i, k] * w[k, j]


@njit(parallel=True)
def sums_shared_by_a_helper(x, w, y):
    y[:] = 0
    for k in prange(x.shape[1]):
        _add_row(x, w, y, k)


@njit(parallel=True)
def neighbours_read(x, w, y):
    y[:] = 0
    for i in prange(1, y.shape[0]):
        y[i] = y[i - 1] + w[0]


@njit(parallel=True)
def neighbours_read_before_they_are_written(x, w, y):
    y[:] = 0
    for i in prange(y.shape[0] - 1):
        for j in range(y.shape[1]):
            y[i, j] = y[i + 1, j] + w[0, j]


@njit(parallel=True)
def rows_of_neighbours_read(x, w, y):
    y[:] = 0
    for i in prange(y.shape[0] - 1):
        y[i] = y[i + 1]


@njit(parallel=True)
def last_row_read_by_all(x, w, y):
    y[:] = 0
    for i in prange(y.shape[0]):
        y[i] = y[-1] + w[0]


@njit(parallel=True)
def rows_shared(x, w, y):
    y[:] = 0
    for k in prange(x.shape[1]):
        for i in range(x.shape[0]):
            row = y[i]
            row += x[i, k] * w[k]


@njit(parallel=True)
def buffer_shared(x, w, y):
    row = np.zeros(w.shape[1], y.dtype)
    for i in prange(x.shape[0]):
        row[:] = 0
        for k in range(x.shape[1]):
            row += x[i, k] * w[k]
        y[i] = row


@njit(parallel=True)
def buffer_of_each(x, w, y):
    for i in prange(x.shape[0]):
        row = np.zeros(w.shape[1], y.dtype)
        for k in range(x.shape[1]):
            row += x[i, k] * w[k]
        y[i] = row


@njit(parallel=True)
def read_by_one_loop_and_written_by_the_next(x, w, y):
    weights = np.zeros((x.shape[1], y.shape[1]), y.dtype)
    for k in prange(x.shape[1]):
        weights[k] = w[k]
    for i in prange(x.shape[0]):
        y[i] = 0
        for k in range(x.shape[1]):
            y[i] += x[i, k] * weights[k]
    for k in prange(x.shape[1]):
        weights[k] = 0


@njit(parallel=True)
def two_writers(x, w, y):
    for i in prange(2):
        y[0, 0] = x[i, 0]


@njit(parallel=True)
def two_loops(x, w, y):
    for i in prange(x.shape[0]):
        y[i] = 0
    for j in prange(w.shape[1]):
        for i in range(x.shape[0]):
            for k in range(x.shape[1]):
                y[i, j] += x[i, k] * w[k, j]


def sums_shared_by_another_name(x, w, y):
    y[:] = 0
    for k in at_once(x.shape[1]):
        for i in range(x.shape[0]):
            y[i] += x[i, k] * w[k]


def in_a_closure(loop, zeros):
    def sums_shared_in_a_closure(x, w, y):
        row = zeros(w.shape[1])
        for i in loop(x.shape[0]):
            row[:] = 0
            for k in range(x.shape[1]):
                row += x[i, k] * w[k]
            y[i] = row

    return sums_shared_in_a_closure


def copied_buffer_shared(x, w, y):
    row = w[0].copy()
    for i in prange(x.shape[0]):
        row[:] = 0
        for k in range(x.shape[1]):
            row += x[i, k] * w[k]
        y[i] = row


def computed_buffer_shared(x, w, y):
    row = 0 * w[0]
    for i in prange(x.shape[0]):
        row.fill(0)
        for k in range(x.shape[1]):
            row[:] = row + x[i, k] * w[k]
        y[i] = row


def reshaped_shared(x, w, y):
    y[:] = 0
    cells = y.reshape(-1)
    for k in prange(x.shape[1]):
        for p in range(cells.size):
            cells[p] += x[p // w.shape[1], k] * w[k, p % w.shape[1]]


def raveled_shared(x, w, y):
    y[:] = 0
    for k in prange(x.shape[1]):
        for p in range(y.size):
            np.ravel(y)[p] += x[p // w.shape[1], k] * w[k, p % w.shape[1]]


def flat_shared(x, w, y):
    y[:] = 0
    for k in prange(x.shape[1]):
        for p in range(y.size):
            y.flat[p] += x[p // w.shape[1], k] * w[k, p % w.shape[1]]


def transposed_shared(x, w, y):
    y[:] = 0
    for k in prange(x.shape[1]):
        for column, weight in zip(y.T, w[k], strict=True):
            column += x[:, k] * weight


def copied_to(x, w, y):
    for _ in prange(2):
        np.copyto(y, x @ w)


def product_to(x, w, y):
    for i in prange(x.shape[0]):
        np.dot(x[i], w, out=y[0])


def filled_by_all(x, w, y):
    for _ in prange(2):
        y.fill(0)


def summed_in_a_helper(x, w, y):
    total = np.zeros_like(y)
    for k in prange(x.shape[1]):
        _add_to(total, np.outer(x[:, k], w[k]))
    y[:] = total


def _add_to(total, term):
    total += term


def sum_that_is_read(x, w, y):
    total = np.zeros_like(y)
    for k in prange(x.shape[1]):
        total += np.outer(x[:, k], w[k])
        y[0, k % 2] = total[0, 0]


def maximum_carried(x, w, y):
    highest = np.zeros_like(w[0])
    for k in prange(w.shape[0]):
        highest = np.maximum(highest, w[k])
    y[:] = highest


def sum_of_all(x, w, y):
    total = np.zeros_like(y)
    for k in prange(x.shape[1]):
        total += np.outer(x[:, k], w[k])
    y[:] = total


def new_sums_of_all(x, w, y):
    total = np.zeros_like(y)
    for k in prange(x.shape[1]):
        total = total + np.outer(x[:, k], w[k])
    y[:] = total


def buffer_for_each_thread(x, w, y):
    rows = np.zeros((get_num_threads(), w.shape[1]), y.dtype)
    for i in prange(x.shape[0]):
        row = rows[get_thread_id()]
        row[:] = 0
        for k in range(x.shape[1]):
            row += x[i, k] * w[k]
        y[i] = row


def rows_reshaped(x, w, y):
    cells = y.ravel()
    for p in prange(cells.size):
        cells[p] = x[p // w.shape[1]].copy().dot(w.T[p % w.shape[1]])


def columns_of_the_transpose(x, w, y):
    columns = np.transpose(y)
    for j in prange(w.shape[1]):
        np.copyto(columns[j], x @ w[:, j])


PLAIN_RACES = [
    sums_shared_by_another_name,
    in_a_closure(prange, np.zeros),
    copied_buffer_shared,
    computed_buffer_shared,
    reshaped_shared,
    raveled_shared,
    flat_shared,
    transposed_shared,
    copied_to,
    product_to,
    filled_by_all,
    summed_in_a_helper,
    sum_that_is_read,
    maximum_carried,
    new_sums_of_all,
]
NO_PLAIN_RACES = [sum_of_all, buffer_for_each_thread, rows_reshaped, columns_of_the_transpose]


@pytest.mark.parametrize("kernel", [*PLAIN_RACES, *NO_PLAIN_RACES])
def test_races_are_found_by_whatever_way_a_cell_is_reached(kernel):
    x, w = np.arange(12.0).reshape(3, 4), np.arange(8.0).reshape(4, 2)
    assert bool(race(kernel, (x, w, np.zeros((3, 2))), [2])) == (kernel in PLAIN_RACES)


@pytest.mark.parametrize(
    ("kernel", "right"), [(sum_of_all, True), (buffer_for_each_thread, True), (new_sums_of_all, False)]
)
@pytest.mark.slow
def test_compiled_kernels_agree_with_what_is_called_a_race(kernel, right):
    x, w = np.arange(3e4).reshape(3, -1), np.arange(2e4).reshape(-1, 2)
    y = np.empty((3, 2))
    njit(parallel=True)(kernel)(x, w, y)
    assert np.allclose(y, x @ w) is right


class Kernel:
    def __init__(self, kernel):
        self.kernel = kernel

    def __call__(self, x, w, y):
        self.kernel(x, w, y)

    def method(self, x, w, y):
        y[:] = 0
        for k in prange(x.shape[1]):
            y += np.outer(x[:, k], w[k])
            y[0] = 0


def with_options(scale, x, w, y, *, shift):
    for _ in prange(2):
        y[:] = scale * x @ w + shift


@pytest.mark.parametrize(
    "kernel", [partial(with_options, 2, shift=1), Kernel(None).method, Kernel(partial(with_options, 2, shift=1)).method]
)
def test_what_a_function_is_wrapped_in_does_not_hide_a_race(kernel):
    assert race(kernel, (np.ones((3, 4)), np.ones((4, 2)), np.zeros((3, 2))), [2])


def test_what_does_not_show_its_source_is_not_searched():
    kinds = [f"({f}[:, :], {f}[:, :], {f}[:, :])" for f in ("float32", "float64")]

    @guvectorize(kinds, "(p,c),(c,o)->(p,o)")
    def by_numba(x, w, y):
        for i in range(x.shape[0]):
            for j in range(w.shape[1]):
                y[i, j] = 0
                for k in range(x.shape[1]):
                    y[i, j] += x[i, k] * w[k, j]

    with pytest.raises(NotImplementedError, match="GUFunc does not show its source"):
        race(by_numba, (np.ones((3, 4)), np.ones((4, 2)), np.zeros((3, 2))), [2])
    verdict = judge(FILLS, by_numba, time=False)
    assert verdict and "not searched for races" in verdict.message


RACES = [
    rows_shared,
    sums_shared,
    sums_shared_by_a_helper,
    buffer_shared,
    neighbours_read,
    neighbours_read_before_they_are_written,
    rows_of_neighbours_read,
    last_row_read_by_all,
]
NO_RACES = [rows_of_their_own, buffer_of_each, two_loops, read_by_one_loop_and_written_by_the_next]


@pytest.mark.parametrize("kernel", [*RACES, *NO_RACES])
def test_races_are_found_where_there_are_any(kernel):
    arrays = np.ones((3, 4)), np.ones((4, 2)), np.zeros((3, 2))
    assert bool(race(kernel, arrays, [2])) == (kernel in RACES)


def first_and_slow(kernels):
    """A verdict runs compiled code too, and compiling takes seconds for each: only the first is not slow."""
    return [kernels[0], *(pytest.param(kernel, marks=pytest.mark.slow) for kernel in kernels[1:])]


@pytest.mark.parametrize("kernel", first_and_slow(RACES))
def test_the_verdict_tells_of_a_race(kernel):
    verdict = FILLS.judge(kernel, time=False)
    assert verdict.passed is False
    assert "There is a race" in verdict.message and "prange" in verdict.hint


@pytest.mark.parametrize("kernel", first_and_slow(NO_RACES))
def test_the_verdict_tells_of_no_race_where_there_is_none(kernel):
    assert FILLS.judge(kernel, time=False), kernel


@njit
def one_row_too_many(x, w, y):
    for i in range(x.shape[0]):
        for j in range(w.shape[1]):
            y[i, j] = 0
            for k in range(x.shape[1] + 1):
                y[i, j] += x[i, k] * w[k, j]


def test_an_index_beyond_the_end_is_told_though_compiled_code_does_not_notice():
    verdict = FILLS.judge(one_row_too_many, time=False)
    assert verdict.passed is False
    assert "outside of an array" in verdict.message and "border" in verdict.hint


def test_a_race_names_both_iterations():
    arrays = np.ones((3, 3)), np.ones((3, 2)), np.zeros((3, 2))
    assert race(two_writers, arrays, [2]) == "iteration 1 of prange writes a cell of y that iteration 0 has written"
    assert race(neighbours_read, arrays, [2]) == "iteration 2 of prange reads a cell of y that iteration 1 has written"
    early = race(neighbours_read_before_they_are_written, arrays, [2])
    assert early == "iteration 1 of prange writes a cell of y that iteration 0 has read"


@njit(parallel=True)
def by_vectors(x, w, y):
    for i in prange(x.shape[0]):
        for j in range(w.shape[1]):
            total = splat(y, y.dtype.type(0))
            for k in range(x.shape[1]):
                total = fma(splat(y, x[i, k]), splat(y, w[k, j]), total)
            store(y.reshape(-1), i * y.shape[1] + j, total, 1)


def test_a_kernel_that_cannot_be_searched_says_so():
    verdict = FILLS.judge(by_vectors, time=False)
    assert verdict and "not searched for races" in verdict.message
    assert "races" not in FILLS.judge(rows_of_their_own, time=False).message
