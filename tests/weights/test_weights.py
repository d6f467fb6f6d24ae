"""Weights of every layout into our networks: each tensor in its place, or an error that lists what has none."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

import minixception as mx
from minixception.errors import ArgumentError, WeightsError
from minixception.models import Xception
from minixception.nn import BatchNorm2d, Conv2d, DepthwiseConv2d, GlobalAvgPool, Linear, Module, Sequential
from minixception.weights import load_weights
from tests.helpers.golden_rule import GOLDEN
from tests.helpers.weight_files import (
    BODY,
    HEAD,
    KERAS1,
    TOP,
    base_files,
    golden_layers,
    golden_model,
    keras_layers,
    problems,
    same,
    small_model,
    write_keras1,
    write_keras2,
    write_keras3,
    write_keras_archive,
)

SMALL = (71, 71, 3)


@pytest.fixture
def layers():
    return keras_layers(small_model("top"), BODY + TOP)


# Layouts --------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "keras1": ("Keras .h5", 18),
    "keras2": ("Keras .h5", 18),
    "keras2_full": ("Keras .h5", 18),
    "keras2_nested": ("Keras .h5", 20),
    "keras3": ("Keras 3 .weights.h5", 18),
    "keras3_unnamed": ("Keras 3 .weights.h5", 18),
    "archive": ("Keras 3 .weights.h5 in .keras", 18),
    "archive_nested": ("Keras 3 .weights.h5 in .keras", 20),
    "archive_packed": ("Keras 3 .weights.h5 in .keras", 18),
    "own": ("minixception", 18),
    "timm": ("timm", 18),
}


def test_every_layout_gives_the_same_network_whatever_the_file_is_called(tmp_path):
    files = base_files(tmp_path)
    assert files.keys() == LAYOUTS.keys()
    for name, (path, head) in files.items():
        model = small_model(head, seed=1)
        loaded = load_weights(model, path.rename(path.with_suffix(".safetensors")))
        assert (loaded.layout, loaded.tensors, loaded.outside) == (*LAYOUTS[name], ())
        same(model, small_model(head))


@pytest.mark.parametrize("text", [np.bytes_, str])
def test_names_of_layers_may_be_bytes_or_text(tmp_path, layers, text):
    write_keras2(tmp_path / "w.h5", layers, text=text)
    model = small_model(seed=1)
    model.load_weights(str(tmp_path / "w.h5"))
    same(model, small_model())


def test_the_released_file_with_and_without_top(tmp_path):
    names = {item["keras3"]: item["keras1"] for item in json.loads((GOLDEN / "h5_name_map.json").read_text())}
    layers = golden_layers()
    write_keras1(tmp_path / "top.h5", layers, names)
    model = Xception()
    assert model.load_weights(tmp_path / "top.h5").tensors == 236
    same(model, golden_model())
    write_keras1(tmp_path / "notop.h5", layers[:-1], names)
    body = Xception(include_top=False, input_shape=SMALL, weights=tmp_path / "notop.h5")
    same(
        body,
        Sequential(**{name: child for name, child in golden_model().children().items() if name.startswith("block")}),
    )


def test_the_numbers_of_version_1_tell_the_order_wherever_a_layer_stands_in_the_file(tmp_path, layers):
    write_keras1(tmp_path / "w", layers[::-1])
    model = small_model(seed=1)
    model.load_weights(tmp_path / "w")
    same(model, small_model())


def test_made_names_start_at_any_number_and_follow_the_file_not_their_numbers(tmp_path):
    renamed = {"conv2d": "conv2d_41", "batch_normalization": "batch_normalization_17"}
    renamed |= {"dense": "dense_6", "dense_1": "dense_5"}  # as Dense(3)(Dense(7)(x)) numbers them
    layers = keras_layers(small_model("head"), BODY + HEAD)
    layers = [(renamed.get(name, name), kind, arrays) for name, kind, arrays in layers]
    write_keras2(tmp_path / "w2", layers)
    write_keras3(tmp_path / "w3", layers)
    for name in ("w2", "w3"):
        model = small_model("head", seed=1)
        model.load_weights(tmp_path / name)
        same(model, small_model("head"))


def test_xception_without_names_is_told_apart_by_the_order_of_its_layers(tmp_path):
    write_keras3(tmp_path / "w", golden_layers(), named=False)
    model = Xception(weights=tmp_path / "w")
    same(model, golden_model())


def test_without_names_a_layer_is_not_taken_for_one_that_is_called_like_its_count(tmp_path):
    kernels = [np.full((3, 3, 2, 2), i, np.float32) for i in range(2)]
    write_keras3(tmp_path / "w", [("x", "conv2d", {"kernel": kernel}) for kernel in kernels], named=False)
    model = Sequential(conv2d_1=Conv2d(2, 2), conv2d=Conv2d(2, 2))
    model.input_shape = (8, 8, 2)
    model.load_weights(tmp_path / "w")
    np.testing.assert_array_equal(model.conv2d_1.weight.data, kernels[0])
    np.testing.assert_array_equal(model.conv2d.weight.data, kernels[1])


def test_where_one_name_is_gone_all_layers_go_by_their_count(tmp_path, layers):
    write_keras3(tmp_path / "w", layers)
    with h5py.File(tmp_path / "w", "r+") as file:
        del file["layers/separable_conv2d/vars"].attrs["name"]
    model = small_model(seed=1)
    model.load_weights(tmp_path / "w")
    same(model, small_model())


def test_files_from_before_version_3_that_look_like_it(tmp_path, layers):
    write_keras3(tmp_path / "w", layers, named=False, container="_layer_checkpoint_dependencies")
    model = small_model(seed=1)
    model.load_weights(tmp_path / "w")
    same(model, small_model())


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_other_floats_become_the_models(tmp_path, layers, dtype):
    model = small_model(seed=1)
    rounded = [(name, kind, {r: a.astype(np.float16) for r, a in arrays.items()}) for name, kind, arrays in layers]
    stored = [(name, kind, {r: a.astype(dtype) for r, a in arrays.items()}) for name, kind, arrays in rounded]
    write_keras3(tmp_path / "w", stored)
    model.load_weights(tmp_path / "w")
    assert {a.dtype for a in model.state_dict().values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(model.block1.conv1.weight.data, rounded[0][2]["kernel"])


def test_layers_with_a_bias_depthwise_layers_and_batchnorm_without_gamma(tmp_path):
    def model(seed):
        net = Sequential(
            conv=Conv2d(3, 4, bias=True),
            depthwise=DepthwiseConv2d(4),
            norm=BatchNorm2d(4, scale=False),
            pool=GlobalAvgPool(),
            fc=Linear(4, 2),
        )
        net.input_shape = (8, 8, 3)
        rng = np.random.default_rng(seed)
        for _, t in net.named_tensors():
            t.data = rng.uniform(0.5, 1.5, t.shape).astype(np.float32)
        return net

    state = model(0).state_dict()
    kernels = {"conv.weight": state["conv.weight"], "depthwise.weight": state["depthwise.weight"][..., None]}
    norm = {"beta": "norm.beta", "moving_mean": "norm.running_mean", "moving_variance": "norm.running_var"}
    layers = [
        ("conv", "conv2d", {"kernel": kernels["conv.weight"], "bias": state["conv.bias"]}),
        ("depthwise", "depthwise_conv2d", {"kernel": kernels["depthwise.weight"]}),
        ("norm", "batch_normalization", {role: state[name] for role, name in norm.items()}),
        ("fc", "dense", {"kernel": state["fc.weight"], "bias": state["fc.bias"]}),
    ]
    write_keras3(tmp_path / "w3", layers, named=False)
    write_keras2(tmp_path / "w2", layers)
    model(0).save_weights(tmp_path / "ours.weights.h5")
    for name in ("w2", "w3", "ours.weights.h5"):
        other = model(1)
        other.load_weights(tmp_path / name)
        same(other, model(0))


# Nested models --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["keras2", "keras3", "keras3_unnamed"])
def nested(request, tmp_path):
    """A file with the body nested below a head, and the names of the head's four arrays."""
    path, model = tmp_path / "nested", small_model("head")
    body, dense = keras_layers(model, BODY), keras_layers(model, HEAD)
    if request.param == "keras2":
        write_keras2(path, dense, suffix="", nested={"xception": body})
        return path, [f"/{name}/{name}/{role}" for name in ("dense", "dense_1") for role in ("kernel", "bias")]
    write_keras_archive(path, dense, named=request.param == "keras3", nested={"functional": body})
    return path, [f"/layers/{name}/vars/{j}" for name in ("dense", "dense_1") for j in (0, 1)]


