"""compile(model): equal to the model, whatever it is made of; every layer in the plan once; buffers reused safely."""

from __future__ import annotations

import io
import threading
import tracemalloc

import numpy as np
import pytest

import minixception as mx
from minixception import compiler, nn, ops
from minixception.engine.tensor import Tensor
from minixception.errors import ShapeError
from minixception.models import Xception, mini_xception
from tests.helpers.golden_rule import GOLDEN, layer_paths, load_golden_weights


def randomise(model, rng):
    """Statistics and scales away from 0 and 1, so that folding batchnorm has something to fold."""
    for name, t in model.named_tensors():
        if name.endswith(("running_mean", "beta", "bias")):
            t.data[...] = rng.standard_normal(t.shape) * 0.1
        elif name.endswith(("running_var", "gamma")):
            t.data[...] = rng.uniform(0.5, 1.5, t.shape)
    return model.eval()


def check(model, x, tolerance):
    with mx.no_grad():
        expected = model(Tensor(x)).numpy()
    got = mx.compile(model)(x)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert np.linalg.norm(got - expected) <= tolerance * np.linalg.norm(expected)


ZOO = {  # small networks of the parts that Xception does not have, for images (9, 8, 3)
    "bias and no gamma": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=True), nn.BatchNorm2d(8, scale=False), nn.Activation("relu"),
        nn.PointwiseConv2d(8, 8, bias=True), nn.BatchNorm2d(8), nn.Activation("relu"),
        nn.PointwiseConv2d(8, 6, stride=2, bias=True), nn.BatchNorm2d(6, scale=False),
    ),
    "ReLU before batchnorm": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=True), nn.Activation("relu"), nn.BatchNorm2d(8)
    ),
    "narrow segments": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=2, bias=True), nn.BatchNorm2d(8), nn.Activation("relu")
    ),
    "pixels of padding": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=3), nn.Activation("relu"), nn.MaxPool2d(3, 2, padding=1),
        nn.SeparableConv2d(8, 8, 3, padding=2), nn.DepthwiseConv2d(8, 3, 2, padding=1), nn.AvgPool2d(3, 1, padding=1),
    ),
    "dilation and pairs": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, dilation=2, bias=True), nn.BatchNorm2d(8), nn.Activation("relu"),
        nn.SeparableConv2d(8, 8, dilation=(1, 2), relu=True), nn.BatchNorm2d(8), nn.Activation("relu"),
        nn.MaxPool2d(2, 1, "same", dilation=2), nn.DepthwiseConv2d(8, padding=2, dilation=2),
        nn.Conv2d(8, 8, stride=(2, 1), padding=(0, 1)), nn.MaxPool2d((2, 3), 1), nn.Conv2d(8, 4, 3, (1, 1), (1, 1)),
        nn.AvgPool2d((1, 2)),
    ),
    "branches": lambda: nn.Branches(
        {"trunk": nn.Conv2d(3, 8, 3)},
        one=nn.PointwiseConv2d(8, 4),
        two=nn.Sequential(nn.AvgPool2d(3, 1, "same"), nn.PointwiseConv2d(8, 4)),
        three=nn.Branches(across=nn.Conv2d(8, 2, (1, 3)), down=nn.Conv2d(8, 3, (3, 1))),
    ),
    "flatten": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.Activation("relu"), nn.Linear(32, 5)
    ),
    "NEXcepTion's": lambda: nn.Residual(
        nn.SeparableConv2d(3, 16, 5), nn.BatchNorm2d(16), nn.Activation("gelu"), nn.MaxPool2d(3, 1, "same"),
        nn.BlurPool2d(), nn.SqueezeExcite(16), nn.DropPath(0.5), shortcut=nn.PointwiseConv2d(3, 16, 2),
    ),
}  # fmt: skip


DTYPES = [("float32", 1e-5), pytest.param("float64", 1e-13, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(1, 71, 71, 3), (3, 80, 73, 3)])
def test_xception(rng, shape, dtype, tolerance):
    model = randomise(Xception(10, input_shape=shape[1:]).astype(dtype), rng)
    check(model, rng.uniform(-1, 1, shape).astype(dtype), tolerance)


