"""The GPU's rungs: the walk over the operator table, tensors and models on the device, and a training run there.

Everything runs in Numba's simulator, where a CUDA thread is a Python thread; with MINIXCEPTION_CUDA set to nothing, on
a GPU: `MINIXCEPTION_CUDA= pytest -m gpu`.
"""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception.engine.op import RandomDraw
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, BackendError, GraphError
from minixception.gpu import device
from minixception.gpu import kernel as gpu
from minixception.ops import OPERATORS
from tests.helpers.cases import DEFINITION_ALONE
from tests.helpers.processes import python

pytestmark = pytest.mark.gpu
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
RUNGS = [(name, rung) for name, op in OPERATORS.items() for rung in op.rungs if rung.startswith("cuda")]


def _on_gpu(value):
    """Arrays in tuples and lists, moved."""
    if isinstance(value, tuple | list):
        return type(value)(map(_on_gpu, value))
    return device.to_gpu(value) if isinstance(value, np.ndarray) else value


def _assert_close(got, expected):
    expected = np.asarray(expected)
    assert device.is_on_gpu(got)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    tolerance = TOLERANCE[expected.dtype.name]
    np.testing.assert_allclose(device.to_cpu(got), expected, rtol=tolerance, atol=tolerance)


# The table of operators -----------------------------------------------------------------------------------------------


def test_every_operator_has_a_kernel_but_those_that_are_the_definition_alone():
    assert {name for name, op in OPERATORS.items() if "cuda" not in op.rungs} == DEFINITION_ALONE


@pytest.mark.parametrize("name", sorted(DEFINITION_ALONE))
def test_a_definition_alone_serves_tensors_of_the_gpu(name):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(2))
    results = []
    for where in device.DEVICES:
        inputs = [
            Tensor(device.to(a, where), requires_grad=i not in op.integer_inputs) for i, a in enumerate(case.arrays)
        ]
        y = op(*inputs, **case.params)
        y.backward(np.ones(y.shape))
        assert y.device == where
        results.append([y.numpy(), *(None if t.grad is None else device.to_cpu(t.grad) for t in inputs)])
    np.testing.assert_equal(*results)


@pytest.mark.parametrize(
    ("name", "rung", "dtype"),
    [
        pytest.param(*case, dtype, marks=pytest.mark.slow if dtype == "float64" else ())  # as is gradcheck, below
        for case in RUNGS
        for dtype in TOLERANCE
    ],
)
def test_rung_equals_definition(name, rung, dtype):
    op = OPERATORS[name]
    for seed in range(2 if rung == "cuda" else 1):  # the simulator is slow
        case = op.sample(RandomDraw(seed, dtype))
        y, saved = op.rungs["numpy"].forward(*case.arrays, **case.params)
        arrays = [device.to_gpu(a) for a in case.arrays]
        got, got_saved = op.rungs[rung].forward(*arrays, **case.params)
        _assert_close(got, y)
        dy = np.asarray(np.random.default_rng(seed).standard_normal(np.shape(y)), dtype)
        gradients = op.rungs["numpy"].backward(dy, saved)
        for used in (got_saved, _on_gpu(saved)):  # any backward works with what any forward saved
            for got_gradient, gradient in zip(op.rungs[rung].backward(device.to_gpu(dy), used), gradients, strict=True):
                if gradient is None:
                    assert got_gradient is None
                else:
                    _assert_close(got_gradient, gradient)
        for array, original in zip(arrays, case.arrays, strict=True):
            np.testing.assert_array_equal(device.to_cpu(array), original)  # inputs are never written to


@pytest.mark.slow  # the same gradients meet the definition's above, which are gradchecked
@pytest.mark.parametrize("name", OPERATORS)
def test_gradcheck(name):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(3, "float64"))
    y, saved = op.rungs["numpy"].forward(*case.arrays, **case.params)
    wanted = [g is not None for g in op.rungs["numpy"].backward(np.ones_like(y), saved)]
    inputs = [Tensor(a, w) for a, w in zip(case.arrays, wanted, strict=True)]
    with mx.use_backend("cuda"):
        mx.gradcheck(lambda *xs: op(*xs, **case.params), inputs)


@pytest.mark.parametrize(
    "name", [name for name, op in OPERATORS.items() if op.rungs["cpu" if "cpu" in op.rungs else "numpy"].selective]
)
def test_selective_backward_computes_only_what_is_wanted(name):
    op = OPERATORS[name]
    case = op.sample(RandomDraw(5))
    rung = op.rungs["cuda"]
    y, saved = rung.forward(*map(device.to_gpu, case.arrays), **case.params)
    dy = device.to_gpu(np.ones(y.shape, y.dtype))
    everything = rung.backward(dy, saved)
    for only in range(len(case.arrays)):
        wanted = tuple(i == only for i in range(len(case.arrays)))
        some = rung.backward(dy, saved, wanted=wanted)
        assert [g is None for g in some[:2]] == [not w for w in wanted[:2]]
        np.testing.assert_array_equal(device.to_cpu(some[only]), device.to_cpu(everything[only]))


# Tensors and models ---------------------------------------------------------------------------------------------------


def test_tensors_go_there_and_back():
    x = mx.tensor([[1.0, -2.0], [3.0, 4.0]], requires_grad=True)
    there = x.to("cuda")
    assert (x.device, there.device, there.requires_grad) == ("cpu", "cuda", True)
    np.testing.assert_array_equal(there.numpy(), x.numpy())
    assert there.to("cuda") is there
    np.testing.assert_array_equal(there.to("cpu").data, x.data)
    assert "[[ 1. -2.]" in repr(there)
    y = mx.ops.relu(there)
    assert y.device == "cuda"  # operators run where their inputs are
    with pytest.raises(GraphError, match="is for leaves: this tensor was computed by relu"):
        y.to("cpu")
    with pytest.raises(ArgumentError, match="device must be one of cpu, cuda, got 'tpu'"):
        x.to("tpu")


