"""The walk over the operator table: each operator x rung x dtype against its NumPy definition, and gradcheck.

A new operator is tested here the moment it is in OPERATORS: its own ``sample`` makes the cases.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import get_num_threads, set_num_threads

import minixception as mx
from minixception.cpu import memory
from minixception.engine.op import Case, RandomDraw, Rung, observe
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, ShapeError
from minixception.gpu.device import to_cpu, to_gpu
from minixception.ops import OPERATORS
from tests.helpers.cases import DEFINITION_ALONE, cases, in_float64

BACKENDS = ("numpy", "loops", "cpu")
TOLERANCE = {"float32": {"rtol": 3e-5, "atol": 3e-5}, "float64": {"rtol": 1e-11, "atol": 1e-11}}

# Each window has a kernel of its own, compiled for seconds. Those of other sizes are slow tests of these two operators;
# depthwise convolution, of which their tiles are, meets the definition with all.
MANY_WINDOWS = ("separable_conv2d", "relu_separable_conv2d")

WITH_KERNELS = [name for name, op in OPERATORS.items() if "loops" in op.rungs]  # the others are their definition

walk = pytest.mark.parametrize("name", OPERATORS)


def _cotangent(y, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(y.shape).astype(y.dtype)


@pytest.mark.parametrize(
    ("name", "backend", "dtype"),
    [
        *((name, "loops", dtype) for name in WITH_KERNELS for dtype in ("float32", "float64")),
        *(
            pytest.param(name, "cpu", "float32", marks=pytest.mark.slow if name in MANY_WINDOWS else ())
            for name in OPERATORS
        ),
        *(pytest.param(name, "cpu", "float64", marks=in_float64(name)) for name in OPERATORS),
    ],
)
@given(data=st.data())
def test_rung_equals_definition(name, backend, dtype, data):
    _equals_definition(OPERATORS[name], backend, dtype, data.draw(cases(OPERATORS[name], dtype)))


@pytest.mark.parametrize("name", MANY_WINDOWS)
@given(data=st.data())
def test_the_fast_rung_equals_the_definition_for_3x3_kernels(name, data):
    threes = cases(OPERATORS[name], "float32").filter(lambda case: case.arrays[1].shape[:2] == (3, 3))
    _equals_definition(OPERATORS[name], "cpu", "float32", data.draw(threes))


def _equals_definition(op, backend, dtype, case):
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


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "numpy") for name in OPERATORS),
        *((name, "loops") for name in WITH_KERNELS),
        *(pytest.param(name, "cpu", marks=in_float64(name)) for name in WITH_KERNELS),
    ],
)
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


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in WITH_KERNELS),
        *(pytest.param(name, "float64", marks=in_float64(name)) for name in WITH_KERNELS),
    ],
)
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

    class Shapes(mx.engine.op.Observer):
        shapes_only = True

        def on_op(self, op, inputs, params, output):
            seen.append((op.name, output.shape))

    with observe(Shapes()):
        y = op(*[Tensor(a) for a in case.arrays], **case.params)
    expected = op.rung("numpy").forward(*case.arrays, **case.params)[0].shape
    assert seen == [(name, expected)]
    assert y.shape == expected


def test_every_operator_has_all_three_rungs_but_those_known_to_have_their_definition_alone():
    without = {name for name, op in OPERATORS.items() if not op.rungs.keys() >= set(BACKENDS)}
    assert without == {"reshape", "concat"} | DEFINITION_ALONE


@walk
def test_selective_backward_computes_only_what_is_wanted(name):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(5, "float32"))
    for rung in map(op.rungs.get, BACKENDS):
        if rung is None or not rung.selective:
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
    x, w = Tensor(np.ones((1, 4, 4, 2), np.float32)), Tensor(np.ones((3, 3, 2, 2), np.float32), requires_grad=True)
    watched(x, w, stride=1, padding="same", groups=1).sum().backward()
    assert calls == [(False, True)]
    assert x.grad is None
    assert w.grad is not None


# Padding by a number of pixels, and reflect padding, against NumPy's own pad ------------------------------------------


WITH_WINDOWS = ("conv2d", "depthwise_conv2d", "separable_conv2d")


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, backend) for name in WITH_WINDOWS for backend in ("numpy", "loops")),
        *(pytest.param(name, "cpu", marks=in_float64(name)) for name in WITH_WINDOWS),
    ],
)
@pytest.mark.parametrize(("kernel", "padding", "stride"), [(3, 1, 2), (3, 2, 1), (5, 2, 1), (7, 3, 2), (5, 4, 2)])
def test_a_number_of_pixels_is_a_border_of_zeros_on_all_sides(rng, name, backend, kernel, padding, stride):
    function = getattr(mx.ops, name)
    weights = {
        "conv2d": [(kernel, kernel, 3, 4)],
        "depthwise_conv2d": [(kernel, kernel, 3)],
        "separable_conv2d": [(kernel, kernel, 3), (3, 4)],
    }[name]
    arrays = [rng.standard_normal(shape) for shape in weights]
    image = rng.standard_normal((2, 8, 6, 3))
    framed = np.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    results = []
    for array, how in ((image, padding), (framed, "valid")):
        x, *ws = (Tensor(a, requires_grad=True) for a in (array, *arrays))
        with mx.use_backend(backend):
            y = function(x, *ws, stride=stride, padding=how)
            y.backward(_cotangent(y))
        dx = x.grad if how != "valid" else x.grad[:, padding:-padding, padding:-padding]
        results.append([y.numpy(), dx, *[w.grad for w in ws]])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_padding_that_leaves_a_window_without_a_pixel_is_an_error():
    x = mx.tensor(np.zeros((1, 4, 4, 2)))
    for bad in (3, -1, 1.0, "full"):
        with pytest.raises(ArgumentError, match=f"number of pixels from 0 to 2, .* got {bad!r}"):
            mx.ops.depthwise_conv2d(x, mx.tensor(np.zeros((3, 3, 2))), padding=bad)
    with pytest.raises(ArgumentError, match="from 0 to 0"):  # less than each of the window's sides
        mx.ops.conv2d(x, mx.tensor(np.zeros((1, 7, 2, 2))), padding=3)
    with pytest.raises(ShapeError, match="a 7x7 window does not fit into 4x4 pixels with padding 1"):
        mx.ops.conv2d(x, mx.tensor(np.zeros((7, 7, 2, 2))), padding=1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding", [0, 1, 3])
def test_reflect_padding_is_numpys(rng, backend, padding):
    x = rng.standard_normal((2, 4, 5, 3))
    with mx.use_backend(backend):
        y = mx.ops.reflect_pad2d(mx.tensor(x), padding)
    expected = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(y.numpy(), expected)


def test_reflect_padding_needs_a_pixel_more_than_it_mirrors():
    for shape in [(1, 1, 4, 2), (1, 4, 1, 2)]:
        with pytest.raises(ShapeError, match=r"mirror 1 pixels .* got"):
            mx.ops.reflect_pad2d(mx.tensor(np.zeros(shape)))
    with pytest.raises(ShapeError, match=r"must be \(n, h, w, c\)"):
        mx.ops.reflect_pad2d(mx.tensor(np.zeros((4, 4))))
    for bad in (-1, 1.0, "same"):
        with pytest.raises(ArgumentError, match="number of pixels"):
            mx.ops.reflect_pad2d(mx.tensor(np.zeros((1, 4, 4, 2))), bad)


# What the samples are too small for, or miss --------------------------------------------------------------------------


@pytest.mark.parametrize("images", [33, 70])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_of_more_images_than_there_are_parts(rng, images, stride):
    op = OPERATORS["depthwise_conv2d"]
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((images, 4, 5, 3), (3, 3, 3))]
    case = Case(tuple(arrays), {"stride": stride, "padding": "same"})
    _equals_definition(op, "cpu", "float32", case)


@pytest.mark.parametrize("backend", ["loops", "cpu"])
@pytest.mark.parametrize("name", [name for name in WITH_KERNELS if name not in MANY_WINDOWS])
def test_what_new_memory_holds_does_not_matter(name, backend, monkeypatch):
    """Here it holds NaN: zeros, which it often holds, would hide an element that is never written."""

    def spoilt(shape, dtype):
        return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max, dtype)

    monkeypatch.setattr(memory, "empty", spoilt)
    for seed in range(6):
        _equals_definition(OPERATORS[name], backend, "float32", OPERATORS[name].sample(RandomDraw(seed, "float32")))


GATED = [("relu", {}), *(("relu_separable_conv2d", {"stride": stride, "padding": "same"}) for stride in (1, 2))]


@pytest.mark.parametrize(
    ("name", "params", "rung"), [(name, params, rung) for name, params in GATED for rung in OPERATORS[name].rungs]
)
def test_the_gate_of_relu_is_shut_at_0(rng, name, params, rung):
    """At -1 and at 0 no gradient passes, at 1 all of it does."""
    kernels = OPERATORS[name].rungs[rung]
    x = rng.integers(-1, 2, (2, 5, 6, 3)).astype(np.float32)
    weights = () if name == "relu" else (np.ones((3, 3, 3), np.float32), np.eye(3, dtype=np.float32))
    there = to_gpu if rung.startswith("cuda") else np.asarray
    y, saved = kernels.forward(*map(there, (x, *weights)), **params)
    dx = to_cpu(kernels.backward(there(np.ones(y.shape, np.float32)), saved)[0])
    assert not dx[x <= 0].any()
    assert (dx[x > 0] > 0).all()


# Nothing ------------------------------------------------------------------------------------------------------------

TO_ALL = ("add", "subtract", "multiply", "divide", "concat", "dropout")  # every input has an entry for each image
NEED_ELEMENTS = (
    "cross_entropy",
    "binary_cross_entropy_with_logits",
    "mse_loss",
    "mean",
    "max",
    "min",
    "index",
    "reshape",
)


@pytest.mark.parametrize("backend", ["loops", "cpu", "cuda"])
@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in NEED_ELEMENTS])
def test_a_batch_without_an_image_has_the_answer_and_the_gradients_of_the_definition(name, backend):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(0))
    arrays = [a[:0] if i == 0 or name in TO_ALL else a for i, a in enumerate(case.arrays)]
    without = {3, 4} if name == "batch_norm" else op.integer_inputs  # running statistics have no gradient

    def run(backend):
        inputs = [mx.Tensor(a, requires_grad=i not in without) for i, a in enumerate(arrays)]
        with mx.use_backend(backend):
            y = op(*inputs, **case.params)
            y.backward(np.ones(y.shape))
        return [y.numpy(), *(None if t.grad is None else to_cpu(t.grad) for t in inputs)]

    for expected, got in zip(run("numpy"), run(backend), strict=True):
        assert (expected is None) == (got is None)
        if expected is not None:
            np.testing.assert_array_equal(got, expected)


def test_what_has_no_mean_is_an_error():
    x = mx.tensor(np.zeros((0, 3), np.float32))
    for call in (
        lambda: mx.cross_entropy(x, []),
        lambda: mx.binary_cross_entropy_with_logits(x, np.zeros((0, 3))),
        lambda: mx.mse_loss(x, np.zeros((0, 3))),
        lambda: mx.nn.BatchNorm2d(3)(x),
    ):
        with pytest.raises(ValueError, match=r"\(0, 3\)|labels"):
            call()
