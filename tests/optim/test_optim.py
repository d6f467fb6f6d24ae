"""Optimisers against formulas written a second time, by hand, and against numbers worked out on paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minixception import optim
from minixception.errors import ArgumentError, CheckpointError, NumericError


@dataclass
class Parameter:
    data: np.ndarray
    grad: np.ndarray | None = None


def scalar(value: float) -> Parameter:
    return Parameter(np.array([[value]]))


def run(optimizer, parameter, gradients, rates=None) -> list[float]:
    """The values of a scalar parameter after each step."""
    values = []
    for i, gradient in enumerate(gradients):
        parameter.grad = np.full_like(parameter.data, gradient)
        if rates is not None:
            optimizer.lr = rates[i]
        optimizer.step()
        values.append(parameter.data.item())
    return values


# Two steps on paper


def test_sgd_on_paper():
    w = scalar(1.0)
    assert run(optim.SGD([w], 0.1), w, [2.0, -4.0]) == pytest.approx([0.8, 1.2])


def test_momentum_on_paper_with_a_changing_rate():
    w = scalar(1.0)  # v = 2, then 0.5 * 2 - 4 = -3; Keras's rule would give 0.8 + 0.01 * 4 - 0.1 = 0.74
    assert run(optim.SGD([w], 0.1, momentum=0.5), w, [2.0, -4.0], [0.1, 0.01]) == pytest.approx([0.8, 0.83])


def test_weight_decay_on_paper():
    w = scalar(10.0)  # g = 2 + 0.5 * 10 = 7, w = 9.3; g = 2 + 0.5 * 9.3 = 6.65
    assert run(optim.SGD([w], 0.1, weight_decay=0.5), w, [2.0, 2.0]) == pytest.approx([9.3, 8.635])


def test_rmsprop_on_paper():
    w = scalar(1.0)  # s = 0.5 * 1 + 0.5 * 9 = 5, then 0.5 * 5 + 0.5 * 1 = 3; eps 4 and 1 make the roots whole
    assert run(optim.RMSprop([w], 0.1, rho=0.5, eps=4.0), w, [3.0]) == pytest.approx([1 - 0.1 * 3 / 3])
    w = scalar(1.0)  # s = 5, root 3 with eps 4, v = 0.1; lr 0.01: s = 3, v = 0.05 + 0.01 / sqrt(7)
    values = run(optim.RMSprop([w], 0.1, rho=0.5, momentum=0.5, eps=4.0), w, [3.0, 1.0], [0.1, 0.01])
    assert values == pytest.approx([0.9, 0.85 - 0.01 / 7**0.5])


def test_adam_on_paper():
    w = scalar(1.0)  # m = 1, s = 1 (corrected: 2, 2 * 2); then m = 0.5 * 1 + 0, s = 0.75 * 1 (of 1 - 0.75**2)
    values = run(optim.Adam([w], 0.1, beta1=0.5, beta2=0.75, eps=0.0), w, [2.0, 0.0])
    assert values == pytest.approx([0.9, 0.9 - 0.1 * (0.5 / 0.75) / (0.75 / 0.4375) ** 0.5])


def test_adamw_is_pytorchs():
    """torch.optim.AdamW of PyTorch 2.13, four steps of the same gradients; and two with its defaults."""
    w = Parameter(np.array([[1.0, -2.0], [0.5, 3.0]]))
    optimizer = optim.AdamW([w], lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2)
    for t, expected in enumerate(
        (
            [1.0799999, -2.0599998, 0.5899999, 2.840000033333],
            [1.122075401831, -2.118799604001, 0.675833649637, 2.719524472017],
            [1.081567867563, -2.176423411921, 0.760300755311, 2.70217748439],
            [0.997988262981, -2.232894743683, 0.844320403896, 2.719378982676],
        ),
        start=1,
    ):
        w.grad = np.array([[t - 2, 0.5], [-t, 4 - t * t]])
        optimizer.step()
        np.testing.assert_allclose(w.data.ravel(), expected, rtol=0, atol=1e-12)
    w = Parameter(np.array([[1.0, -2.0]]), np.array([[3.0, -6.0]]))
    optimizer = optim.AdamW([w])
    optimizer.step()
    optimizer.step()
    np.testing.assert_allclose(w.data, [[0.9979800101066667, -1.9979600102033337]], rtol=1e-14)


# Many steps against a second implementation

SHAPES = [(3, 3, 4), (4, 5), (5,)]


def sgd_reference(w, g, t, state, lr, mu, wd):
    g = g + wd * w
    state["v"] = mu * state.get("v", 0) + g
    return w - lr * state["v"]


def rmsprop_reference(w, g, t, state, lr, mu, wd):
    g = g + wd * w
    state["s"] = 0.9 * state.get("s", 1) + 0.1 * g**2
    state["v"] = mu * state.get("v", 0) + lr * g / (state["s"] + 1e-3) ** 0.5
    return w - state["v"]


def adam_reference(w, g, t, state, lr, mu, wd):
    g = g + wd * w
    state["m"] = mu * state.get("m", 0) + (1 - mu) * g
    state["s"] = 0.999 * state.get("s", 0) + 0.001 * g**2
    return w - lr * state["m"] / (1 - mu**t) / ((state["s"] / (1 - 0.999**t)) ** 0.5 + 1e-8)


def adamw_reference(w, g, t, state, lr, mu, wd):
    return adam_reference(w, g, t, state, lr, mu, 0) - lr * wd * w


def sgd(params, lr, mu, wd):
    return optim.SGD(params, lr, momentum=mu, weight_decay=wd)


def rmsprop(params, lr, mu, wd):
    return optim.RMSprop(params, lr, momentum=mu, eps=1e-3, weight_decay=wd)


def adam(params, lr, mu, wd):
    return optim.Adam(params, lr, beta1=mu, weight_decay=wd)


def adamw(params, lr, mu, wd):
    return optim.AdamW(params, lr, betas=(mu, 0.999), weight_decay=wd)


RULES = [(sgd, sgd_reference), (rmsprop, rmsprop_reference), (adam, adam_reference), (adamw, adamw_reference)]


@pytest.mark.parametrize(("make", "reference"), RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(mu=st.sampled_from([0.0, 0.5, 0.9]), wd=st.sampled_from([0.0, 0.01, 0.5]), seed=st.integers(0, 1000))
def test_many_steps_match_the_formula(make, reference, dtype, mu, wd, seed):
    rng = np.random.default_rng(seed)
    params = [Parameter(rng.standard_normal(shape).astype(dtype)) for shape in SHAPES]
    expected = [p.data.astype(np.float64) for p in params]
    states: list[dict] = [{} for _ in params]
    arrays = [p.data for p in params]
    optimizer = make(params, 0.1, mu, wd)
    for t in range(1, 6):
        optimizer.lr = 0.1 / t
        for i, p in enumerate(params):
            p.grad = rng.standard_normal(p.data.shape).astype(dtype)
            gradient = p.grad.copy()
            decay = wd if p.data.ndim >= 2 else 0  # kernels only
            expected[i] = reference(expected[i], gradient.astype(np.float64), t, states[i], 0.1 / t, mu, decay)
        kept = [p.grad.copy() for p in params]
        optimizer.step()
        for p, array, gradient, right in zip(params, arrays, kept, expected, strict=True):
            assert p.data is array and p.data.dtype == dtype
            assert np.array_equal(p.grad, gradient)
            tolerance = 1e-12 if dtype == np.float64 else 2e-5
            np.testing.assert_allclose(p.data, right, rtol=tolerance, atol=tolerance)


def test_decay_follows_its_predicate():
    kernel, bias = Parameter(np.ones((2, 2)), np.zeros((2, 2))), Parameter(np.ones(2), np.zeros(2))
    optim.SGD([kernel, bias], 1.0, weight_decay=0.25).step()
    assert (kernel.data == 0.75).all() and (bias.data == 1).all()
    optim.SGD([kernel, bias], 1.0, weight_decay=0.25, decay=lambda p: p is bias).step()
    assert (kernel.data == 0.75).all() and (bias.data == 0.75).all()


@pytest.mark.parametrize(("make", "_"), RULES)
def test_a_missing_gradient_is_skipped(make, _):
    without, with_gradient = scalar(1.0), scalar(1.0)
    with_gradient.grad = np.ones((1, 1))
    make([without, with_gradient], 0.1, 0.9, 0.5).step()
    assert without.data.item() == 1
    assert with_gradient.data.item() < 1


def test_zero_grad_forgets():
    w = scalar(1.0)
    optimizer = optim.SGD([w], 0.1)
    run(optimizer, w, [1.0])
    optimizer.zero_grad()
    assert w.grad is None


def test_a_step_allocates_nothing_of_a_parameters_size():
    import tracemalloc

    params = [Parameter(np.ones((512, 512)), np.ones((512, 512))) for _ in range(3)]
    for make, _ in RULES:
        optimizer = make(params, 0.1, 0.9, 0.1)
        optimizer.step()
        tracemalloc.start()
        optimizer.step()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < params[0].data.nbytes / 10


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: optim.SGD([], 0.1), "at least one parameter"),
        (lambda p: optim.SGD(p, -0.1), "learning rate in .*got -0.1"),
        (lambda p: optim.SGD(p, float("nan")), "learning rate"),
        (lambda p: optim.SGD(p, 0.1, momentum=1.0), "momentum in 0 <= value < 1, got 1.0"),
        (lambda p: optim.SGD(p, 0.1, weight_decay=-1), "weight decay"),
        (lambda p: optim.RMSprop(p, 0.1, rho=1.5), "rho"),
        (lambda p: optim.RMSprop(p, 0.1, eps=-1), "eps"),
        (lambda p: optim.Adam(p, 0.1, beta2=1), "beta2"),
        (lambda p: optim.AdamW(p, betas=(0.9, 1.0)), "beta2"),
        (lambda p: optim.AdamW(p, 0.1, 0.9), r"a pair of betas, such as \(0.9, 0.999\), got 0.9"),
        (lambda p: optim.EMA(p, 1.0), "decay"),
    ],
)
def test_numbers_out_of_range(make, words):
    with pytest.raises(ArgumentError, match=words):
        make([scalar(1.0)])


# Checkpoints


@pytest.mark.parametrize(("make", "_"), RULES)
def test_a_restored_optimizer_goes_on_bit_for_bit(make, _):
    gradients = np.random.default_rng(0).standard_normal(8)
    whole, first, second = scalar(1.0), scalar(1.0), scalar(0.0)
    expected = run(make([whole], 0.1, 0.9, 0.01), whole, gradients)
    before = make([first], 0.1, 0.9, 0.01)
    run(before, first, gradients[:4])
    state = before.state_dict()
    second.data[...] = first.data
    run(before, first, gradients[4:])  # must not reach into the state
    after = make([second], 0.1, 0.9, 0.01)
    after.load_state_dict(state)
    assert run(after, second, gradients[4:]) == expected[4:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("velocity/1"), "missing 'velocity/1'"),
        (lambda s: s.update({"square/0": np.ones(1)}), "surplus 'square/0'"),
        (
            lambda s: s.update({"velocity/0": np.ones((1, 2))}),
            r"shape \(1, 1\) as 'velocity/0' of SGD, got .*\(1, 2\)",
        ),
        (lambda s: s.update({"velocity/0": np.ones((1, 1), np.float32)}), "float64 .* got float32"),
    ],
)
def test_a_foreign_state_is_refused_whole(change, words):
    a, b = scalar(1.0), scalar(2.0)
    optimizer = optim.SGD([a, b], 0.1, momentum=0.9)
    state = optimizer.state_dict()
    state["steps"] = np.array(7)
    state["velocity/1"] = np.full((1, 1), 5.0)
    change(state)
    with pytest.raises(CheckpointError, match=words):
        optimizer.load_state_dict(state)
    assert optimizer.steps == 0
    assert all((array == 0).all() for array in optimizer.state_dict().values())


# Clipping


@given(seed=st.integers(0, 100), max_norm=st.floats(0.01, 100))
def test_clipping_keeps_the_direction_and_bounds_the_norm(seed, max_norm):
    rng = np.random.default_rng(seed)
    params = [Parameter(np.zeros(s), rng.standard_normal(s)) for s in SHAPES] + [Parameter(np.zeros(2))]
    before = np.concatenate([p.grad.ravel() for p in params if p.grad is not None])
    norm = optim.clip_grad_norm(params, max_norm)
    after = np.concatenate([p.grad.ravel() for p in params if p.grad is not None])
    assert norm == pytest.approx(np.linalg.norm(before))
    np.testing.assert_allclose(after, before * min(1, max_norm / norm), rtol=1e-12)


def test_the_norm_is_accumulated_in_float64():
    many = Parameter(np.zeros(1), np.full(2**22, 1e-3, np.float32))
    huge = Parameter(np.zeros(1), np.full(4, 1e25, np.float32))
    assert optim.clip_grad_norm([many], 1e9) == pytest.approx(2**11 * float(np.float32(1e-3)), rel=1e-9)
    assert optim.clip_grad_norm([huge], 1e30) == pytest.approx(2e25)
    assert huge.grad is not None and huge.grad.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_clipping_reports_a_gradient_that_is_not_finite(value):
    p = Parameter(np.zeros(2), np.array([1.0, value]))
    with pytest.raises(NumericError, match="finite gradients"):
        optim.clip_grad_norm([p], 0.5)
    assert p.grad is not None and p.grad[0] == 1


@pytest.mark.parametrize("max_norm", [0, -1, np.nan])
def test_clipping_rejects_a_bound(max_norm):
    with pytest.raises(ArgumentError, match="max_norm above 0"):
        optim.clip_grad_norm([scalar(1.0)], max_norm)


# Schedules


def test_the_papers_schedules():
    imagenet = optim.ExponentialDecay(0.045, 0.94, every_epochs=2)
    assert [imagenet(e, 10**9) for e in (0, 1, 2, 4)] == pytest.approx([0.045, 0.045 * 0.94**0.5, 0.0423, 0.039762])
    jft = optim.ExponentialDecay(0.001, 0.9, every_samples=3_000_000)
    assert [jft(99, s) for s in (0, 3_000_000, 4_500_000)] == pytest.approx([0.001, 0.0009, 0.001 * 0.9**1.5])


def test_a_staircase_holds_its_steps():
    decay = optim.ExponentialDecay(1.0, 0.5, every_epochs=2, staircase=True)
    assert [decay(e, 0) for e in (0, 1.99, 2, 3.99, 4)] == [1, 1, 0.5, 0.5, 0.25]


def test_cosine_on_paper():
    cosine = optim.Cosine(1.1, epochs=10, warmup_epochs=4, final_lr=0.1)
    values = [cosine(e, 0) for e in (0, 2, 4, 6, 7, 8, 10, 99)]
    assert values == pytest.approx([0.1, 0.6, 1.1, 0.85, 0.6, 0.35, 0.1, 0.1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.ExponentialDecay(0.1, 0.9),
        lambda: optim.ExponentialDecay(0.1, 0.9, every_epochs=1, every_samples=1),
        lambda: optim.ExponentialDecay(0.1, 0.9, every_epochs=0),
        lambda: optim.ExponentialDecay(0.1, 1.1, every_epochs=1),
        lambda: optim.ExponentialDecay(-0.1, 0.9, every_epochs=1),
        lambda: optim.Cosine(0.1, epochs=5, warmup_epochs=5),
        lambda: optim.Cosine(0.1, epochs=5, final_lr=0.2),
    ],
)
def test_schedules_reject(make):
    with pytest.raises(ArgumentError, match="expected"):
        make()


# Averaged weights


def test_ema_on_paper():
    w = scalar(0.0)
    ema = optim.EMA([w], decay=0.15)
    averages = []
    for value in (10.0, 20.0, 30.0):  # d = 1/10, then 2/11 and 3/12, which 0.15 bounds
        w.data[...] = value
        ema.update()
        averages.append(ema.state_dict()["average/0"].item())
    assert averages == pytest.approx([9, 0.15 * 9 + 0.85 * 20, 0.15 * 18.35 + 0.85 * 30])


def test_averaged_swaps_in_and_back_even_after_an_error():
    params = [Parameter(np.random.default_rng(i).standard_normal((3, 4)).astype(np.float32)) for i in range(2)]
    ema = optim.EMA(params, decay=0.9)
    for p in params:
        p.data += 1
    ema.update()
    arrays, before = [p.data for p in params], [p.data.copy() for p in params]
    averages = ema.state_dict()
    with pytest.raises(KeyError), ema.averaged():
        for i, p in enumerate(params):
            assert p.data is arrays[i]
            assert np.array_equal(p.data, averages[f"average/{i}"]) and not np.array_equal(p.data, before[i])
            p.data += 1  # no evaluation should, and it must not reach the average
        raise KeyError
    for i, p in enumerate(params):
        assert p.data is arrays[i] and np.array_equal(p.data, before[i])
        assert np.array_equal(ema.state_dict()[f"average/{i}"], averages[f"average/{i}"])


def test_ema_goes_on_bit_for_bit_from_its_state():
    rng = np.random.default_rng(0)
    w = Parameter(rng.standard_normal((4, 4)))
    ema = optim.EMA([w], decay=0.9)
    ema.update()
    state = ema.state_dict()
    other = optim.EMA([w], decay=0.9)
    other.load_state_dict(state)
    w.data += rng.standard_normal((4, 4))
    ema.update()
    other.update()
    for name, array in ema.state_dict().items():
        assert np.array_equal(array, other.state_dict()[name])
    with pytest.raises(CheckpointError, match="missing 'average/0'"):
        other.load_state_dict({"updates": np.array(3)})


# Arrays of more than one chunk, which the threads share out ----------------------------------------------------------


@pytest.mark.parametrize("size", [16_384, 16_385, 32_768, 50_001])
@pytest.mark.parametrize(("make", "reference"), RULES)
def test_every_element_of_a_large_parameter_is_updated_once(make, reference, size):
    rng = np.random.default_rng(size)
    w, g = rng.standard_normal((size, 1)), rng.standard_normal((size, 1))
    p, state = Parameter(w.copy()), {}
    optimizer = make([p], 0.1, 0.9, 0.01)
    for t in (1, 2):
        p.grad = g.copy()
        w = reference(w, g, t, state, 0.1, 0.9, 0.01)
        optimizer.step()
    np.testing.assert_allclose(p.data, w, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [16_385, 50_001])
def test_a_large_average_moves_whole(size):
    rng = np.random.default_rng(size)
    p = Parameter(rng.standard_normal(size))
    ema, before = optim.EMA([p], decay=0.05), p.data.copy()
    p.data += rng.standard_normal(size)
    ema.update()
    np.testing.assert_allclose(ema.state_dict()["average/0"], 0.05 * before + 0.95 * p.data, rtol=1e-12, atol=1e-12)
