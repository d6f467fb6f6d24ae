"""compile(model) on the GPU: equal to the model, one launch for each fused separable convolution.

In Numba's simulator; with MINIXCEPTION_CUDA set to nothing, on a GPU: `MINIXCEPTION_CUDA= pytest -m gpu`.
"""

from __future__ import annotations

import numpy as np
import pytest
from test_compile import randomise

import minixception as mx
from minixception import nn
from minixception.analysis.counts import count, races
from minixception.analysis.machine_code import LaunchRecorder
from minixception.analysis.recorder import Recorder
from minixception.engine.tensor import Tensor
from minixception.errors import BackendError, DTypeError, ShapeError
from minixception.gpu import device
from minixception.gpu import kernel as gpu
from minixception.ops.separable.cuda import fused, pack
from minixception.ops.separable.definition import forward_numpy
from tests.helpers.golden_rule import layer_paths
from tests.helpers.launches import recorded_launches

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def own_kernels(monkeypatch):
    """Kernels are made for sizes and endings when they are needed: those of this file are not the package's."""
    monkeypatch.setattr(gpu, "KERNELS", dict(gpu.KERNELS))


def _tiny(rng):
    """A mini_xception with a residual around a pool and a strided shortcut, and one around three separables."""
    return randomise(mx.models.mini_xception(3, (4,), 1, 4, (4, 4, 3)), rng)


class Entry(nn.Module):
    """The entry flow in small: regular convolutions with strides, a block with a strided shortcut, a linear layer."""

    def __init__(self, activation):
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding="valid"), nn.BatchNorm2d(4), nn.Activation(activation),
            nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Activation(activation),
        )  # fmt: skip
        self.block = nn.Residual(
            nn.SeparableConv2d(5, 6), nn.BatchNorm2d(6), nn.Activation(activation),
            nn.SeparableConv2d(6, 6), nn.BatchNorm2d(6), nn.MaxPool2d(3, 2, "same"),
            shortcut=nn.Sequential(nn.PointwiseConv2d(5, 6, stride=2), nn.BatchNorm2d(6)),
        )  # fmt: skip
        self.pool, self.top = nn.GlobalAvgPool(), nn.Linear(6, 3)

    def forward(self, x):
        return self.top(self.pool(self.block(self.stem(x))))


ZOO = {  # what ends otherwise than Xception's layers, for images (5, 4, 4)
    "grouped": lambda: nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, bias=True), nn.BatchNorm2d(6), nn.Activation()),
    "convolution and residual": lambda: nn.Residual(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    "pointwise and residual": lambda: nn.Residual(nn.PointwiseConv2d(4, 4, bias=True)),
    "bias": lambda: nn.Sequential(nn.PointwiseConv2d(4, 5, bias=True), nn.BatchNorm2d(5, scale=False)),
    "1x1 and relu": lambda: nn.Sequential(nn.Conv2d(4, 3, 1, bias=True), nn.Activation()),
    "by vectors": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, bias=True), nn.Activation(), nn.PointwiseConv2d(8, 4)),
    "strided separable": lambda: nn.SeparableConv2d(4, 5, stride=2),
    "5x5 separable": lambda: nn.SeparableConv2d(4, 5, 5),
    "flat": lambda: nn.Sequential(nn.Flatten(), nn.Linear(80, 4), nn.Activation(), nn.Linear(4, 2)),
    "other layers": lambda: nn.Sequential(nn.DepthwiseConv2d(4), nn.Activation("elu"), nn.SqueezeExcite(4)),
}


def check(model, x, tolerance=1e-5):
    """Compiled on the GPU, the model computes what it did on the CPU; returns what was compiled."""
    with mx.no_grad():
        expected = model(Tensor(x)).numpy()
    compiled = mx.compile(model.to("cuda"))
    got = compiled(x)
    assert isinstance(got, np.ndarray)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)
    return compiled


def launched(compiled, x):
    """Names of the kernels of one call."""
    with recorded_launches() as launches:
        compiled(x)
    return [name.rpartition(".")[2] for name, _ in launches]


def test_mini_xception_is_one_launch_for_each_separable_convolution(rng):
    x = rng.uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)
    compiled = check(_tiny(rng), x)
    names = launched(compiled, x)
    steps = [row[0] for row in compiled.plan.rows]
    separable = [step for step in steps if "sepconv" in step or "shortcut" in step]
    assert sum("fused_strips" in name for name in names) == len(separable) == 2 + 1 + 3
    assert len(names) == len(steps) + 1  # the border of the first convolution


