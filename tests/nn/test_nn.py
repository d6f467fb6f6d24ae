"""Layers and modules: names and order, modes, strict loading, files, and what each layer computes."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.engine.tensor import Tensor
from minixception.errors import ArgumentError, DTypeError, ShapeError, WeightsError
from minixception.nn import init

pytestmark = pytest.mark.usefixtures("each_backend")

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64: equal but for the order of additions


def image(rng, *shape, dtype=np.float64, requires_grad=False):
    return mx.tensor(rng.standard_normal(shape).astype(dtype), requires_grad=requires_grad)


def small_net():
    return nn.Sequential(
        conv=nn.Conv2d(3, 4),
        bn=nn.BatchNorm2d(4),
        block=nn.Residual(nn.PointwiseConv2d(4, 6), shortcut=nn.Sequential(side=nn.PointwiseConv2d(4, 6))),
        pool=nn.GlobalAvgPool(),
        head=nn.Linear(6, 2),
    )


# Names and modes ------------------------------------------------------------------------------------------------------


def test_names_are_paths_in_the_order_of_definition():
    net = small_net()
    assert list(net.state_dict()) == [
        "conv.weight",
        "bn.gamma",
        "bn.beta",
        "bn.running_mean",
        "bn.running_var",
        "block.0.weight",
        "block.shortcut.side.weight",
        "head.weight",
        "head.bias",
    ]
    buffers = {"bn.running_mean", "bn.running_var"}
    assert [name for name, _ in net.named_buffers()] == sorted(buffers)
    assert [name for name, _ in net.named_parameters()] == [n for n in net.state_dict() if n not in buffers]
    assert all(a is b for a, (_, b) in zip(net.parameters(), net.named_parameters(), strict=True))
    assert [path for path, _ in net.named_modules()][:4] == ["", "conv", "bn", "block"]


def test_parameters_want_gradients_and_buffers_do_not():
    net = small_net()
    assert all(p.requires_grad for p in net.parameters())
    assert not any(b.requires_grad for _, b in net.named_buffers())
    assert net.num_parameters() == 108 + 16 + 24 + 24 + 14
    assert net.num_parameters(trainable=True) == net.num_parameters() - 8
    assert net.num_parameters(trainable=False) == 8


def test_train_and_eval_reach_every_module_and_return_it():
    net = small_net()
    assert net.eval() is net
    assert not any(m.training for _, m in net.named_modules())
    assert net.train() is net
    assert all(m.training for _, m in net.named_modules())


def test_zero_grad_forgets_all_gradients(rng):
    net = small_net().astype(np.float64)
    net(image(rng, 2, 5, 5, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_a_module_without_forward_says_so():
    with pytest.raises(TypeError, match=r"Module does not define forward\(\)"):
        nn.Module()(1)


def test_summary_asks_for_the_input_shape_it_does_not_know():
    net = nn.Sequential(conv=nn.Conv2d(3, 4), bn=nn.BatchNorm2d(4))
    with pytest.raises(ShapeError, match=r"needs input_shape=\(h, w, c\)"):
        net.summary()
    table = net.summary((5, 6, 3))
    assert [row.output_shape for row in table.rows] == [(5, 6, 3), (5, 6, 4), (5, 6, 4)]
    assert "108" in str(table)
    assert table._repr_html_().startswith("<table>")


# State and files ------------------------------------------------------------------------------------------------------


def test_loading_lists_every_problem_and_changes_nothing():
    net = small_net()
    before = {name: a.copy() for name, a in net.state_dict().items()}
    state = {name: a + 1 for name, a in net.state_dict().items() if name not in ("conv.weight", "bn.beta")}
    state |= {"head.weight": np.zeros((6, 3), np.float32), "heed.weight": np.zeros(7, np.float32)}
    with pytest.raises(WeightsError) as caught:
        net.load_state_dict(state)
    for line in (
        "missing: conv.weight (3, 3, 3, 4)",
        "missing: bn.beta (4,)",
        "surplus: heed.weight (7,)",
        "shape of head.weight: the model has (6, 2), the file (6, 3)",
    ):
        assert line in str(caught.value)
    assert len(str(caught.value).splitlines()) == 5
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_file_gives_back_every_bit(tmp_path, dtype):
    one, other = small_net().astype(dtype), small_net().astype(dtype)
    one.bn.running_mean.data += 3
    one.save_weights(tmp_path / "w.safetensors")
    other.load_weights(tmp_path / "w.safetensors")
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_loading_copies_and_keeps_the_models_dtype(tmp_path):
    one, other = small_net(), small_net().astype(np.float64)
    one.save_weights(tmp_path / "w.safetensors")
    other.load_weights(tmp_path / "w.safetensors")
    assert all(a.dtype == np.float64 for a in other.state_dict().values())
    np.testing.assert_array_equal(one.conv.weight.data, other.conv.weight.data)
    state = one.state_dict()
    twin = small_net()
    twin.load_state_dict(state)
    twin.conv.weight.data += 1
    assert not np.array_equal(one.conv.weight.data, twin.conv.weight.data)


def test_arrays_of_any_layout_are_saved_in_their_shape(tmp_path):
    tensors = {"turned": np.arange(6.0).reshape(2, 3).T, "number": np.array(3, np.int64), "none": np.zeros((0, 2))}
    mx.weights.write_tensors(tmp_path / "t.safetensors", tensors, {"why": "test"})
    back, metadata = mx.weights.read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"why": "test"}
    for name, array in tensors.items():
        assert back[name].shape == array.shape
        np.testing.assert_array_equal(back[name], array)


def bfloat16_file():
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


DAMAGE = {
    "the last number is gone": lambda whole: whole[:-4],
    "only the header's start": lambda whole: whole[:20],
    "empty": lambda whole: b"",
    "something behind the end": lambda whole: whole + b"xx",
    "text": lambda whole: b"these are not weights, but a text of some length",
    "a dtype NumPy does not have": lambda whole: bfloat16_file(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_a_weights_error_that_names_it(tmp_path, damage):
    net, path = small_net(), tmp_path / "w.safetensors"
    net.save_weights(path)
    before = {name: a.copy() for name, a in net.state_dict().items()}
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=r"w\.safetensors: "):
        net.load_weights(path)
    for name, a in net.state_dict().items():
        np.testing.assert_array_equal(a, before[name])


def test_a_missing_file_and_another_kind_of_file_are_weights_errors(tmp_path):
    net = small_net()
    with pytest.raises(WeightsError, match="no weights file at"):
        net.load_weights(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"\.safetensors or \.weights\.h5 files, got 'w.pickle'"):
        net.save_weights(tmp_path / "w.pickle")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_is_an_os_error_and_leaves_the_old_file(tmp_path, monkeypatch):
    net, path = small_net(), tmp_path / "w.safetensors"
    with pytest.raises(OSError, match="No such file"):
        net.save_weights(tmp_path / "nowhere" / "w.safetensors")
    net.save_weights(path)
    old = path.read_bytes()

    def full(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    net.conv.weight.data += 1
    with pytest.raises(OSError, match="No space left"):
        net.save_weights(path)
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_astype_converts_everything_and_forgets_gradients(rng):
    net = small_net()
    net(image(rng, 2, 5, 5, 3, dtype=np.float32)).sum().backward()
    assert net.astype("float64") is net
    assert all(a.dtype == np.float64 for a in net.state_dict().values())
    assert all(p.grad is None for p in net.parameters())
    assert net(image(rng, 2, 5, 5, 3)).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.int32, np.float16, complex])
def test_a_model_takes_two_dtypes_only(dtype):
    net = small_net()
    with pytest.raises(DTypeError, match="float32 or float64, got"):
        net.astype(dtype)
    assert all(a.dtype == np.float32 for a in net.state_dict().values())


# Layers ---------------------------------------------------------------------------------------------------------------

LAYERS = {
    "conv": (lambda: nn.Conv2d(6, 4, 3), (2, 7, 8, 6), (2, 7, 8, 4)),
    "conv stride 2": (lambda: nn.Conv2d(6, 4, (3, 5), stride=2), (2, 7, 8, 6), (2, 4, 4, 4)),
    "conv valid": (lambda: nn.Conv2d(6, 4, 3, padding="valid"), (2, 7, 8, 6), (2, 5, 6, 4)),
    "conv groups": (lambda: nn.Conv2d(6, 4, 3, groups=2), (2, 7, 8, 6), (2, 7, 8, 4)),
    "depthwise": (lambda: nn.DepthwiseConv2d(6, 5, stride=2), (2, 7, 8, 6), (2, 4, 4, 6)),
    "pointwise": (lambda: nn.PointwiseConv2d(6, 4, stride=2), (2, 7, 8, 6), (2, 4, 4, 4)),
    "separable": (lambda: nn.SeparableConv2d(6, 4, padding="valid"), (2, 7, 8, 6), (2, 5, 6, 4)),
    "separable relu": (lambda: nn.SeparableConv2d(6, 4, activation="relu"), (2, 7, 8, 6), (2, 7, 8, 4)),
    "batchnorm": (lambda: nn.BatchNorm2d(6), (2, 7, 8, 6), (2, 7, 8, 6)),
    "linear": (lambda: nn.Linear(6, 4), (2, 6), (2, 4)),
    "gelu": (lambda: nn.Activation("gelu"), (2, 7, 8, 6), (2, 7, 8, 6)),
    "max pool": (lambda: nn.MaxPool2d(3, 2, "same"), (2, 7, 8, 6), (2, 4, 4, 6)),
    "max pool, own stride": (lambda: nn.MaxPool2d(2), (2, 7, 8, 6), (2, 3, 4, 6)),
    "avg pool": (lambda: nn.AvgPool2d(3, 1, "same"), (2, 7, 8, 6), (2, 7, 8, 6)),
    "global avg pool": (nn.GlobalAvgPool, (2, 7, 8, 6), (2, 6)),
    "global max pool": (nn.GlobalMaxPool, (2, 7, 8, 6), (2, 6)),
    "dropout": (lambda: nn.Dropout(0.5), (2, 7, 8, 6), (2, 7, 8, 6)),
    "inception 1": (lambda: nn.InceptionModule(6, 8, form=1), (2, 7, 8, 6), (2, 7, 8, 8)),
    "inception 2": (lambda: nn.InceptionModule(6, 9, form=2), (2, 7, 8, 6), (2, 7, 8, 9)),
    "inception 3": (lambda: nn.InceptionModule(6, 9, form=3), (2, 7, 8, 6), (2, 7, 8, 9)),
    "spectrum": (lambda: nn.SpectrumConv2d(6, 4, segments=2), (2, 7, 8, 6), (2, 7, 8, 4)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_shape_dtype_and_a_gradient_for_every_parameter(name, dtype, rng):
    make, shape, expected = LAYERS[name]
    layer, x = make().astype(dtype), image(rng, *shape, dtype=dtype, requires_grad=True)
    y = layer(x)
    assert y.shape == expected
    assert y.dtype == dtype
    y.backward(rng.standard_normal(y.shape).astype(dtype))
    for name, t in [("x", x), *layer.named_parameters()]:
        assert t.grad is not None, name
        assert t.grad.dtype == dtype
        assert t.grad.shape == t.shape
        assert np.any(t.grad), name


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 4), nn.DepthwiseConv2d(3), nn.PointwiseConv2d(3, 4), nn.SeparableConv2d(3, 4)]
)
def test_an_nchw_image_gets_a_hint(layer):
    with pytest.raises(ShapeError, match=r"x has 9 in shape \(2, 3, 8, 9\); activations are NHWC: transpose"):
        layer(mx.tensor(np.zeros((2, 3, 8, 9), np.float32)))


def test_wrong_arguments_are_refused_when_the_layer_is_made():
    for make, message in (
        (lambda: nn.Conv2d(4, 6, groups=4), "groups=4 must divide 4 and 6"),
        (lambda: nn.Conv2d(4, 6, groups=0), "groups=0"),
        (lambda: nn.Conv2d(4, 6, groups=-2), "groups=-2"),
        (lambda: nn.PointwiseConv2d(0, 0), "at least one channel"),
        (lambda: nn.Linear(4, -1), "at least one channel"),
        (lambda: nn.Conv2d(4, 6, (3, 0)), "one tap"),
        (lambda: nn.Activation("swish"), "one of relu, elu, gelu, sigmoid, tanh, got 'swish'"),
        (lambda: nn.SeparableConv2d(4, 6, activation="swish"), "got 'swish'"),
        (lambda: nn.InceptionModule(4, 8, form=4), r"form must be 1, 2 or 3 \(the paper's figures\), got 4"),
        (lambda: nn.InceptionModule(4, 8, form=2), "3 equal parts, got 8"),
        (lambda: nn.InceptionModule(4, 9, form=1), "4 equal parts, got 9"),
        (lambda: nn.SpectrumConv2d(4, 12, segments=5), "groups=5"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make()


def test_global_pools_want_images():
    for layer in (nn.GlobalMaxPool(), nn.GlobalAvgPool()):
        with pytest.raises(ShapeError, match=r"must be \(n, h, w, c\), got 2 dimensions"):
            layer(mx.tensor(np.zeros((2, 3), np.float32)))


@pytest.mark.parametrize("name", ["relu", "elu"])
def test_separable_convolution_with_an_activation_between_its_halves(name, rng):
    layer = nn.SeparableConv2d(5, 4, activation=name).astype(np.float64)
    x = image(rng, 2, 6, 6, 5, requires_grad=True)
    z = mx.ops.depthwise_conv2d(x, layer.depthwise)
    expected = mx.ops.pointwise_conv2d(getattr(mx.ops, name)(z), layer.pointwise)
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), **EXACT)
    plain = mx.ops.separable_conv2d(x, layer.depthwise, layer.pointwise)
    assert not np.allclose(expected.numpy(), plain.numpy())


def test_the_shortcut_reads_the_input_before_the_first_activation(rng):
    x = image(rng, 2, 4, 4, 3)
    np.testing.assert_array_equal(nn.Residual(nn.Activation("relu"))(x).numpy(), np.maximum(x.data, 0) + x.data)
    double = nn.PointwiseConv2d(3, 3).astype(np.float64)
    double.weight.data = 2 * np.eye(3)
    y = nn.Residual(nn.Activation("relu"), shortcut=double)(x).numpy()
    np.testing.assert_allclose(y, np.maximum(x.data, 0) + 2 * x.data, **EXACT)


def test_batchnorm_and_dropout_follow_the_mode(rng):
    x = image(rng, 4, 5, 5, 3, dtype=np.float32)
    bn, drop = nn.BatchNorm2d(3), nn.Dropout(0.5)
    y = bn(x).numpy()
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(bn.running_mean.data, 0.01 * x.data.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(bn.running_var.data, 0.99 + 0.01 * x.data.var((0, 1, 2)), rtol=1e-5)
    kept = bn.running_mean.data.copy()
    bn.eval()(x)
    np.testing.assert_array_equal(bn.running_mean.data, kept)
    dropped = drop(x).numpy()
    assert 0.3 < (dropped == 0).mean() < 0.7
    np.testing.assert_array_equal(dropped[dropped != 0], 2 * x.data[dropped != 0])
    np.testing.assert_array_equal(drop.eval()(x).numpy(), x.data)


# The paper's modules --------------------------------------------------------------------------------------------------


def forms_2_and_3(rng):
    """A module of form 2 with random weights, and one of form 3 with the same, its 1x1 kernels side by side."""
    two, three = (nn.InceptionModule(5, 9, form=form).astype(np.float64) for form in (2, 3))
    for _, t in two.named_tensors():
        t.data = rng.uniform(0.5, 1.5, t.shape) if t.ndim == 1 else rng.standard_normal(t.shape)
    towers = [two.tower1, two.tower2, two.tower3]
    pointwise, _, _, _ = three.tower1.children().values()
    chain3, chain2 = three.tower1.children(), [tower.children() for tower in towers]
    pointwise.conv.weight.data = np.concatenate([c["0"].conv.weight.data for c in chain2], axis=1)
    chain3["1"].weight.data = np.concatenate([c["1"].conv.weight.data for c in chain2], axis=3)
    for name in ("gamma", "beta", "running_mean", "running_var"):
        for target, block in ((pointwise.bn, "0"), (chain3["2"], "1")):
            getattr(target, name).data = np.concatenate([getattr(c[block].bn, name).data for c in chain2])
    return two, three


@pytest.mark.parametrize("training", [True, False])
def test_figure_2_and_figure_3_are_the_same_function(training, rng):
    two, three = forms_2_and_3(rng)
    assert two.num_parameters() == three.num_parameters()
    x2 = image(rng, 3, 6, 7, 5, requires_grad=True)
    x3 = mx.tensor(x2.data, requires_grad=True)
    y2, y3 = two.train(training)(x2), three.train(training)(x3)
    np.testing.assert_allclose(y3.numpy(), y2.numpy(), **EXACT)
    dy = rng.standard_normal(y2.shape)
    y2.backward(dy)
    y3.backward(dy)
    np.testing.assert_allclose(x3.grad, x2.grad, **EXACT)
    towers = (two.tower1, two.tower2, two.tower3)
    dw2 = np.concatenate([t.children()["0"].conv.weight.grad for t in towers], axis=1)
    np.testing.assert_allclose(three.tower1.children()["0"].conv.weight.grad, dw2, **EXACT)
    mean2 = np.concatenate([t.children()["1"].bn.running_mean.data for t in towers])
    np.testing.assert_allclose(three.tower1.children()["2"].running_mean.data, mean2, **EXACT)


def test_figure_1_has_four_towers_side_by_side(rng):
    module = nn.InceptionModule(5, 8, form=1).astype(np.float64).eval()
    x = image(rng, 2, 6, 7, 5)
    y = module(x).numpy()
    outputs = [module.tower1(x), module.tower2(x), module.tower3(x), module.tower4(x)]
    np.testing.assert_array_equal(y, np.concatenate([t.numpy() for t in outputs], axis=3))
    pooled = mx.ops.avg_pool2d(x, 3, 1, "same")
    np.testing.assert_array_equal(outputs[3].numpy(), module.tower4.children()["1"](pooled).numpy())
    ones, threes = 4 * 5 * 2, 3 * 9 * 2 * 2  # 1x1 kernels of four towers, and three 3x3 kernels
    assert module.num_parameters() == ones + threes + 7 * 4 * 2


@pytest.mark.parametrize("segments", [1, 2, 3, 4, 6, 12])
def test_spectrum_parameters(segments):
    layer = nn.SpectrumConv2d(8, 12, kernel_size=5, segments=segments)
    assert layer.num_parameters() == 8 * 12 + 25 * 12 * 12 // segments


def test_one_end_of_the_spectrum_is_a_pointwise_then_a_depthwise_convolution(rng):
    layer = nn.SpectrumConv2d(5, 6, segments=6).astype(np.float64)
    x = image(rng, 2, 7, 6, 5)
    z = mx.ops.pointwise_conv2d(x, layer.pointwise.weight)
    expected = mx.ops.depthwise_conv2d(z, Tensor(layer.spatial.weight.data.reshape(3, 3, 6)))
    np.testing.assert_allclose(layer(x).numpy(), expected.numpy(), **EXACT)


def test_the_other_end_is_one_regular_convolution(rng):
    layer = nn.SpectrumConv2d(5, 6, segments=1).astype(np.float64)
    x = image(rng, 2, 7, 6, 5)
    product = np.einsum("im,abmo->abio", layer.pointwise.weight.data, layer.spatial.weight.data)
    np.testing.assert_allclose(layer(x).numpy(), mx.ops.conv2d(x, Tensor(product)).numpy(), **EXACT)


# Initial values -------------------------------------------------------------------------------------------------------


def test_initialisers_have_the_variance_of_their_papers():
    mx.seed(0)
    w = init.glorot_uniform((400, 500), 400, 500, np.float64)
    limit = np.sqrt(6 / 900)
    assert -limit <= w.min() < -0.99 * limit
    assert 0.99 * limit < w.max() <= limit
    assert abs(w.var() / (2 / 900) - 1) < 0.02
    w = init.he_normal((400, 500), 400, np.float64)
    assert abs(w.var() / (2 / 400) - 1) < 0.02


def test_the_seed_decides_the_weights():
    nets = []
    for seed in (3, 3, 4):
        mx.seed(seed)
        nets.append(small_net())
    same, other = nets[1].state_dict(), nets[2].state_dict()
    assert all(np.array_equal(a, same[name]) for name, a in nets[0].state_dict().items())
    assert not np.array_equal(nets[0].conv.weight.data, other["conv.weight"])


@pytest.mark.parametrize("backend", ["numpy", "loops", "cpu"])
def test_a_relu_runs_inside_of_a_separable_convolution(backend, rng):
    relu, separable = nn.Activation("relu"), nn.SeparableConv2d(20, 4, relu=True)
    data = rng.standard_normal((2, 5, 6, 20)).astype(np.float32)
    data[0, 2, 3, 7] = np.nan
    cotangent = rng.standard_normal((2, 5, 6, 4)).astype(np.float32)
    results = []
    with mx.use_backend(backend):
        for run in (separable, lambda x: separable.convolve(relu(x))):
            x = mx.tensor(data, requires_grad=True)
            y = run(x)
            results.append((y, [y.numpy().copy()]))
            separable.zero_grad()
            y.backward(cotangent)
            results[-1][1].extend([x.grad, separable.depthwise.grad, separable.pointwise.grad])
    (fused, got), (_, expected) = results
    assert fused.node.op.name == "relu_separable_conv2d"
    assert np.isnan(got[0]).any()
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# Initial values: what goes into a sum, and how many sums it is part of -----------------------------------------------

LIMITS = {  # layer, its parameter -> fan-in + fan-out
    "regular": (lambda: nn.Conv2d(64, 96, 3), "weight", 9 * 64 + 9 * 96),
    "grouped": (lambda: nn.Conv2d(64, 96, 3, groups=4), "weight", 9 * 16 + 9 * 24),
    "not square": (lambda: nn.Conv2d(64, 96, (1, 7)), "weight", 7 * 64 + 7 * 96),
    "depthwise": (lambda: nn.DepthwiseConv2d(512, 5), "weight", 25 + 25),
    "pointwise": (lambda: nn.PointwiseConv2d(64, 192), "weight", 64 + 192),
    "linear": (lambda: nn.Linear(64, 192), "weight", 64 + 192),
    "separable, depthwise": (lambda: nn.SeparableConv2d(512, 8), "depthwise", 9 + 9),
    "separable, pointwise": (lambda: nn.SeparableConv2d(64, 192), "pointwise", 64 + 192),
}


@pytest.mark.parametrize(("make", "name", "fans"), LIMITS.values(), ids=LIMITS)
def test_initial_weights_are_uniform_up_to_the_limit_of_their_fans(make, name, fans):
    mx.seed(0)
    weight = getattr(make(), name).numpy()
    limit = np.sqrt(6 / fans)
    assert weight.size > 4000
    assert 0.99 * limit < np.abs(weight).max() <= np.float32(limit)
    assert abs(weight.std() / (limit / np.sqrt(3)) - 1) < 0.03
    assert abs(weight.mean()) < 0.05 * limit


def test_inference_gives_each_module_its_own_mode_back_even_after_an_error():
    net = small_net().train()
    net.bn.eval()  # frozen, as in transfer learning
    modes = [module.training for _, module in net.named_modules()]
    assert set(modes) == {True, False}
    with pytest.raises(KeyError), net.inference():
        assert not any(module.training for _, module in net.named_modules())
        raise KeyError
    assert [module.training for _, module in net.named_modules()] == modes


def test_numpys_integers_are_integers(rng):
    x = image(rng, 1, 8, 8, 4)
    two, three = np.int64(2), np.int32(3)
    for make, right in (
        (lambda: nn.Conv2d(4, 2, three, stride=two, groups=two), lambda: nn.Conv2d(4, 2, 3, stride=2, groups=2)),
        (lambda: nn.SeparableConv2d(4, 2, three, stride=two), lambda: nn.SeparableConv2d(4, 2, 3, stride=2)),
        (lambda: nn.PointwiseConv2d(4, 2, stride=two), lambda: nn.PointwiseConv2d(4, 2, stride=2)),
        (lambda: nn.MaxPool2d(three, two, "same"), lambda: nn.MaxPool2d(3, 2, "same")),
        (lambda: nn.AvgPool2d((three, two), two, "same"), lambda: nn.AvgPool2d((3, 2), 2, "same")),
    ):
        mx.seed(0)
        y = make().astype(np.float64)(x)
        mx.seed(0)
        np.testing.assert_array_equal(y.numpy(), right().astype(np.float64)(x).numpy())