def test_gradients_are_where_their_leaves_are():
    leaf = mx.tensor([1.0, -2.0, 3.0], requires_grad=True)
    there = mx.tensor([1.0, -2.0, 3.0], requires_grad=True).to("cuda")
    y = mx.ops.relu(there) + mx.ops.relu(there)  # two gradients meet
    y.backward(np.ones(3))
    assert device.is_on_gpu(there.grad)
    np.testing.assert_array_equal(device.to_cpu(there.grad), [2, 0, 2])
    with mx.use_backend("cuda"):
        y = mx.ops.relu(leaf)
    assert y.device == "cuda"
    y.backward(np.ones(3))
    np.testing.assert_array_equal(leaf.grad, [1, 0, 1])
    assert isinstance(leaf.grad, np.ndarray)


def test_a_model_moves_and_its_weights_are_read_and_written(tmp_path):
    model = mx.nn.Sequential(mx.nn.PointwiseConv2d(3, 4), mx.nn.BatchNorm2d(4))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    assert model.to("cuda") is model
    assert {t.device for _, t in model.named_tensors()} == {"cuda"}
    model.save_weights(tmp_path / "w.safetensors")
    for _, t in model.named_tensors():
        device.assign(t.data, np.zeros(t.shape, t.dtype))
    model.load_weights(tmp_path / "w.safetensors")
    for name, array in model.to("cpu").state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.slow  # tests/training/test_device_option.py trains there too, a few steps
@pytest.mark.parametrize(("steps", "lr"), [(4, 0.3), (20, 0.05)])
def test_a_model_trains_there_as_it_does_here(steps, lr):
    """A tiny mini_xception: the losses of both devices, and the weights after them."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    labels = np.array([0, 2])
    losses, weights = {}, {}
    for where in ("cpu", "cuda"):
        mx.seed(0)
        model = mx.models.mini_xception(3, widths=(4,), middle_blocks=0, stem=4, input_shape=(4, 4, 3)).to(where)
        optimizer = mx.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
        x = mx.tensor(images).to(where)
        losses[where] = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = mx.cross_entropy(model(x), labels)
            assert loss.device == where
            loss.backward()
            optimizer.step()
            losses[where].append(loss.item())
        weights[where] = model.to("cpu").state_dict()
    np.testing.assert_allclose(losses["cuda"], losses["cpu"], rtol=1e-5, atol=1e-5)
    assert losses["cuda"][-1] < 0.5 * losses["cuda"][0]
    for name, array in weights["cpu"].items():
        np.testing.assert_allclose(weights["cuda"][name], array, rtol=1e-3, atol=1e-4)


RULES = {
    "sgd": lambda p: mx.optim.SGD(p, lr=0.1, weight_decay=0.01),
    "momentum": lambda p: mx.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "rmsprop": lambda p: mx.optim.RMSprop(p, lr=0.1, weight_decay=0.01),
    "rmsprop with momentum": lambda p: mx.optim.RMSprop(p, lr=0.1, momentum=0.9),
    "adam": lambda p: mx.optim.Adam(p, lr=0.1, weight_decay=0.01),
    "adamw": lambda p: mx.optim.AdamW(p, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("rule", RULES)
def test_optimisers_averages_and_clipping_do_the_same_there(rule):
    rng = np.random.default_rng(1)
    values, gradients = rng.standard_normal((3, 5)), rng.standard_normal((3, 3, 5))
    results = []
    for where in device.DEVICES:
        p = Tensor(device.to(values.copy(), where), requires_grad=True)
        optimizer, ema = RULES[rule]([p]), mx.optim.EMA([p], decay=0.9)
        for gradient in gradients:
            p.grad = device.to(gradient.copy(), where)
            norm = mx.optim.clip_grad_norm([p], 1.0)
            optimizer.step()
            ema.update()
        with ema.averaged():
            mean = p.numpy().copy()
        state = optimizer.state_dict() | ema.state_dict()
        again = RULES[rule]([p])
        again.load_state_dict(optimizer.state_dict())
        results.append([p.numpy(), mean, norm, *state.values(), *again.state_dict().values()])
    for here, there in zip(*results, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-12, atol=1e-12)


# Choosing it ----------------------------------------------------------------------------------------------------------


def test_importing_the_package_leaves_cuda_alone():
    done = python("-c", "import minixception, sys; print('numba.cuda' in sys.modules)")
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.environ['MINIXCEPTION_CUDA'] = 'emulator'", "must be 'simulator' or empty, got 'emulator'"),
        ("import numba.cuda", "MINIXCEPTION_CUDA=simulator comes too late: numba.cuda was imported before"),
    ],
)
def test_a_wrong_or_a_late_choice_is_an_error_that_says_so(code, message):
    code += "\nimport minixception as mx\nwith mx.use_backend('cuda'): pass"
    done = python("-c", code, MINIXCEPTION_CUDA="simulator")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("minixception.errors.BackendError: ")
    assert message in done.stderr


def test_without_a_gpu_the_backend_says_what_to_do(monkeypatch):
    monkeypatch.setattr(gpu, "is_available", lambda: False)
    with (
        pytest.raises(BackendError, match=r"needs an NVIDIA GPU .* MINIXCEPTION_CUDA=simulator"),
        mx.use_backend("cuda"),
    ):
        pass
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        mx.tensor([1.0]).to("cuda")