def test_the_plan_names_every_layer_once_and_the_device(rng):
    model = _tiny(rng).to("cuda")
    table = mx.compile(model).plan
    named = " + ".join(row[0] for row in table.rows).split(" + ")
    assert sorted(named) == sorted(layer_paths(model))
    runs_as = {row[0]: row[1] for row in table.rows}
    assert runs_as["block1.conv1 + block1.conv1_bn + block1.conv1_act"] == "fused kernel"
    assert runs_as["block2.shortcut.conv + block2.shortcut.bn + block2.add"] == "fused kernel"
    assert runs_as["block2.pool"] == "layer"
    assert {row[3] for row in table.rows} == {"pool"}
    assert "on cuda" in str(table)
    assert "on cpu" in str(mx.compile(model.to("cpu")).plan)


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_an_entry_flow(rng, activation):
    x = rng.uniform(-1, 1, (1, 9, 8, 3)).astype(np.float32)
    compiled = check(randomise(Entry(activation), rng), x)
    fused_kernels = sum(row[1] == "fused kernel" for row in compiled.plan.rows)
    assert fused_kernels == 2 + 2 + 1 + 1
    assert sum("fused_strips" in name for name in launched(compiled, x)) == 3


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-5), pytest.param("float64", 1e-12, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_other_endings(rng, make, dtype, tolerance):
    x = rng.standard_normal((2, 5, 4, 4)).astype(dtype)
    check(randomise(make(), rng).astype(dtype), x, tolerance)


def test_grouped_convolutions_and_those_with_a_residual_run_as_operators(rng):
    for name in ("grouped", "convolution and residual", "pointwise and residual"):
        compiled = mx.compile(randomise(ZOO[name](), rng).to("cuda"))
        compiled(np.zeros((1, 5, 4, 4), np.float32))
        assert [row[1] for row in compiled.plan.rows] == ["operators"]


def test_a_tensor_gives_a_tensor_on_the_models_device(rng):
    x = rng.uniform(-1, 1, (1, 5, 4, 4)).astype(np.float32)
    model = randomise(ZOO["bias"](), rng).to("cuda")
    fast = mx.compile(model)
    expected = fast(x)
    for tensor in (mx.tensor(x), mx.tensor(x).to("cuda")):
        y = fast(tensor)
        assert (type(y), y.device, y.requires_grad) == (Tensor, "cuda", False)
        np.testing.assert_array_equal(y.numpy(), expected)
    fast = mx.compile(model.to("cpu"))
    for tensor in (mx.tensor(x), mx.tensor(x).to("cuda")):
        y = fast(tensor)
        assert y.device == "cpu"
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_results_are_not_overwritten_and_the_same_in_every_call(rng):
    fast = mx.compile(randomise(ZOO["strided separable"](), rng).to("cuda"))
    first, second = (mx.tensor(x) for x in rng.uniform(-1, 1, (2, 1, 5, 4, 4)).astype(np.float32))
    answer = fast(first)
    kept = answer.numpy()
    assert not np.allclose(fast(second).numpy(), kept)
    np.testing.assert_array_equal(answer.numpy(), kept)
    np.testing.assert_array_equal(fast(first).numpy(), kept)


def test_a_result_is_given_back_when_it_has_been_read_and_later_calls_ask_the_driver_for_nothing():
    one, two = (mx.tensor(np.ones((n, 2, 2, 4), np.float32)).to("cuda") for n in (1, 2))
    held = []
    for depth in (2, 6):
        fast = mx.compile(nn.Sequential(*[nn.PointwiseConv2d(4, 4) for _ in range(depth)]).to("cuda"))
        fast(two)  # which has the weights placed
        device.empty_cache()
        before = device.memory_use()
        fast(one)
        fast(one)
        after = device.memory_use()
        held.append(after.held - before.held)
        fast(one)
        assert device.memory_use().allocations == after.allocations
    assert held[0] == held[1] > 0


def test_a_batch_stays_together_on_the_gpu(rng, monkeypatch):
    monkeypatch.setattr(mx.compiler.batch, "_TOGETHER", 1)
    fast = mx.compile(randomise(ZOO["bias"](), rng).to("cuda"))
    fast(np.zeros((3, 5, 4, 4), np.float32))
    assert [shape for shape, *_ in fast._plans] == [(3, 5, 4, 4)]


def test_not_a_number_comes_through(rng):
    """Past the ReLU of a fused separable convolution, and past that of a matrix product."""
    layers = nn.SeparableConv2d(2, 3), nn.Activation(), nn.Conv2d(3, 2, 1), nn.Activation()
    model = randomise(nn.Sequential(*layers), rng).to("cuda")
    model.children()["2"].weight.data = device.to_gpu(np.ones((1, 1, 3, 2), np.float32))
    x = np.zeros((2, 3, 3, 2), np.float32)
    x[1, 1, 1, 0] = np.nan
    y = mx.compile(model)(x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


def test_what_is_wrong_is_an_error_of_its_own_kind(rng):
    model = _tiny(rng).to("cuda")
    fast = mx.compile(model)
    with pytest.raises(DTypeError, match="one floating dtype"):
        fast(np.zeros((1, 4, 4, 3), np.float64))
    with pytest.raises(ShapeError):
        fast(np.zeros((4, 4, 3), np.float32))
    model.to("cpu")
    with pytest.raises(BackendError, match="compiled on 'cuda' and has moved: call compile"):
        fast(np.zeros((1, 4, 4, 3), np.float32))
    parameter = next(iter(model.parameters()))
    parameter.data = device.to_gpu(parameter.data)
    with pytest.raises(BackendError, match="some weights of the model are on the CPU and some on the GPU"):
        mx.compile(model)


# The fused kernel -----------------------------------------------------------------------------------------------------


def _fused(x, wd, wp, stride, relu, **ending):
    shape = x.shape[0], -(-x.shape[1] // stride), -(-x.shape[2] // stride), wp.shape[1]
    ending = {key: device.to_gpu(value) if isinstance(value, np.ndarray) else value for key, value in ending.items()}
    arrays = device.to_gpu(x), device.to_gpu(wd), pack(device.to_gpu(wp))
    return fused(*arrays, gpu.empty(shape, x.dtype), stride, "same", relu, **ending)


@pytest.mark.parametrize("ci", [1, 33])  # a slab with one channel, and a second slab with one
def test_more_channels_than_a_slab_and_more_outputs_than_a_block(rng, ci):
    x, wd = rng.standard_normal((1, 2, 5, ci)), rng.standard_normal((3, 3, ci))
    wp, shift = rng.standard_normal((ci, 130)), rng.standard_normal(130)
    residual = rng.standard_normal((1, 2, 5, 130))
    z, _ = forward_numpy(x, wd, wp, stride=1, padding="same", relu=True)
    y = device.to_cpu(_fused(x, wd, wp, 1, True, shift=shift, residual=residual, relu_after=True))
    np.testing.assert_allclose(y, np.maximum(z + shift + residual, 0), rtol=1e-12, atol=1e-12)
    y = device.to_cpu(_fused(x, wd, wp, 1, False))
    np.testing.assert_allclose(y, forward_numpy(x, wd, wp, stride=1, padding="same", relu=False)[0], atol=1e-12)


def test_what_the_fused_kernel_asks_of_memory():
    """The count in ops/separable/cuda.py, for strips that have all their pixels: and no thread meets another."""
    ci, co, pixels = 32, 128, 4 * 8
    recorder = Recorder(None)
    with gpu.redirected(recorder):
        ones = np.ones((1, 10, 6, ci), np.float32), np.ones((3, 3, ci), np.float32), np.ones((ci, co), np.float32)
        x, wd, panels = device.to_gpu(ones[0]), device.to_gpu(ones[1]), pack(device.to_gpu(ones[2]))
        y = fused(x, wd, panels, gpu.empty((1, 8, 4, co), np.float32), 1, "valid", relu=True)
    launch = recorder.launches[-1]
    assert list(races(launch)) == []
    counts = count(launch)
    np.testing.assert_array_equal(y.copy_to_host(), np.full((1, 8, 4, co), 9 * ci))
    assert counts.global_reads == pixels * ci * (18 + 9) / 4 + ci * co
    assert counts.global_reads / (pixels * co * ci) == pytest.approx((18 + 9) / 4 / 128 + 1 / 32)
    assert counts.global_writes == pixels * co
    assert counts.conflicts == 1  # no access of shared memory waits for another
    assert counts.sectors_per_access == 4


def test_a_whole_network_runs_on_the_stand_in_that_collects_kernels_to_compile(rng):
    notebook, model = LaunchRecorder(), _tiny(rng)
    with gpu.redirected(notebook):
        for _, tensor in model.named_tensors():
            tensor.data = device.to_gpu(tensor.data)
        mx.compile(model)(np.zeros((1, 4, 4, 3), np.float32))
    names = [name for name, *_ in notebook.signatures]
    assert sum("fused_strips" in name for name in names) == 2  # 3x3, and 1x1 with a stride
    assert sum("register_tile" in name and "_shift" in name for name in names) == 2


def test_a_dilated_convolution_runs_as_it_is_and_keeps_the_plan_from_being_recorded(rng):
    """Its definition runs on the processor; the layers around it are fused."""
    layers = nn.Conv2d(4, 4, dilation=2, bias=True), nn.BatchNorm2d(4), nn.Activation(), nn.Conv2d(4, 3, 1)
    model = randomise(nn.Sequential(*layers), rng)
    first, second = rng.standard_normal((2, 2, 5, 4, 4)).astype(np.float32)
    with mx.no_grad():
        expected = model(Tensor(second)).numpy()
    compiled = check(model, first)
    for _ in range(3):
        np.testing.assert_allclose(compiled(second), expected, rtol=1e-5, atol=1e-5)
    assert [row[1] for row in compiled.plan.rows] == ["layer", "layer", "layer", "fused kernel"]