def test_a_nested_model_with_what_surrounds_it(nested):
    model = small_model("head", seed=1)
    loaded = model.load_weights(nested[0])
    assert (loaded.tensors, loaded.outside) == (20, ())
    same(model, small_model("head"))


def test_a_nested_model_alone(nested):
    model = small_model(None, seed=1)
    loaded = model.load_weights(nested[0])
    assert (loaded.tensors, sorted(loaded.outside)) == (16, sorted(nested[1]))
    same(model, Sequential(**{name: getattr(small_model("head"), name) for name in ("block1", "block2")}))


def test_a_nested_model_that_does_not_fit(nested):
    lines = problems(small_model("top"), nested[0])
    assert "missing: predictions.weight (6, 5)" not in lines  # the first dense layer was taken for it
    assert any(line.startswith("shape of predictions.weight: the model has (6, 5), the file (6, 7)") for line in lines)
    assert any(line.startswith("surplus: ") and "dense_1" in line for line in lines)


def test_two_nested_models_that_both_fit(tmp_path):
    body = keras_layers(small_model(None), BODY)
    write_keras3(tmp_path / "w", [], nested={"functional": body, "functional_1": body})
    with pytest.raises(WeightsError, match="one nested model that fits, got 2: functional, functional_1"):
        small_model(None).load_weights(tmp_path / "w")


