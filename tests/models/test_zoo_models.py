"""Options of InceptionV3, VGG16 and ResNet152: parameters counted by hand, MACs, sizes, errors, and a training step."""

from __future__ import annotations

import json

import numpy as np
import pytest

import minixception as mx
from minixception.apps.cli import main
from minixception.errors import ArgumentError, ShapeError
from minixception.models import MODELS, VGG16, InceptionV3, ResNet152
from minixception.nn import AvgPool2d, BatchNorm2d

# Parameters by hand: InceptionV3 is made of units, a kernel and beta, mean and variance of each channel ---------------


def unit(ci, co, taps=1):
    return taps * ci * co + 3 * co


def figure5(ci, pool):
    return (
        unit(ci, 64)
        + (unit(ci, 48) + unit(48, 64, 25))
        + (unit(ci, 64) + unit(64, 96, 9) + unit(96, 96, 9))
        + unit(ci, pool)
    )


def figure6(n):
    single = unit(768, n) + unit(n, n, 7) + unit(n, 192, 7)
    return unit(768, 192) + single + (unit(768, n) + 3 * unit(n, n, 7) + unit(n, 192, 7)) + unit(768, 192)


def figure7(ci):
    fork = 2 * unit(384, 384, 3)
    return unit(ci, 320) + (unit(ci, 384) + fork) + (unit(ci, 448) + unit(448, 384, 9) + fork) + unit(ci, 192)


INCEPTION = (
    (unit(3, 32, 9) + unit(32, 32, 9) + unit(32, 64, 9) + unit(64, 80) + unit(80, 192, 9))
    + (figure5(192, 32) + figure5(256, 64) + figure5(288, 64))
    + (unit(288, 384, 9) + unit(288, 64) + unit(64, 96, 9) + unit(96, 96, 9))
    + (figure6(128) + 2 * figure6(160) + figure6(192))
    + (unit(768, 192) + unit(192, 320, 9) + unit(768, 192) + 2 * unit(192, 192, 7) + unit(192, 192, 9))
    + (figure7(1280) + figure7(2048))
)
VGG = sum(9 * a * b + b for a, b in [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256)])
VGG += sum(9 * a * b + b for a, b in 2 * [(256, 256)] + [(256, 512)] + 5 * [(512, 512)])


def linear(ci, co):
    return ci * co + co


def conv_norm(ci, co, taps=1):
    return taps * ci * co + co + 4 * co


def bottlenecks(ci, width, blocks):
    inner = conv_norm(width, width, 9) + conv_norm(width, 4 * width)
    first = conv_norm(ci, width) + inner + conv_norm(ci, 4 * width)
    return first + (blocks - 1) * (conv_norm(4 * width, width) + inner)


RESNET = conv_norm(3, 64, 49) + sum(
    bottlenecks(*stage) for stage in [(64, 64, 3), (256, 128, 8), (512, 256, 36), (1024, 512, 3)]
)


