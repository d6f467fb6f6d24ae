"""Xception's options, its parameters counted by hand, sizes, and gradients through whole networks."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception.errors import ArgumentError, ShapeError, WeightsError
from minixception.models import Xception, mini_xception
from minixception.nn import Residual, SeparableConv2d

SMALL = (71, 71, 3)


def image(rng, *shape, dtype=np.float32):
    return mx.tensor(rng.standard_normal(shape).astype(dtype))


def count(block):
    return sum(t.data.size for _, t in block.named_tensors())


# Parameters by hand ---------------------------------------------------------------------------------------------------


def bn(c):
    return 4 * c


def separable(ci, co):
    return 9 * ci + ci * co + bn(co)


def shortcut(ci, co):
    return ci * co + bn(co)


STEM = 9 * 3 * 32 + bn(32) + 9 * 32 * 64 + bn(64)
DOWN = [(64, 128, 128), (128, 256, 256), (256, 728, 728), (728, 728, 1024)]
BODY = (
    STEM
    + sum(separable(a, b) + separable(b, c) for a, b, c in DOWN)
    + 8 * 3 * separable(728, 728)
    + separable(1024, 1536)
    + separable(1536, 2048)
)
SHORTCUTS = sum(shortcut(a, c) for a, _, c in DOWN)
TOP = 2048 * 1000 + 1000
FC = 2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 22_910_480),
        ({"include_top": False}, 20_861_480),
        ({"residual": False}, BODY + TOP),
        ({"residual": False, "include_top": False, "pooling": "avg"}, BODY),
        ({"fc_units": (4096, 4096), "dropout": 0.5}, BODY + SHORTCUTS + FC),
        ({"intermediate_activation": "elu"}, BODY + SHORTCUTS + TOP),
        ({"num_classes": 17}, BODY + SHORTCUTS + 2048 * 17 + 17),
    ],
)
def test_parameter_counts(options, expected):
    assert Xception(**options).num_parameters() == expected


def test_trainable_parameters_are_the_papers():
    model = Xception()
    assert model.num_parameters(trainable=True) == 22_855_952
    assert model.num_parameters(trainable=False) == 22_910_480 - 22_855_952
    assert BODY + SHORTCUTS + TOP == 22_910_480


def test_summary_shows_the_totals_as_text_and_as_html():
    table = Xception().summary()
    for text in (str(table), table._repr_html_()):
        assert "22,910,480" in text
        assert "22,855,952" in text
        assert "8,357,403,496" in text
    assert "block14.sepconv2" in str(table)


# Options --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def body():
    """Xception without its top, in inference mode."""
    mx.seed(1)
    return Xception(include_top=False, input_shape=SMALL).eval()


def halved(size):
    """Pixels left of a side: block1 is "valid", then four blocks halve it, rounding up."""
    size = (size - 3) // 2 + 1 - 2
    for _ in range(4):
        size = -(-size // 2)
    return size


@pytest.mark.parametrize("size", [(71, 71), (72, 72), (150, 150), (71, 104)])
def test_any_size_from_71_pixels(body, size, rng):
    with mx.no_grad():
        y = body(image(rng, 1, *size, 3))
    assert y.shape == (1, halved(size[0]), halved(size[1]), 2048)
    assert y.dtype == np.float32
    assert np.isfinite(y.data).all()


@pytest.mark.parametrize("size", [(70, 71), (71, 70), (32, 32), (3, 299)])
def test_smaller_inputs_are_refused_by_the_network_and_when_it_is_made(body, size):
    with pytest.raises(ShapeError, match=f"at least 71, got .*{size[0]}, {size[1]}"):
        body(mx.tensor(np.zeros((1, *size, 3), np.float32)))
    with pytest.raises(ShapeError, match="at least 71"):
        Xception(input_shape=(*size, 3))


def test_other_wrong_inputs(body):
    with pytest.raises(ShapeError, match=r"\(n, h, w, c\)"):
        body(mx.tensor(np.zeros((71, 71, 3), np.float32)))
    with pytest.raises(ShapeError, match=r"\(n, h, w, c\)"):
        body(mx.tensor(np.zeros((1, 3, 71, 71), np.float32)))
    with pytest.raises(ShapeError, match="3 input channels, x has 4"):
        body(mx.tensor(np.zeros((1, 71, 71, 4), np.float32)))


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling_without_the_top(body, pooling, reduce, rng):
    model = Xception(include_top=False, pooling=pooling, input_shape=(71, 104, 3)).eval()
    model.load_state_dict(body.state_dict())
    x = image(rng, 2, 71, 104, 3)
    with mx.no_grad():
        y, features = model(x).numpy(), body(x).numpy()
    assert y.shape == (2, 2048)
    np.testing.assert_allclose(y, reduce(features, axis=(1, 2)), rtol=1e-5, atol=1e-6)


def test_the_top_is_linear_in_the_pooled_features(body, rng):
    model = Xception(num_classes=5, input_shape=SMALL).eval()
    top = {name: a for name, a in model.state_dict().items() if name.startswith("predictions")}
    model.load_state_dict(body.state_dict() | top)
    x = image(rng, 2, *SMALL)
    with mx.no_grad():
        y, features = model(x).numpy(), body(x).numpy().mean((1, 2))
    expected = features @ top["predictions.weight"] + top["predictions.bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["relu", "elu"])
def test_intermediate_activation_is_in_every_separable_convolution(name):
    model = Xception(intermediate_activation=name, input_shape=SMALL)
    separables = [m for _, m in model.named_modules() if isinstance(m, SeparableConv2d)]
    assert len(separables) == 34
    assert {m.activation for m in separables} == {name}


def test_wrong_options():
    with pytest.raises(ArgumentError, match="pooling must be None, 'avg' or 'max', got 'sum'"):
        Xception(pooling="sum")
    with pytest.raises(ArgumentError, match="got 'swish'"):
        Xception(intermediate_activation="swish")


def test_residual_connections_are_where_the_figure_has_them():
    model = Xception(input_shape=SMALL)
    residual = {name for name, m in model.named_modules() if isinstance(m, Residual)}
    assert residual == {f"block{i}" for i in range(2, 14)}
    with_convolution = {name for name in residual if getattr(model, name).shortcut is not None}
    assert with_convolution == {"block2", "block3", "block4", "block13"}
    assert count(model.block13.shortcut) == shortcut(728, 1024)
    without = Xception(residual=False, input_shape=SMALL)
    assert not any(isinstance(m, Residual) for _, m in without.named_modules())


def test_weights_of_a_file(tmp_path, body):
    path = tmp_path / "w.safetensors"
    body.save_weights(path)
    model = Xception(include_top=False, input_shape=SMALL, weights=path)
    for (name, a), b in zip(model.state_dict().items(), body.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
    with pytest.raises(WeightsError, match=r"missing: predictions.weight \(2048, 1000\)"):
        Xception(input_shape=SMALL, weights=path)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: mini_xception(dropout=0.2),
        lambda: Xception(3, input_shape=SMALL, fc_units=(8,), dropout=0.5),
        lambda: Xception(3, input_shape=SMALL, residual=False, intermediate_activation="elu"),
    ],
    ids=["mini", "full", "plain with elu"],
)
def test_a_gradient_reaches_every_parameter(make, rng):
    mx.seed(5)
    model = make()
    loss = mx.cross_entropy(model(image(rng, 2, *model.input_shape)), [0, 2])
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.shape == p.shape
        assert np.isfinite(p.grad).all(), name
        assert np.any(p.grad), name
    for name, b in model.named_buffers():
        assert b.grad is None, name


@pytest.mark.usefixtures("each_backend")
@pytest.mark.parametrize("training", [True, False])
def test_gradcheck_through_the_whole_small_network(training):
    mx.seed(2)
    rng = np.random.Generator(np.random.PCG64(8))  # a case whose differences cross no kink of relu or max
    model = mini_xception(3, widths=(5, 6), middle_blocks=1, stem=4, input_shape=(8, 8, 3)).astype(np.float64)
    for _, b in model.named_buffers():
        b.data = rng.uniform(0.5, 1.5, b.shape)
    model.train(training)
    x = mx.tensor(rng.standard_normal((3, 8, 8, 3)), requires_grad=True)
    mx.gradcheck(lambda *_: model(x), {"x": x, **dict(model.named_parameters())})


# mini_xception --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "middle", "stem"), [((64, 128, 256), 4, 32), ((8,), 0, 4), ((8, 8, 12, 16), 2, 8), ((), 1, 6)]
)
def test_mini_xception_parameters(widths, middle, stem):
    channels = [stem, *widths]
    expected = 27 * stem + bn(stem) + middle * 3 * separable(channels[-1], channels[-1]) + channels[-1] * 7 + 7
    for ci, co in zip(channels, widths, strict=False):
        expected += separable(ci, co) + separable(co, co) + shortcut(ci, co)
    model = mini_xception(7, widths, middle, stem)
    assert model.num_parameters() == expected
    assert model.summary().params == expected


def test_mini_xception_takes_other_sizes_and_halves_per_width(rng):
    model = mini_xception(4, (8, 12), 1, 4, input_shape=(20, 33, 3)).eval()
    with mx.no_grad():
        assert model(image(rng, 2, 20, 33, 3)).shape == (2, 4)
    shapes = {row.name: row.output_shape for row in model.summary().rows}
    assert shapes["block2.pool"] == (10, 17, 8)
    assert shapes["block3.pool"] == (5, 9, 12)
    assert shapes["block4.add"] == (5, 9, 12)
    assert "block3.sepconv1_act" in shapes
    assert "block2.sepconv1_act" not in shapes  # it follows the stem's ReLU


def test_the_order_of_the_batch_does_not_matter_in_inference(rng):
    model, x = mini_xception(4, (8, 12), 1, 4).eval(), image(rng, 6, 32, 32, 3)
    with mx.no_grad():
        whole, reverse = model(x).numpy(), model(mx.tensor(x.data[::-1])).numpy()
        single = model(mx.tensor(x.data[2:3])).numpy()
    np.testing.assert_allclose(reverse[::-1], whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(single, whole[2:3], rtol=1e-5, atol=1e-6)
