"""The walk over the operator table: each operator x rung x dtype against its NumPy definition, and gradcheck.

A new operator is tested here the moment it is in OPERATORS: its own ``sample`` makes the cases.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import cases
from hypothesis import given
from hypothesis import strategies as st
from numba import get_num_threads, set_num_threads

import minixception as mx
from minixception.op import RandomDraw, Rung, observe
from minixception.ops import OPERATORS
from minixception.tensor import Tensor

BACKENDS = ("numpy", "loops", "cpu")
DTYPES = ("float32", "float64")
TOLERANCE = {"float32": {"rtol": 3e-5, "atol": 3e-5}, "float64": {"rtol": 1e-11, "atol": 1e-11}}

walk = pytest.mark.parametrize("name", OPERATORS)


def _cotangent(y, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(y.shape).astype(y.dtype)


@walk
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["loops", "cpu"])
@given(data=st.data())
def test_rung_equals_definition(name, backend, dtype, data):
    op = OPERATORS[name]
    case = data.draw(cases(op, dtype))
    originals = [a.copy() for a in case.arrays]
    law, rung = op.rung("numpy"), op.rung(backend)
    y, saved = law.forward(*case.arrays, **case.params)
    got, got_saved = rung.forward(*case.arrays, **case.params)
    assert got.dtype == np.dtype(dtype)
    assert got.flags.c_contiguous
    assert got.shape == op.shape(*[a.shape for a in case.arrays], **case.params)
    np.testing.assert_allclose(got, y, **TOLERANCE[dtype])
    dy = _cotangent(y)
    gradients = law.backward(dy, saved)
    for used in (saved, got_saved):  # any backward works with what any forward saved
        for array, got_gradient, gradient in zip(case.arrays, rung.backward(dy, used), gradients, strict=True):
            if gradient is None:
                assert got_gradient is None
            else:
                assert got_gradient.dtype == array.dtype
                assert got_gradient.shape == array.shape
                np.testing.assert_allclose(got_gradient, gradient, **TOLERANCE[dtype])
    for array, original in zip(case.arrays, originals, strict=True):
        np.testing.assert_array_equal(array, original)  # inputs are never written to


@walk
@pytest.mark.parametrize("backend", BACKENDS)
@given(data=st.data())
def test_gradcheck(name, backend, data):
    op = OPERATORS[name]
    case = data.draw(cases(op, "float64"))
    differentiable = _has_gradient(op, case)
    inputs = [Tensor(a, requires_grad=wanted) for a, wanted in zip(case.arrays, differentiable, strict=True)]
    with mx.use_backend(backend):
        mx.gradcheck(lambda *xs: op(*xs, **case.params), inputs)


def _has_gradient(op, case):
    """Inputs for which the definition returns a gradient (labels, masks and statistics have none)."""
    y, saved = op.rung("numpy").forward(*case.arrays, **case.params)
    return [g is not None for g in op.rung("numpy").backward(_cotangent(y), saved)]


@walk
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(name, dtype):
    op = OPERATORS[name]
    available = get_num_threads()
    for seed in range(4):
        case = op.sample(RandomDraw(seed, dtype))
        results = []
        for threads in (1, available):
            set_num_threads(threads)
            try:
                y, saved = op.rung("cpu").forward(*case.arrays, **case.params)
                results.append([y, *op.rung("cpu").backward(_cotangent(y), saved)])
            finally:
                set_num_threads(available)
        for one, many in zip(*results, strict=True):
            np.testing.assert_array_equal(one, many)


@walk
def test_shapes_can_be_asked_without_computing(name):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(1))
    seen = []

    class Shapes(mx.op.Observer):
        shapes_only = True

        def on_op(self, op, inputs, params, output):
            seen.append((op.name, output.shape))

    with observe(Shapes()):
        y = op(*[Tensor(a) for a in case.arrays], **case.params)
    expected = op.rung("numpy").forward(*case.arrays, **case.params)[0].shape
    assert seen == [(name, expected)]
    assert y.shape == expected


def test_every_operator_has_all_three_rungs_or_moves_no_bytes():
    without = {name for name, op in OPERATORS.items() if set(op.rungs) != set(BACKENDS)}
    assert without == {"reshape", "concat"}


@walk
def test_selective_backward_computes_only_what_is_wanted(name):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(5))
    for rung in op.rungs.values():
        if not rung.selective:
            continue
        y, saved = rung.forward(*case.arrays, **case.params)
        everything = rung.backward(_cotangent(y), saved)
        for only in range(len(case.arrays)):
            wanted = tuple(i == only for i in range(len(case.arrays)))
            some = rung.backward(_cotangent(y), saved, wanted=wanted)
            np.testing.assert_array_equal(some[only], everything[only])
            assert [g is None for g in some[:2]] == [not w for w in wanted[:2]]


def test_a_layer_on_constant_input_computes_no_gradient_for_it():
    calls = []
    op = OPERATORS["conv2d"]
    rung = op.rung("cpu")

    def backward(dy, saved, wanted):
        calls.append(wanted)
        return rung.backward(dy, saved, wanted)

    watched = replace(op, rungs={"cpu": Rung(rung.forward, backward, selective=True)})
    x, w = Tensor(np.ones((1, 4, 4, 2))), Tensor(np.ones((3, 3, 2, 2)), requires_grad=True)
    watched(x, w, stride=1, padding="same", groups=1).sum().backward()
    assert calls == [(False, True)]
    assert x.grad is None
    assert w.grad is not None
