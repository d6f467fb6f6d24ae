"""``mx.lab.check``: right answers pass, each kind of wrong one is told apart, and races are found for certain."""

import inspect
import re
import sys
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from numba import njit

import minixception as mx
from minixception import timing
from minixception.bench import limits
from minixception.bench.limits import Limits
from minixception.course import checks, own_kernel
from minixception.course.checks import (
    Choice,
    CudaKernel,
    Function,
    Mistake,
    Number,
    WrongNumber,
    cuda_kernel,
    rungs,
)
from minixception.engine.op import Case
from minixception.errors import ArgumentError
from minixception.ops.depthwise import definition as depthwise
from minixception.ops.pointwise import definition as pointwise
from minixception.timing import Timing


def product(x, w):
    return x @ w


def two_matrices(draw):
    n, k, m = (draw.integer(2, 6) for _ in range(3))
    return Case((draw.normal(n, k), draw.normal(k, m)))


RETURNS = Function(
    name="product",
    notebook=5,
    title="A matrix product",
    reference=product,
    draw=two_matrices,
    mistakes=(Mistake(lambda x, w: 2 * (x @ w), "Once is enough."),),
)


def squares(x):
    return x * x


BACKWARD = Function(
    name="squares",
    notebook=1,
    title="t",
    reference=lambda dy, x: (2 * dy * x).astype(x.dtype),
    forward=squares,
    results=("dx",),
    draw=lambda draw: Case((draw.normal(3, 2), draw.normal(3, 2))),
)


def empty(x, w):
    raise NotImplementedError("your code here")


def not_known_to_numba(x, w):
    raise NotImplementedError("no such operator")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, w: 2 * (x @ w), "Once is enough"),
        (lambda x, w: x @ w + 1, "the definition says"),
        (lambda x, w: (x @ w).astype(np.float64), "float64 creep in"),
        (lambda x, w: (x @ w)[:1], "should have shape"),
        (lambda x, w: (x @ w, x), "returns 2 results"),
        (lambda x, w: (x @ w).tolist(), "returns"),
        (lambda x, w: x @ w @ w, "It raised"),
        (not_known_to_numba, "It raised NotImplementedError: no such operator"),
        (lambda x, w: x.fill(1) or x @ w, "It changes its inputs"),
        (lambda x, w: np.full_like(x @ w, np.nan), "is nan"),
        (lambda x, w: print(end=""), "It returns None"),
        (lambda x, w: sys.exit(), "It raised SystemExit"),
    ],
)
def test_wrong_functions_are_told_apart(answer, words):
    verdict = RETURNS.judge(answer, time=False)
    assert verdict.passed is False
    assert words in str(verdict)


def with_a_docstring(x, w):
    """The product."""


@pytest.mark.parametrize("answer", [empty, lambda x, w: None, lambda x, w: ..., with_a_docstring, njit(empty)])
def test_a_stub_is_not_attempted(answer):
    assert RETURNS.judge(answer, time=False).passed is None


@pytest.mark.parametrize("answer", [lambda x, w: np.asfortranarray(x @ w), lambda x, w: (w.T @ x.T).T])
def test_the_layout_counts_where_the_exercise_is_about_it(answer):
    assert RETURNS.judge(answer, time=False)
    assert "np.ascontiguousarray" in replace(RETURNS, contiguous=True).judge(answer, time=False).hint


def test_values_that_differ_are_written_so_that_they_differ():
    verdict = RETURNS.judge(lambda x, w: x @ w * (1 + 1e-8), time=False)
    got, right = re.search(r"is (\S+), and the definition says (\S+)\.", verdict.message).groups()
    assert got != right and float(got) == pytest.approx(float(right), rel=2e-8)


FIXED = [(dtype, seed) for dtype in ("float64", "float32") for seed in range(6)]


def test_an_answer_that_remembers_is_found_out():
    kept = []

    def first_result_of_all(x, w):
        kept.append(x @ w)
        return kept[-1] if len(kept) <= len(FIXED) + 2 else kept[0] + 1  # a fresh draw in each of two dtypes

    verdict = RETURNS.judge(first_result_of_all, time=False)
    assert "Called again" in verdict.message and "from one call to the next" in verdict.hint