def test_layers_of_one_class_within_and_around_a_nested_model_have_no_known_order(tmp_path):
    """Unless only one order fits, as in test_base_and_head.py."""
    first, second = (
        ("dense", "dense", {"kernel": np.full((4, 4), k, np.float32), "bias": np.zeros(4, np.float32)}) for k in (1, 2)
    )
    write_keras3(tmp_path / "w", [second], nested={"functional": [first]})
    model = Sequential(Linear(4, 4), Linear(4, 4))
    model.input_shape = (4,)
    assert "unknown order: dense and others are in functional and in the model itself" in problems(
        model, tmp_path / "w"
    )


# Strictness -----------------------------------------------------------------------------------------------------------

WRITERS = {
    "keras1": lambda path, layers: write_keras1(path, layers, KERAS1 | {"extra": "convolution2d_9"}),
    "keras2": write_keras2,
    "keras3": write_keras3,
    "keras3_unnamed": lambda path, layers: write_keras3(path, layers, named=False),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_missing_layer_and_a_missing_tensor(tmp_path, layers, write):
    del layers[-1][2]["bias"]
    write(tmp_path / "w", layers[:5] + layers[6:])
    lines = problems(small_model(), tmp_path / "w")
    assert "missing: predictions.bias (5,)" in lines
    assert sum(line.startswith("missing") for line in lines) == 5  # the bias, and one batchnorm


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_surplus_layer_and_a_surplus_tensor(tmp_path, layers, write):
    layers[0][2]["bias"] = np.ones(4, np.float32)
    write(tmp_path / "w", [*layers, ("extra", "conv2d", {"kernel": np.ones((1, 1, 2, 2), np.float32)})])
    lines = problems(small_model(), tmp_path / "w")
    assert len(lines) == 2
    assert all(line.startswith("surplus: /") for line in lines)
    assert {line.partition(" (")[2] for line in lines} == {"4,)", "1, 1, 2, 2)"}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_tensor_of_another_shape(tmp_path, layers, write):
    layers[0][2]["kernel"] = np.ones((4, 3, 3, 3), np.float32)  # as many numbers
    write(tmp_path / "w", layers)
    (line,) = problems(small_model(), tmp_path / "w")
    assert line.startswith("shape of block1.conv1.weight: the model has (3, 3, 3, 4), the file (4, 3, 3, 3) in /")


def test_our_own_file_is_held_to_the_model_too(tmp_path):
    state = small_model().state_dict() | {"strange": np.ones(3, np.float32), "predictions.bias": np.ones(4, np.float32)}
    del state["block1.conv1.weight"]
    save_file(state, tmp_path / "w")
    assert problems(small_model(), tmp_path / "w") == [
        "shape of predictions.bias: the model has (5,), the file (4,)",
        "surplus: strange (3,)",
        "missing: block1.conv1.weight (3, 3, 3, 4)",
    ]


def test_a_layer_twice(tmp_path, layers):
    write_keras3(tmp_path / "w3", [*layers, layers[0]])
    assert problems(small_model(), tmp_path / "w3") == ["duplicated: layer block1_conv1"]
    write_keras2(tmp_path / "w2", layers, nested={"other": [layers[0], layers[1]]})
    lines = problems(small_model(), tmp_path / "w2")
    assert lines[:2] == ["duplicated: layer block1_conv1", "duplicated: layer block1_conv1_bn"]


def test_a_layer_of_another_class(tmp_path, layers):
    swapped = {"block1_conv1": "block2_sepconv1", "block2_sepconv1": "block1_conv1"}
    write_keras2(tmp_path / "w", [(swapped.get(name, name), kind, arrays) for name, kind, arrays in layers])
    assert len(problems(small_model(), tmp_path / "w")) == 6  # three tensors missing, three surplus


def test_layers_that_keras_does_not_have_are_missing(tmp_path, layers):
    class Strange(Module):
        def __init__(self):
            self.factor = mx.nn.module.Parameter(np.ones(2, np.float32))

    write_keras2(tmp_path / "w", layers)
    model = small_model()
    model.strange = Strange()
    assert problems(model, tmp_path / "w") == ["missing: strange.factor (2,)"]
    with pytest.raises(ArgumentError, match=r"no layer for: strange\.factor"):
        model.save_weights(tmp_path / "w.weights.h5")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(WeightsError, match="no weights file at "):
        small_model().load_weights(tmp_path / "none.h5")
    with pytest.raises(WeightsError, match="no weights file at "):
        small_model().load_weights(tmp_path)
