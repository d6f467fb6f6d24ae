"""What somebody does who comes from another library: lists of layers, printing, wrong types."""

import numpy as np
import pytest

import minixception as mx
from minixception import nn
from minixception.errors import ArgumentError, DTypeError

X = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)


class Plain(nn.Module):
    def __init__(self, layers):
        self.layers = layers

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("kind", [list, tuple, set, lambda layers: dict(enumerate(layers))])
@pytest.mark.parametrize("inside", [nn.Conv2d(3, 3), nn.Parameter(np.ones(3, np.float32))])
def test_a_list_of_layers_is_refused_where_nobody_would_see_it(kind, inside):
    with pytest.raises(ArgumentError, match=r"Plain\.layers would be a (list|tuple|set|dict) of .* nn\.ModuleList"):
        Plain(kind([inside]))


def test_other_lists_are_attributes():
    assert Plain([3, "a"]).layers == [3, "a"] and Plain([]).layers == []


@pytest.mark.parametrize("make", [nn.ModuleList, nn.Sequential, lambda layers: nn.Sequential(*layers)])
def test_a_list_of_modules_is_followed(make, tmp_path):
    layers = [nn.Conv2d(3, 4), nn.Activation("relu"), nn.Conv2d(4, 5)]
    model = Plain(make(layers))
    assert [name for name, _ in model.named_parameters()] == ["layers.0.weight", "layers.2.weight"]
    assert list(model.layers) == layers and len(model.layers) == 3
    assert model.layers[1] is layers[1] and model.layers[-1] is layers[2]
    assert list(model.layers[1:]) == layers[1:] and type(model.layers[1:]) is type(model.layers)
    with pytest.raises(IndexError):
        model.layers[3]
    expected = layers[2](layers[1](layers[0](mx.tensor(X)))).numpy()
    np.testing.assert_array_equal(model(mx.tensor(X)).numpy(), expected)
    np.testing.assert_allclose(mx.compile(model)(X), expected, atol=1e-5)


def test_a_residual_connection_of_no_layers_is_its_shortcut():
    residual = nn.Residual(shortcut=nn.Sequential())
    np.testing.assert_array_equal(residual(mx.tensor(X)).numpy(), 2 * X)


@pytest.mark.parametrize("wrong", [3, mx.ops.relu, "relu", [nn.Conv2d(3, 3), None], {"a": nn.Conv2d(3, 3)}])
def test_what_is_no_module_is_no_layer(wrong):
    with pytest.raises(ArgumentError, match="Sequential takes modules, got"):
        nn.Sequential(wrong)


def test_printing_a_model_shows_its_tree():
    model = nn.Sequential(conv=nn.Conv2d(3, 4, stride=2), rest=nn.Sequential(nn.BatchNorm2d(4), nn.Activation("relu")))
    lines = repr(model).splitlines()
    assert lines[0] == "Sequential"
    assert lines[1].startswith("  conv: Conv2d(") and "stride=2" in lines[1] and "weight=(3, 3, 3, 4)" in lines[1]
    assert lines[2] == "  rest: Sequential"
    assert lines[3].startswith("    0: BatchNorm2d(") and "running_var=(4,)" in lines[3]
    assert lines[4] == "    1: Activation(name='relu')"


def test_a_model_without_parameters_is_not_saved(tmp_path):
    for name in ("a.safetensors", "a.weights.h5"):
        with pytest.raises(ArgumentError, match="Activation has no parameters to save"):
            mx.weights.save_weights(nn.Activation("relu"), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_tensor_is_made_a_parameter():
    parameter = nn.Parameter(mx.tensor([1.0, 2.0]))
    assert parameter.requires_grad and parameter.dtype == np.float32 and parameter.shape == (2,)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mx.Tensor([1.0, 2.0]), ArgumentError, r"Tensor takes an array, got list: mx\.tensor"),
        (lambda: mx.Tensor(mx.tensor(1.0)), ArgumentError, "Tensor takes an array, got Tensor"),
        (lambda: nn.Parameter(3.0), ArgumentError, "Parameter takes an array, got float"),
        (lambda: mx.optim.SGD([{"params": []}], lr=0.1), ArgumentError, "got dict among them"),
        (lambda: mx.optim.Adam(nn.Conv2d(3, 4), lr=0.1), ArgumentError, r"as in model\.parameters\(\), got Conv2d"),
        (lambda: mx.models.mini_xception(10, input_shape=None), ArgumentError, r"input_shape must be \(h, w, c\)"),
        (lambda: mx.models.Xception(weights=None, input_shape=299), ArgumentError, r"input_shape must be \(h, w, c\)"),
        (lambda: nn.Conv2d(3, 4)(mx.tensor(X.astype(np.float64))), DTypeError, r'mx\.tensor\(x, dtype="float32"\)'),
    ],
)
def test_wrong_types_are_told_what_to_do(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("name", ["relu", "elu", "gelu", "sigmoid", "tanh"])
def test_activations_by_pytorchs_names_are_the_layers_that_everything_knows(name):
    layer = {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}[name]()
    assert type(layer) is nn.Activation and repr(layer) == f"Activation(name={name!r})"
    np.testing.assert_array_equal(layer(mx.tensor(X)).numpy(), getattr(mx.ops, name)(mx.tensor(X)).numpy())


def test_a_network_of_pytorchs_names_compiles():
    model = nn.Sequential(nn.Conv2d(3, 4), nn.Identity(), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3), nn.Softmax())
    expected = model(mx.tensor(X)).numpy()
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-6)
    compiled = mx.compile(model)
    np.testing.assert_allclose(compiled(X), expected, atol=1e-6)
    assert [row[0] for row in compiled.plan.rows] == ["0 + 2", "3", "4", "5"]  # Identity is no step
    assert nn.Identity()(x := mx.tensor(X)) is x