def test_a_table_of_the_fixed_answers_does_not_pass():
    cases = [two_matrices(mx.engine.op.RandomDraw(seed, dtype)).arrays for dtype, seed in FIXED]
    table = {x.tobytes(): x @ w for x, w in cases}
    assert RETURNS.judge(lambda x, w: table.get(x.tobytes(), 0 * x @ w), time=False).passed is False


def test_corners_are_told_apart_from_what_is_wrong_everywhere():
    corners = replace(RETURNS, corners=lambda draw: [Case((draw.normal(1, 17), draw.normal(17, 1)))])
    assert corners.judge(product, time=False)
    short = corners.judge(lambda x, w: x[:, :16] @ w[:16], time=False)
    assert "1x17 and 17x1" in short.message


def by_the_package(x, w):
    return mx.ops.pointwise_conv2d(mx.tensor(x[:, None, None]), mx.tensor(w)).numpy()[:, 0, 0]


def test_operators_of_the_package_are_not_there_to_be_called():
    verdict = RETURNS.judge(by_the_package, time=False)
    assert verdict.passed is False and "It calls the package's operator pointwise_conv2d, stride=1" in verdict.message
    assert replace(RETURNS, allows=lambda name, params: params["stride"] == 1).judge(by_the_package, time=False)


FILLED = replace(RETURNS, fills=True)


def rebinds(x, w, y):
    y = x @ w  # noqa: F841


def adds_before_it_sets(x, w, y):
    y += x @ w


@pytest.mark.parametrize("answer", [rebinds, adds_before_it_sets])
def test_nothing_written_is_a_mistake_and_not_an_empty_cell(answer):
    verdict = FILLED.judge(answer, time=False)
    assert verdict.passed is False and "nan everywhere" in verdict.message and "y[...] = ..." in verdict.hint
    hint = replace(FILLED, results=("dw",)).judge(answer, time=False).hint
    assert "dw = ... gives the name dw to a new array; dw[...] = ... writes" in hint


def mixed(x, w, y):
    y[:] = 0
    y[0] = x[0] + "a"


def unknown(x, w, y):
    y[:] = x.reshap(2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (mixed, "add(array(float64, 1d, C), Literal[str](a)), in line"),
        (unknown, "Unknown attribute 'reshap' of type array(float64, 2d, C), in line"),
    ],
)
def test_a_typing_error_tells_the_cause_and_the_line(answer, words):
    message = FILLED.judge(njit(answer), time=False).message
    assert words in message and inspect.getsource(answer).splitlines()[-1].strip() in message
    assert "There are" not in message and "During" not in message


def test_an_error_of_python_tells_the_line():
    message = RETURNS.judge(raises_below, time=False).message
    assert "`return table[x.shape]`" in message and "KeyError" in message


def raises_below(x, w):
    return look_up(x)


def look_up(x):
    table = {}
    return table[x.shape]


def test_an_uncompiled_kernel_is_right_and_not_timed(monkeypatch):
    monkeypatch.setattr(timing, "interleaved", lambda *_, **__: pytest.fail("it was timed"))
    exercise = replace(FILLED, peers=partial(rungs, "linear"), timed=lambda: pytest.fail("it was timed"))
    verdict = exercise.judge(in_loops, time=True)
    assert verdict and verdict.times is None and "With @njit" in verdict.message


def in_loops(x, w, y):
    for i in range(len(x)):
        y[i] = x[i] @ w


def test_the_result_of_the_timed_shape_is_compared(monkeypatch):
    monkeypatch.setattr(timing, "interleaved", lambda *_, **__: pytest.fail("it was timed"))
    large = Case((np.ones((2, 300), np.float32), np.ones((300, 2), np.float32)))
    exercise = replace(RETURNS, peers=partial(rungs, "linear"), timed=lambda: large)
    verdict = exercise.judge(lambda x, w: x[:, :256] @ w[:256], time=True)
    assert verdict.passed is False and "the shape that is timed" in verdict.message