@pytest.mark.parametrize(
    ("network", "options", "expected"),
    [
        (InceptionV3, {}, 23_851_784),
        (InceptionV3, {"include_top": False, "pooling": "avg"}, INCEPTION),
        (InceptionV3, {"num_classes": 7}, INCEPTION + linear(2048, 7)),
        (
            InceptionV3,
            {"num_classes": 17, "fc_units": (4096, 4096), "dropout": 0.5},
            INCEPTION + linear(2048, 4096) + linear(4096, 4096) + linear(4096, 17),
        ),
        (VGG16, {"include_top": False, "pooling": "max"}, VGG),
        (
            VGG16,
            {"num_classes": 7, "input_shape": (64, 32, 3)},
            VGG + linear(1024, 4096) + linear(4096, 4096) + linear(4096, 7),
        ),
        (ResNet152, {}, 60_419_944),
        (ResNet152, {"include_top": False}, RESNET),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_parameter_counts(network, options, expected):
    assert network(**options).num_parameters() == expected


def test_the_counts_by_hand_are_kerass():
    assert INCEPTION + linear(2048, 1000) == 23_851_784
    assert RESNET + linear(2048, 1000) == 60_419_944
    assert VGG + linear(25088, 4096) + linear(4096, 4096) + linear(4096, 1000) == 138_357_544


# The variant of table 3 -----------------------------------------------------------------------------------------------


def test_the_variant_of_table_3_has_exactly_its_parameters():
    model = InceptionV3(variant="2016")
    assert model.num_parameters(trainable=True) == 23_626_728
    assert list(model.mixed5.b1x1.children()) == ["conv", "act", "bn"]
    assert isinstance(model.mixed8.pool, AvgPool2d)


@pytest.mark.parametrize("variant", [None, "2016"])
def test_compiled_inceptions_are_equal_to_the_model(variant, rng):
    model = InceptionV3(10, input_shape=(80, 75, 3), variant=variant)
    for name, t in model.named_tensors():
        if name.endswith(("running_mean", "beta", "bias")):
            t.data[...] = rng.standard_normal(t.shape) * 0.1
        elif name.endswith(("running_var", "gamma")):
            t.data[...] = rng.uniform(0.5, 1.5, t.shape)
    x = rng.uniform(-1, 1, (3, 80, 75, 3)).astype(np.float32)
    with mx.no_grad():
        expected = model.eval()(mx.tensor(x)).numpy()
    np.testing.assert_allclose(mx.compile(model)(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Sizes and errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "size", "features"),
    [
        (InceptionV3, (75, 75), (1, 1, 2048)),
        (InceptionV3, (107, 95), (2, 1, 2048)),
        (VGG16, (32, 32), (1, 1, 512)),
        (VGG16, (65, 97), (2, 3, 512)),
        (ResNet152, (32, 32), (1, 1, 2048)),
        (ResNet152, (33, 70), (2, 3, 2048)),
    ],
)
def test_sizes_of_the_last_map(network, size, features):
    rows = network(include_top=False, input_shape=(*size, 3)).summary().rows
    assert rows[-1].output_shape == features


@pytest.mark.parametrize(("network", "least"), [(InceptionV3, 75), (VGG16, 32), (ResNet152, 32)])
def test_smaller_images_are_an_error_in_words(network, least):
    with pytest.raises(ShapeError, match=rf"{network.__name__}: .* of at least {least}, got \(1, {least}, {least - 1}"):
        network(input_shape=(least, least - 1, 3))
    with pytest.raises(ArgumentError, match="pooling must be"):
        network(include_top=False, pooling="mean")
    with pytest.raises(ArgumentError, match="variant must be"):
        InceptionV3(variant="v4")


def test_fully_connected_layers_need_the_size_they_were_made_for(rng):
    model = VGG16(3, input_shape=(32, 32, 3)).eval()
    with mx.no_grad():
        assert model(mx.tensor(np.zeros((2, 32, 32, 3), np.float32))).shape == (2, 3)
        with pytest.raises(ShapeError, match="linear"):
            model(mx.tensor(np.zeros((2, 64, 64, 3), np.float32)))


@pytest.mark.slow
def test_weights_are_loaded(tmp_path):
    saved = ResNet152(include_top=False, input_shape=(32, 32, 3))
    saved.save_weights(tmp_path / "resnet.safetensors")
    loaded = ResNet152(include_top=False, input_shape=(32, 32, 3), weights=tmp_path / "resnet.safetensors")
    for (name, one), (_, other) in zip(saved.named_tensors(), loaded.named_tensors(), strict=True):
        np.testing.assert_array_equal(one.data, other.data, err_msg=name)


def test_every_model_has_a_name_a_size_and_a_way_to_read_pixels():
    for name, constructor in MODELS.items():
        model = constructor(input_shape=(96, 96, 3), num_classes=4)
        assert model.input_shape == (96, 96, 3), name
        assert model.preprocessing in ("tf", "caffe", "torch") or name == "mini_xception"


def test_the_command_line_knows_them_all(capsys):
    assert main(["cost", "resnet152", "--size", "64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["params"] == 60_419_944
    assert told["alternatives"] == []  # it has no separable convolutions to replace
    for name in MODELS:
        assert main(["summary", name, "--size", "96"]) == 0
        assert "predictions" in capsys.readouterr().out


# Training -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options"),
    [
        (InceptionV3, {"input_shape": (75, 75, 3)}),
        (InceptionV3, {"input_shape": (75, 75, 3), "variant": "2016", "fc_units": (8,)}),
        (VGG16, {"input_shape": (32, 32, 3)}),
        (ResNet152, {"input_shape": (64, 64, 3)}),
    ],
    ids=["inception_v3", "inception_v3 2016", "vgg16", "resnet152"],
)
def test_a_step_lowers_the_loss_by_what_the_gradients_promise(network, options, rng):
    mx.seed(0)
    model = network(5, **options).astype(np.float64).train()
    x, labels = mx.tensor(rng.uniform(-1, 1, (4, *options["input_shape"]))), np.eye(5)[:4]
    before = mx.binary_cross_entropy_with_logits(model(x), labels)  # many labels, as on JFT
    before.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert all(g.any() for name, g in gradients.items() if name.endswith("weight"))
    promised = 1e-6 * before.item()
    slope = sum(np.vdot(g, g) for g in gradients.values())
    mx.optim.SGD(model.parameters(), lr=promised / slope).step()
    with mx.no_grad():
        after = mx.binary_cross_entropy_with_logits(model(x), labels)
    assert before.item() - after.item() == pytest.approx(promised, rel=1e-2)
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm2d):
            assert module.running_mean.data.any(), name  # training has moved it away from zero