@pytest.mark.parametrize(
    "options",
    [
        {"residual": False},
        {"intermediate_activation": "elu"},
        {"intermediate_activation": "relu"},
        {"fc_units": (16, 16)},
        {"include_top": False},
        {"include_top": False, "pooling": "max"},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_xception_options(rng, options):
    model = randomise(Xception(10, input_shape=(71, 71, 3), **options), rng)
    check(model, rng.uniform(-1, 1, (2, 71, 71, 3)).astype(np.float32), 1e-5)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_mini_xception(rng, batch):
    check(randomise(mini_xception(), rng), rng.uniform(-1, 1, (batch, 32, 32, 3)).astype(np.float32), 1e-5)


@pytest.mark.parametrize("form", [1, 2, 3])
def test_inception_modules(rng, form):
    model = randomise(nn.Sequential(nn.InceptionModule(5, 12, form), nn.MaxPool2d(2), nn.SpectrumConv2d(12, 6)), rng)
    check(model, rng.standard_normal((2, 9, 8, 5)).astype(np.float32), 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_what_the_zoo_is_made_of(rng, make, dtype, tolerance):
    model = randomise(make(), rng).astype(dtype)
    check(model, rng.standard_normal((3, 9, 8, 3)).astype(dtype), tolerance)


def test_a_convolution_with_bias_batchnorm_without_gamma_and_relu_are_one_kernel(rng):
    compiled = mx.compile(randomise(ZOO["bias and no gamma"](), rng))
    compiled(np.zeros((1, 9, 8, 3), np.float32))
    assert [row[0] for row in compiled.plan.rows] == ["0 + 1 + 2", "3 + 4 + 5", "6 + 7"]


def test_a_flattened_map_is_not_overwritten_while_it_is_read(rng):
    """Flatten hands on the memory of its input, which the layer behind it must not get for its own result."""
    layers = nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(9 * 8 * 4, 9 * 8 * 4), nn.Linear(9 * 8 * 4, 5)
    check(randomise(nn.Sequential(*layers), rng), rng.standard_normal((2, 9, 8, 3), np.float32), 1e-5)
    direct = randomise(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), rng)
    check(direct, rng.standard_normal((2, 9, 8, 3), np.float32), 1e-5)


class Branches(nn.Module):
    """What a fused kernel must not take in: results read twice, additions too early, operators without layers."""

    def __init__(self):
        self.first, self.norm = nn.SeparableConv2d(3, 8), nn.BatchNorm2d(8)
        self.act, self.add = nn.Activation("relu"), nn.Add()
        self.left, self.right = nn.PointwiseConv2d(8, 8), nn.SeparableConv2d(8, 8, 5, stride=1)
        self.last = nn.Conv2d(8, 8, 3, groups=2)

    def forward(self, x):
        x = self.first(x)
        y = self.act(self.norm(x)) + x  # x is read twice: batchnorm cannot be folded away
        r = self.act(y)  # read by a separable and by a pointwise convolution
        y = self.add(self.right(r), self.left(r))
        return ops.relu(self.add(self.last(y), y)) * 0.5


def test_what_is_read_twice_is_not_fused_away(rng):
    check(randomise(Branches(), rng), rng.standard_normal((2, 7, 6, 3)).astype(np.float32), 1e-5)


def golden_model(case):
    """Xception with its golden weights, an image, and what Keras gives for it."""
    data = np.load(GOLDEN / "xception_forward.npz")
    image = data[f"{case}/input_u8"]
    top = {"include_top": True} if case == "full" else {"include_top": False, "pooling": "avg"}
    key = "logits" if case == "full" else "features"
    expected = data[f"{case}/f64/{key}"]
    model = Xception(input_shape=image.shape[1:], **top).eval()
    load_golden_weights(model)
    return model, image, expected


@pytest.mark.parametrize("case", ["full", "s71"])
def test_golden(case):
    model, image, expected = golden_model(case)
    y = mx.compile(model)(image.astype(np.float32) / np.float32(127.5) - np.float32(1))
    assert np.abs(y - expected).max() <= 1e-3
    assert np.linalg.norm(y - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full", "s71"])
def test_golden_in_float64(case):
    model, image, expected = golden_model(case)
    y = mx.compile(model.astype(np.float64))(image / 127.5 - 1)
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-10)


def test_plan_names_every_layer_once():
    model = Xception(input_shape=(71, 71, 3))
    compiled = mx.compile(model)
    named = " + ".join(row[0] for row in compiled.plan.rows).split(" + ")
    assert sorted(named) == sorted(layer_paths(model))
    fused = [row for row in compiled.plan.rows if row[1] == "fused kernel"]
    assert len(fused) == 34 + 2 + 4 + 1  # separables, block 1, shortcuts, logits
    assert len({row[3] for row in fused}) <= 4  # slots


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_names_the_layer_whose_kernel_is_compiled(monkeypatch):
    x, written = np.ones((1, 8, 8, 3), np.float32), Terminal()
    model = nn.Sequential(stem=nn.Conv2d(3, 8), act=nn.Activation("relu"), top=nn.SeparableConv2d(8, 8))
    seen = []  # the bar at the beginning of each step
    convolve = compiler.cpu.convolve
    monkeypatch.setattr(compiler.cpu, "convolve", lambda *a: (seen.append(written.getvalue()), convolve(*a))[1])
    monkeypatch.setattr(compiler.plan, "_DELAY", 0)
    monkeypatch.setattr("sys.stderr", written)
    fast = mx.compile(model)
    fast(x)
    assert "compiling kernels: stem" in seen[0]
    assert "top" not in seen[0]
    assert "compiling kernels: top" in written.getvalue()
    before = written.getvalue()
    fast(x)
    assert written.getvalue() == before


def test_no_bar_where_kernels_come_quickly(monkeypatch):
    monkeypatch.setattr(compiler.plan, "_DELAY", 1e9)
    monkeypatch.setattr("sys.stderr", written := Terminal())
    mx.compile(nn.Sequential(nn.Linear(3, 8)))(np.ones((1, 3), np.float32))
    assert "compiling" not in written.getvalue()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_1x1_convolution_takes_its_pixels_in_strips(rng, stride, padding, monkeypatch):
    model = nn.Sequential(nn.Conv2d(20, 70, 1, stride, padding=padding), nn.BatchNorm2d(70), nn.Activation("relu"))
    x = rng.standard_normal((2, 9, 8, 20), dtype=np.float32)
    check(randomise(model, rng), x, 1e-6)
    answer = mx.compile(model)(x)
    monkeypatch.setattr(compiler.cpu, "strip_pixels", lambda y, ci: 7)
    assert np.array_equal(mx.compile(model)(x), answer)


def test_answers_are_not_overwritten_by_the_next_call(rng):
    compiled = mx.compile(randomise(mini_xception(), rng))
    first, second = rng.uniform(-1, 1, (2, 1, 32, 32, 3)).astype(np.float32)
    answer = compiled(first)
    kept = answer.copy()
    assert not np.allclose(compiled(second), answer)
    np.testing.assert_array_equal(answer, kept)
    np.testing.assert_array_equal(compiled(first), kept)


def test_one_compiled_model_takes_many_shapes(rng):
    model = randomise(mini_xception(), rng)
    compiled = mx.compile(model)
    for shape in [(1, 32, 32, 3), (3, 40, 36, 3), (1, 32, 32, 3)]:
        x = rng.uniform(-1, 1, shape).astype(np.float32)
        with mx.no_grad():
            np.testing.assert_allclose(compiled(x), model(Tensor(x)).numpy(), atol=1e-5)


def test_a_second_call_allocates_next_to_nothing(rng):
    model = randomise(Xception(10, input_shape=(150, 150, 3)), rng)
    compiled = mx.compile(model)
    x = rng.uniform(-1, 1, (1, 150, 150, 3)).astype(np.float32)
    compiled(x)
    tracemalloc.start()
    try:
        compiled(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000  # the largest activation alone is 2.7 MB


def test_compiling_leaves_the_model_alone(rng):
    model = randomise(mini_xception(), rng).train()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    mx.compile(model)(np.zeros((1, 32, 32, 3), np.float32))
    assert model.training
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_not_a_number_comes_through(rng):
    model = randomise(mini_xception(), rng)
    x = rng.uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    x[1, 5, 5, 1] = np.nan
    y = mx.compile(model)(x)
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1]).all()


def test_a_wrong_input_is_a_shape_error_before_anything_runs():
    compiled = mx.compile(Xception(input_shape=(71, 71, 3)))
    with pytest.raises(ShapeError, match="at least 71"):
        compiled(np.zeros((1, 70, 70, 3), np.float32))
    with pytest.raises(ShapeError, match="input's shape"):
        _ = mx.compile(nn.Conv2d(3, 4)).plan


@pytest.mark.parametrize(("limit", "expected"), [(1 << 30, [5]), (2 * 16 * 16 * 32, [2, 2, 1]), (1, [1] * 5)])
def test_large_batches_go_through_in_parts_that_are_equal_to_the_whole(rng, monkeypatch, limit, expected):
    monkeypatch.setattr(mx.compiler.batch, "_TOGETHER", limit)
    ran = []
    run = compiler.plan.Plan.run
    monkeypatch.setattr(compiler.plan.Plan, "run", lambda plan, x: ran.append(len(x)) or run(plan, x))
    model = randomise(mini_xception(8, (32,), 1, 8, (16, 16, 3)), rng)
    check(model, rng.standard_normal((5, 16, 16, 3), np.float32), 1e-5)
    assert ran == expected


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_the_zoos_layers_treat_each_image_for_itself(make, rng, monkeypatch):
    monkeypatch.setattr(mx.compiler.batch, "_TOGETHER", 1)
    compiled = mx.compile(randomise(make(), rng))
    compiled(rng.standard_normal((3, 9, 8, 3), np.float32))
    assert [shape for shape, *_ in compiled._plans] == [(1, 9, 8, 3)]


def test_a_batch_whose_images_are_mixed_stays_together(rng, monkeypatch):
    class MinusTheMean(nn.Module):
        def __init__(self):
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            y = self.conv(x)
            return y - ops.mean(y)

    monkeypatch.setattr(mx.compiler.batch, "_TOGETHER", 1)
    check(MinusTheMean().eval(), rng.standard_normal((4, 8, 8, 3), np.float32), 1e-5)


def test_weights_lie_one_behind_the_other_in_running_order(rng):
    model = randomise(mini_xception(8, (32,), 1, 8, (16, 16, 3)), rng)
    fast = mx.compile(model)
    fast(np.zeros((1, 16, 16, 3), np.float32))
    starts = [layer.packed.ctypes.data for layer in fast._weights.values()]
    assert starts == sorted(starts)
    assert all(start % 64 == 0 for start in starts)
    assert len({id(memory_owner(layer.packed)) for layer in fast._weights.values()}) == 1


def memory_owner(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class SumThenNorm(nn.Module):
    """Batchnorm and ReLU behind a sum: it may not be folded into one of the convolutions."""

    def __init__(self):
        self.left, self.right = nn.PointwiseConv2d(3, 5), nn.SeparableConv2d(3, 5)
        self.add, self.norm, self.act = nn.Add(), nn.BatchNorm2d(5), nn.Activation("relu")

    def forward(self, x):
        return self.act(self.norm(self.add(self.left(x), self.right(x))))


def test_batchnorm_behind_a_sum_stays_behind_it(rng):
    check(randomise(SumThenNorm(), rng), rng.standard_normal((2, 6, 5, 3)).astype(np.float32), 1e-5)


def test_threads_that_share_a_compiled_model_get_each_its_own_answer(rng):
    fast = mx.compile(randomise(mx.models.mini_xception(10, (16,), 1, 8), rng).eval())
    images = [rng.standard_normal((1, 32, 32, 3)).astype(np.float32) for _ in range(4)]
    expected = [fast(image) for image in images]
    wrong = []

    def call(number):
        wrong.extend(number for _ in range(50) if not np.array_equal(fast(images[number]), expected[number]))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_layers_run_at_inference_while_the_model_trains(rng):
    """Layers that no kernel takes in run by themselves; what their modules are set to is the training's business."""
    model = randomise(nn.Sequential(norm=nn.BatchNorm2d(3), drop=nn.Dropout(0.5), path=nn.DropPath(0.5)), rng)
    x = rng.standard_normal((4, 5, 5, 3)).astype(np.float32)
    with mx.no_grad():
        expected = model(Tensor(x)).numpy()
    fast, before = mx.compile(model.train()), model.norm.running_mean.numpy().copy()
    for _ in range(2):
        np.testing.assert_array_equal(fast(x), expected)
    np.testing.assert_array_equal(model.norm.running_mean.numpy(), before)
    assert all(module.training for _, module in model.named_modules())


class Watched(nn.Module):
    """Asks what its layer's mode is, here and in another thread, whenever it runs."""

    def __init__(self):
        self.norm, self.here, self.elsewhere = nn.BatchNorm2d(3), [], []

    def forward(self, x):
        self.here.append(self.norm.training)
        thread = threading.Thread(target=lambda: self.elsewhere.append(self.norm.training))
        thread.start()
        thread.join()
        return self.norm(x)


def test_compiling_changes_no_mode_that_another_thread_sees(rng):
    model = Watched()
    mx.compile(model)(rng.standard_normal((2, 4, 4, 3)).astype(np.float32))
    assert model.here
    assert not any(model.here)
    assert all(model.elsewhere)


def test_a_batch_without_an_image(rng):
    fast = mx.compile(randomise(mx.models.mini_xception(10, (8,), 1, 8), rng))
    assert fast(np.zeros((0, 32, 32, 3), np.float32)).shape == (0, 10)