def test_a_crash_after_the_verdict_is_none_of_the_verdict():
    heard = []
    exercise = replace(RETURNS, peers=partial(rungs, "linear"), timed=lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exercise.judge(product, time=True, report=lambda doing, so_far=None: heard.append((doing, so_far)))
    assert heard[-1][0] == "timed" and heard[-1][1].passed
    assert heard[0] == ("run on 6x5 and 5x4 float64", None)


def test_a_mistake_that_gives_nan_is_known():
    overflow = Mistake(lambda x, w: np.full(x.shape, np.nan, x.dtype), "Subtract the maximum.")
    exercise = replace(RETURNS, reference=lambda x, w: x, mistakes=(overflow,))
    assert exercise.judge(lambda x, w: x * np.nan, time=False).hint == "Subtract the maximum."


def test_a_wrong_gradient_is_held_against_finite_differences():
    verdict = BACKWARD.judge(lambda dy, x: dy * x, time=False)
    case = BACKWARD.draw(mx.engine.op.RandomDraw(0, "float64"))
    dy, x = case.arrays
    index = np.unravel_index(np.argmax(np.abs(dy * x)), x.shape)
    assert f"finite differences say {2 * dy[index] * x[index]:.4g}"[:-1] in verdict.message
    assert BACKWARD.judge(lambda dy, x: 2 * dy * x, time=False)


@pytest.mark.parametrize("fills", [False, True])
def test_the_time_of_an_answer_is_that_of_its_bare_call(monkeypatch, fills):
    case, calls = two_matrices(mx.engine.op.RandomDraw(0)), []

    def reference(x, w):
        calls.append("reference")
        return x @ w

    def answer(x, w, *filled):
        calls.append("not copied" if x is case.arrays[0] else "copied")
        if not filled:
            return x @ w
        filled[0][...] = x @ w

    def interleaved(functions, repeats):
        calls.clear()
        functions["yours"]()
        assert calls == ["not copied"]
        return dict.fromkeys(functions, Timing(1.0, 1.0, 1.0))

    monkeypatch.setattr(timing, "interleaved", interleaved)
    monkeypatch.setattr(checks.function, "is_compiled", lambda answer: True)
    exercise = replace(RETURNS, reference=reference, fills=fills, peers=partial(rungs, "linear"), timed=lambda: case)
    assert [row[0] for row in exercise.judge(answer, time=True).times.rows] == ["yours", "loops", "cpu"]


# Numbers, choices, CUDA kernels ------------------------------------------------------------------------------------


NUMBER = Number(
    name="n",
    notebook=2,
    title="t",
    expected=lambda: 100,
    why="Because.",
    within=0.1,
    mistakes=(WrongNumber(50, "Double."),),
)
CHOICE = Choice(
    name="c", notebook=2, title="t", options={"a": "up", "b": "down"}, right="b", why="Yes.", hints={"a": "Look again."}
)


@pytest.mark.parametrize(
    ("exercise", "answer", "passed", "words"),
    [
        (NUMBER, 100, True, "Because"),
        (NUMBER, np.int64(95), True, "Because"),
        (NUMBER, 50, False, "Double"),
        (NUMBER, 120, False, "too large"),
        (NUMBER, 80.0, False, "too small"),
        (NUMBER, Fraction(100), True, "Because"),
        (NUMBER, Decimal("100.0"), True, "Because"),
        (NUMBER, np.array(100), True, "Because"),
        (NUMBER, float("nan"), False, "nan is not a number"),
        (NUMBER, float("inf"), False, "too large"),
        (NUMBER, None, None, ""),
        (CHOICE, "b", True, "Yes"),
        (CHOICE, "a", False, "Look again"),
        (CHOICE, "", None, ""),
        (CHOICE, "B", True, "Yes"),
        (CHOICE, " (b). ", True, "Yes"),
        (CHOICE, "A.", False, "Look again"),
    ],
)
def test_numbers_and_choices(exercise, answer, passed, words):
    verdict = exercise.judge(answer, time=False)
    assert verdict.passed is passed and words in str(verdict)


cuda, dtype = mx.lab.cuda, mx.lab.dtype
REVERSE = CudaKernel(
    name="reverse",
    notebook=7,
    title="t",
    reference=lambda x: x[::-1].copy(),
    draw=lambda draw: Case((draw.normal(draw.integer(33, 64)),)),
    launch=lambda case, shape: (1, 64),
    mistakes=(Mistake(lambda x: x, "Which end?"),),
    too_much=lambda counts, outputs: ("it reads", "Read each number once.") if counts.global_reads > outputs else None,
)


def through_shared(barrier):
    @cuda_kernel
    def kernel(x, y):
        tile = cuda.shared.array(64, dtype)
        i = cuda.threadIdx.x
        if i < x.size:
            tile[i] = x[i]
        if barrier:
            cuda.syncthreads()
        if i < x.size:
            y[i] = tile[x.size - 1 - i]

    return kernel


@cuda_kernel
def twice(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[x.size - 1 - i] + (x[i] - x[i])


@cuda_kernel
def beyond(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[x.size - i]


@cuda_kernel
def straight(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = x[i]


@cuda_kernel
def does_not_touch(x, y):
    i = cuda.grid(1)
    y = x  # noqa: F841
    i += 1


@cuda_kernel
def touches_nothing(x, y):
    pass


@pytest.mark.parametrize(
    ("kernel", "passed", "words"),
    [
        (through_shared(True), True, "1.00 global reads per output"),
        (through_shared(False), False, "There is a race"),
        (beyond, False, "outside of an array"),
        (straight, False, "Which end?"),
        (twice, False, "Read each number once"),
        (does_not_touch, False, "neither reads nor writes"),
        (touches_nothing, None, ""),
        (None, None, ""),
    ],
)
def test_cuda_kernels(kernel, passed, words):
    verdict = REVERSE.judge(kernel, time=False)
    assert verdict.passed is passed and words in str(verdict)


@pytest.mark.parametrize(
    ("exercise", "answer", "words"),
    [
        (NUMBER, "100", "a number, got str"),
        (NUMBER, [1], "a number, got list"),
        (NUMBER, 1j, "a number, got complex"),
        (NUMBER, np.ones(1), "a number, got ndarray"),
        (CHOICE, "z", "one of a, b, got 'z'"),
        (CHOICE, 1, "one of a, b, got 1"),
        (CHOICE, ["b"], r"one of a, b, got \['b'\]"),
        (RETURNS, 5, "a function, got int"),
        (REVERSE, 5, "a function or a cuda_kernel, got int"),
        (REVERSE, njit(squares), "a function or a cuda_kernel, got CPUDispatcher"),
    ],
)
def test_answers_of_the_wrong_type_are_errors(exercise, answer, words):
    with pytest.raises(ArgumentError, match=f"the answer must be {words}"):
        exercise.judge(answer, time=False)


def test_a_student_s_kernel_is_not_one_of_ours():
    from minixception.gpu.kernel import KERNELS

    assert not any("test_lab_checks" in name for name in KERNELS)


# Own kernels -------------------------------------------------------------------------------------------------------


def wrong_side(x, w, *, stride, padding):
    y = depthwise.forward_numpy(x, w[::-1], stride=stride, padding=padding)[0]
    return y


def test_check_kernel_tells_right_from_wrong():
    assert mx.lab.check_kernel("depthwise", depthwise.forward_numpy, time=False)
    assert mx.lab.check_kernel("pointwise_conv2d", pointwise.forward_numpy, time=False)
    assert "the definition says" in mx.lab.check_kernel("depthwise", wrong_side, time=False).message


def test_check_kernel_sees_inputs_that_are_changed():
    def careless(x, **params):
        y, saved = mx.ops.OPERATORS["relu"].rungs["numpy"].forward(x, **params)
        x[:] = 0
        return y, saved

    assert "It changes its inputs" in mx.lab.check_kernel("relu", careless, time=False).message


def test_check_kernel_shows_the_times_of_our_rungs(monkeypatch):
    monkeypatch.setattr(own_kernel, "judge", lambda exercise, answer, time: exercise.judge(answer, time))  # in here
    monkeypatch.setattr(timing, "interleaved", lambda functions, repeats: dict.fromkeys(functions, Timing(1, 1, 1)))
    monkeypatch.setattr(limits, "measure", lambda *_, **__: Limits(1, "float32", 1e9, 1e9, 1e9, 1e9, {1: 1e9}))
    times = mx.lab.check_kernel("depthwise", depthwise.forward_numpy).times
    assert [row[0] for row in times.rows] == ["yours", "numpy", "loops", "cpu"]
    assert "% of the limit" in times.header[-1] and "1 thread" in times.header[0]


@pytest.mark.parametrize("operator", ["depthwise", "pointwise"])
def test_the_network_uses_an_own_kernel_and_gives_it_back(operator):
    reference = {"depthwise": depthwise, "pointwise": pointwise}[operator]
    calls = []

    def forward(*arrays, **params):
        calls.append(arrays[0].shape)
        return reference.forward_numpy(*arrays, **params)[0]

    model = mx.models.mini_xception(10, (8, 16), 1, 8)
    x = mx.tensor(np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32))
    labels = np.array([1, 2])

    def run():
        model.zero_grad()
        loss = mx.cross_entropy(model(x), labels)
        loss.backward()
        return [loss.numpy(), *(p.grad for p in model.parameters())]

    expected = run()
    with mx.lab.use_kernel(operator, forward, reference.backward_numpy):
        got = run()
    assert len(calls) >= 4
    for ours, theirs in zip(expected, got, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)
    before = len(calls)
    run()
    assert len(calls) == before


def test_an_own_kernel_that_is_never_called_is_told():
    compiled = mx.compile(mx.models.mini_xception(10, (8, 16), 1, 8).eval())
    with (
        pytest.raises(ArgumentError, match="the kernel for depthwise_conv2d was never called in this block"),
        mx.lab.use_kernel("depthwise", depthwise.forward_numpy),
    ):
        compiled(np.zeros((1, 16, 16, 3), np.float32))
    with pytest.raises(KeyError), mx.lab.use_kernel("depthwise", depthwise.forward_numpy):
        raise KeyError  # what went wrong in the block is what is told


def test_our_kernel_runs_beside_an_own_one_only_for_a_backward_pass(monkeypatch):
    op, calls = mx.ops.OPERATORS["depthwise_conv2d"], []
    ours = op.rungs["cpu"]

    def counted(*arrays, **params):
        calls.append(params)
        return ours.forward(*arrays, **params)

    monkeypatch.setitem(op.rungs, "cpu", replace(ours, forward=counted))
    x = mx.tensor(np.ones((1, 4, 4, 2), np.float32), requires_grad=True)
    w = mx.tensor(np.ones((3, 3, 2), np.float32))
    with mx.lab.use_kernel("depthwise", lambda *arrays, **params: depthwise.forward_numpy(*arrays, **params)[0]):
        y = mx.ops.depthwise_conv2d(x, w)
        assert not calls
        y.backward(np.ones(y.shape, np.float32))
        assert calls == [{"stride": 1, "padding": "same"}]


def test_unknown_names_are_errors():
    for name in ("none", ["softmax"]):
        with pytest.raises(ArgumentError, match="exercise must be one of"):
            mx.lab.check(name)
    with pytest.raises(ArgumentError, match="operator must be one of"):
        mx.lab.check_kernel("none", squares)
    with pytest.raises(ArgumentError, match="forward must be a function, got int"):
        mx.lab.check_kernel("relu", 5)
    for wrong in (("none",), ("relu", "gpu"), ("relu", "cpu", "sideways"), (3,)):
        with pytest.raises(ArgumentError):
            mx.lab.source(*wrong)


def test_source_is_that_of_the_rung():
    assert "def forward_numpy" in repr(mx.lab.source("depthwise_conv2d", "numpy"))
    assert "def backward_numpy" in repr(mx.lab.source("depthwise_conv2d", "numpy", "backward"))
    assert "x * x" in mx.lab.source(njit(squares))._repr_markdown_()
    assert "cuda.grid" in repr(mx.lab.source(twice))
