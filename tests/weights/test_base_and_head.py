"""A base with a head, as Keras users build them: in one model or nested; a part of a file, and what is left of it."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

from minixception.errors import WeightsError
from minixception.nn import Activation, BatchNorm2d, Conv2d, GlobalAvgPool, Linear, Sequential
from minixception.weights import load_weights, read_weights
from tests.helpers.weight_files import (
    BODY,
    HEAD,
    keras_layers,
    same,
    small_model,
    write_keras2,
    write_keras3,
    write_keras_archive,
)


@pytest.fixture
def body():
    return keras_layers(small_model("head"), BODY)


@pytest.fixture
def dense():
    return keras_layers(small_model("head"), HEAD)


def base_and_head(seed=1, *between):
    """small_model("head") as a base that knows its input, and a head: the same layers, in the same order."""
    model = small_model("head", seed)
    base = Sequential(block1=model.block1, block2=model.block2, avg_pool=model.avg_pool)
    base.input_shape = model.input_shape
    return Sequential(base=base, head=Sequential(model.fc1, *between, Activation("relu"), model.fc2))


def body_of(model):
    return Sequential(block1=model.block1, block2=model.block2)


def error(model, path, **options):
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path, **options)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    return str(caught.value)


def named(layers, *names):
    """The same layers under other names."""
    return [(name, kind, arrays) for name, (_, kind, arrays) in zip(names, layers, strict=True)]


# One model: Model(base.input, Dense(3)(Dense(7)(base.output))) --------------------------------------------------------

FLAT = {
    "keras2": write_keras2,
    "keras3": write_keras3,
    "keras3_unnamed": lambda path, layers: write_keras3(path, layers, named=False),
    "archive": write_keras_archive,
}


@pytest.mark.parametrize("write", FLAT.values(), ids=FLAT)
def test_the_base_of_a_model_with_a_head(tmp_path, write, body, dense):
    write(tmp_path / "w", body + dense)
    message = error(small_model(None, seed=1), tmp_path / "w")
    assert 'the file has more than the model, such as a head: part="base" or strict=False leaves that' in message
    assert message.count("surplus: ") == 4
    for options in ({"part": "base"}, {"strict": False}):
        model = small_model(None, seed=1)
        loaded = load_weights(model, tmp_path / "w", **options)
        assert (loaded.tensors, len(loaded.outside), loaded.missing) == (16, 4, ())
        same(model, body_of(small_model("head")))
        arrays = read_weights(tmp_path / "w")
        assert sorted(arrays[name].shape for name in loaded.outside) == [(3,), (6, 7), (7,), (7, 3)]
        assert len(arrays) == 20


@pytest.mark.parametrize("write", FLAT.values(), ids=FLAT)
@pytest.mark.parametrize("names", [("dense_4", "dense_3"), ("hidden", "my_classes")])
def test_one_model_into_a_base_and_a_head(tmp_path, write, names, body, dense):
    write(tmp_path / "w", body + named(dense, *names))
    model = base_and_head()
    assert load_weights(model, tmp_path / "w").tensors == 20
    same(model, base_and_head(0))


def test_a_head_with_layers_of_the_classes_of_the_base(tmp_path, body, dense):
    norm = {role: np.full(7, k + 1, np.float32) for k, role in enumerate(body[1][2])}
    head = [dense[0], ("batch_normalization_9", "batch_normalization", norm), dense[1]]
    write_keras2(tmp_path / "flat", body + head)
    write_keras3(tmp_path / "nested", head, nested={"functional": body}, named=False)
    for name in ("flat", "nested"):
        model = base_and_head(1, BatchNorm2d(7))
        assert load_weights(model, tmp_path / name).tensors == 24
        same(model.base, base_and_head(0).base)
        np.testing.assert_array_equal(model.head[1].gamma.data, norm["gamma"])
        base = small_model(None, seed=1)
        assert load_weights(base, tmp_path / name, part="base").tensors == 16
        same(base, body_of(small_model("head")))


# Nested ---------------------------------------------------------------------------------------------------------------


def write_deep(path, body, dense):
    """Keras 3: the base in a model with the first dense layer, which is in the model with the second."""
    write_keras3(path, dense[1:], named=False, nested={"functional": dense[:1]})
    write_keras3(path.with_suffix(".inner"), body, named=False)
    with h5py.File(path, "r+") as file, h5py.File(path.with_suffix(".inner")) as inner:
        inner.copy("layers", file.create_group("layers/functional/layers/functional"))


NESTED = {
    "keras2": lambda path, body, dense: write_keras2(path, dense, nested={"xception": body}),
    "keras3": lambda path, body, dense: write_keras3(path, dense, nested={"functional": body}),
    "keras3_unnamed": lambda path, body, dense: write_keras3(path, dense, named=False, nested={"functional": body}),
    "keras3_head_nested": lambda path, body, dense: write_keras3(
        path, [], nested={"functional": body, "sequential": dense}
    ),
    "keras2_deep": lambda path, body, dense: write_keras2(
        path, [], nested={"features": [*body, dense[0]], "dense_1": dense[1:]}
    ),
    "keras3_deep": write_deep,
}


@pytest.mark.parametrize("write", NESTED.values(), ids=NESTED)
def test_a_nested_model_into_a_base_and_a_head_and_into_the_base(tmp_path, write, body, dense):
    write(tmp_path / "w", body, dense)
    model = base_and_head()
    assert load_weights(model, tmp_path / "w").tensors == 20
    same(model, base_and_head(0))
    base = small_model(None, seed=1)
    loaded = load_weights(base, tmp_path / "w", part="base")
    assert (loaded.tensors, len(loaded.outside)) == (16, 4)
    same(base, body_of(small_model("head")))


def test_a_legacy_file_two_levels_deep_says_how_its_base_is_loaded(tmp_path, body, dense):
    write_keras2(tmp_path / "w", dense[1:], nested={"features": [*body, dense[0]]})
    message = error(small_model(None, seed=1), tmp_path / "w")
    assert 'part="base" or strict=False' in message and "surplus: /features/dense/kernel:0 (6, 7)" in message


def test_one_of_two_nested_models(tmp_path, body):
    other = keras_layers(small_model("head", seed=5), BODY)
    write_keras3(tmp_path / "w", [], nested={"functional": body, "functional_1": other})
    message = error(small_model(None), tmp_path / "w")
    assert "one nested model that fits, got 2: functional, functional_1; part='functional' takes that one" in message
    model = small_model(None, seed=1)
    assert len(load_weights(model, tmp_path / "w", part="functional_1").outside) == 16
    same(model, body_of(small_model("head", seed=5)))
    message = error(small_model(None), tmp_path / "w", part="top")
    assert "expected a part of the file, one of 'base', 'functional', 'functional_1', got 'top'" in message


def test_a_class_of_ones_own_keeps_models_and_layers_as_attributes(tmp_path, body, dense):
    write_keras3(tmp_path / "w", named(dense[1:], "dense_8"), nested={"functional": body}, optimizer=True)
    with h5py.File(tmp_path / "w", "r+") as file:
        file.move("layers/functional", "base")
        file["hidden/vars/0"], file["hidden/vars/1"] = dense[0][2].values()
        file["hidden/vars"].attrs["name"] = "dense_7"
        file["metrics/mean/vars/0"] = np.float32(0.5)
    model = base_and_head()
    assert load_weights(model, tmp_path / "w").outside == ()
    same(model, base_and_head(0))
    with h5py.File(tmp_path / "w", "r+") as file:
        file["hidden/vars"].attrs["name"] = "mine"  # a class that nothing tells
    loaded = load_weights(base_and_head(), tmp_path / "w", strict=False)
    assert {"/hidden/vars/0", "/hidden/vars/1"} <= set(loaded.outside)


# Our base and head, written -------------------------------------------------------------------------------------------


def test_a_model_in_a_model_is_written_as_keras_nests_it(tmp_path):
    outer = Sequential(features=base_and_head(0), out=Linear(3, 2))
    outer.features.input_shape = (16, 16, 3)
    outer.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5") as file:
        assert set(file["layers"]) == {"functional", "dense"}
        features = file["layers/functional/layers"]
        assert set(features) == {"functional", "dense", "dense_1"}
        assert set(features["functional/layers"]) == {
            *("conv2d", "conv2d_1", "separable_conv2d"),
            *("batch_normalization", "batch_normalization_1", "batch_normalization_2"),
        }
        assert features["functional/layers/conv2d/vars"].attrs["name"] == "block1_conv1"
        np.testing.assert_array_equal(features["dense_1/vars/0"], outer.features.head[2].weight.data)
    base = small_model(None, seed=1)
    base.load_weights(tmp_path / "w.weights.h5")
    same(base, body_of(small_model("head")))


def test_nested_is_read_flat_and_flat_is_read_nested(tmp_path):
    base_and_head(0).save_weights(tmp_path / "nested.weights.h5")
    flat = small_model("head", seed=1)
    flat.load_weights(tmp_path / "nested.weights.h5")
    same(flat, small_model("head"))
    flat.save_weights(tmp_path / "flat.weights.h5")
    model = base_and_head()
    model.load_weights(tmp_path / "flat.weights.h5")
    same(model, base_and_head(0))


# What is left ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_keras2, write_keras3, None])
def test_another_number_of_classes(tmp_path, write, body):
    top = Linear(6, 9)
    model = small_model("top", seed=1)
    if write:
        arrays = {"kernel": top.weight.data, "bias": top.bias.data}
        write(tmp_path / "w", [*body, ("dense_3", "dense", arrays)])
    else:
        state = body_of(small_model("head")).state_dict()
        save_file(state | {"predictions.weight": top.weight.data, "predictions.bias": top.bias.data}, tmp_path / "w")
    advice, _, lines = error(model, tmp_path / "w").partition(":\n")
    assert "the file has 9 classes: build the model with num_classes=9, on the command line --classes 9, or" in advice
    assert "shape of predictions.weight: the model has (6, 5), the file (6, 9)" in lines
    loaded = load_weights(model, tmp_path / "w", strict=False)
    assert (loaded.tensors, loaded.missing) == (16, ("predictions.weight", "predictions.bias"))
    assert sorted(array.shape for name, array in read_weights(tmp_path / "w").items() if name in loaded.outside) == [
        (6, 9),
        (9,),
    ]
    same(body_of(model), body_of(small_model("head")))
    np.testing.assert_array_equal(model.predictions.weight.data, small_model("top", seed=1).predictions.weight.data)


def test_a_file_without_the_head(tmp_path, body):
    write_keras3(tmp_path / "w", body)
    model = base_and_head()
    assert "the model has more than the file: strict=False leaves that as it is" in error(model, tmp_path / "w")
    loaded = load_weights(model, tmp_path / "w", strict=False)
    assert loaded.missing == ("head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias")
    same(model.base, base_and_head(0).base)
    same(model.head, base_and_head(1).head)
    assert "missing: head.0.weight" in error(model, tmp_path / "w", part="base")  # a part is no excuse for a gap


def test_a_class_in_which_one_layer_is_out_of_place_is_left_as_a_whole(tmp_path):
    kernels = [np.full((1, 1, *axes), k, np.float32) for k, axes in enumerate([(4, 6), (6, 6), (6, 4)])]
    write_keras2(tmp_path / "w", [(f"conv2d_{k}", "conv2d", {"kernel": a}) for k, a in enumerate(kernels)])
    model = Sequential(Conv2d(4, 6, 1), Conv2d(6, 4, 1), GlobalAvgPool(), Linear(4, 2))
    model.input_shape = (8, 8, 4)
    message = error(model, tmp_path / "w")
    assert "strict=False loads what fits and lists the rest" in message
    assert "shape of 1.weight" in message and "shape of 0.weight" not in message
    assert "have no tensor that fits the model" in error(model, tmp_path / "w", strict=False)


def test_a_layer_that_has_a_bias_in_the_file_alone_is_no_part(tmp_path, body, dense):
    body[4][2]["bias"] = np.ones(6, np.float32)  # the shortcut's, which goes by its order
    write_keras2(tmp_path / "w", body + dense)
    message = error(small_model(None), tmp_path / "w", part="base")
    assert "surplus: /conv2d/conv2d/bias:0 (6,)" in message and "dense" not in message.partition("surplus")[2]


def test_a_duplicate_is_never_left(tmp_path, body):
    write_keras3(tmp_path / "w", [*body, body[0]])
    assert "duplicated: layer block1_conv1" in error(small_model(None), tmp_path / "w", strict=False)


def test_a_part_of_our_own_file(tmp_path):
    base_and_head(0).save_weights(tmp_path / "nested.safetensors")
    small_model("head").save_weights(tmp_path / "flat.safetensors")
    for name, outside in (("nested", "head.0.weight"), ("flat", "fc1.weight")):
        base = small_model(None, seed=1)
        loaded = load_weights(base, tmp_path / f"{name}.safetensors", part="base")
        assert loaded.tensors == 16 and outside in loaded.outside and len(loaded.outside) == 4
        same(base, body_of(small_model("head")))
    assert "one of 'base', 'base.block1" in error(small_model(None), tmp_path / "nested.safetensors", part="top")


# Everything in a file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, ">i4", np.int64, np.float16])
def test_arrays_that_no_layer_of_ours_has(tmp_path, body, dtype):
    write_keras3(tmp_path / "w", [], nested={"functional": body})
    count = np.array([3, 100, 0], dtype)
    with h5py.File(tmp_path / "w", "r+") as file:
        file["layers/normalization/vars/0"] = count
    loaded = load_weights(small_model(None), tmp_path / "w")
    assert loaded.outside == ("/layers/normalization/vars/0",)
    array = read_weights(tmp_path / "w")["/layers/normalization/vars/0"]
    np.testing.assert_array_equal(array, count)
    assert array.dtype == dtype


def test_a_file_that_is_none(tmp_path):
    with pytest.raises(WeightsError, match="no weights file at"):
        read_weights(tmp_path / "none")
    (tmp_path / "w").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="w: neither HDF5"):
        read_weights(tmp_path / "w")
