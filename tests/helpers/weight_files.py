"""Weight files as others write them, for a small network: each layout by h5py, zipfile and safetensors alone.

What is here knows nothing of minixception/weights: the tables below say how Keras and timm name and shape what we have.
"""

from __future__ import annotations

import functools
import io
import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from minixception.errors import WeightsError
from minixception.models import Xception
from minixception.nn import (
    Activation,
    BatchNorm2d,
    Conv2d,
    GlobalAvgPool,
    Linear,
    MaxPool2d,
    PointwiseConv2d,
    Residual,
    SeparableConv2d,
    Sequential,
)
from tests.helpers import golden_rule
from tests.helpers.golden_rule import GOLDEN

BATCH_NORM = {
    "gamma": "gamma",
    "beta": "beta",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
DENSE = {"kernel": "weight", "bias": "bias"}
SEPARABLE = {"depthwise_kernel": "depthwise", "pointwise_kernel": "pointwise"}
# Keras' name, Keras' class, our layer, {Keras' role: our tensor}, in the order of Keras' model.layers
BODY = [
    ("block1_conv1", "conv2d", "block1.conv1", {"kernel": "weight"}),
    ("block1_conv1_bn", "batch_normalization", "block1.conv1_bn", BATCH_NORM),
    ("block2_sepconv1", "separable_conv2d", "block2.sepconv1", SEPARABLE),
    ("block2_sepconv1_bn", "batch_normalization", "block2.sepconv1_bn", BATCH_NORM),
    ("conv2d", "conv2d", "block2.shortcut.conv", {"kernel": "weight"}),
    ("batch_normalization", "batch_normalization", "block2.shortcut.bn", BATCH_NORM),
]
TOP = [("predictions", "dense", "predictions", DENSE)]
HEAD = [("dense", "dense", "fc1", DENSE), ("dense_1", "dense", "fc2", DENSE)]
# The same layers as Keras 1 named them: it counted a shortcut before the chain beside it
KERAS1 = {
    "block1_conv1": "convolution2d_1",
    "block1_conv1_bn": "batchnormalization_1",
    "block2_sepconv1": "separableconvolution2d_1",
    "block2_sepconv1_bn": "batchnormalization_3",
    "conv2d": "convolution2d_2",
    "batch_normalization": "batchnormalization_2",
    "predictions": "dense_2",
}
KERAS1_ROLES = {
    "kernel": "W",
    "bias": "b",
    "moving_mean": "running_mean",
    "moving_variance": "running_std",
}


def small_model(head="top", seed=0):
    """A network of two blocks; head: "top" (predictions), "head" (two dense layers of our own) or None."""
    shortcut = Sequential(conv=PointwiseConv2d(4, 6, 2), bn=BatchNorm2d(6))
    layers = {
        "block1": Sequential(conv1=Conv2d(3, 4, 3, 2, "valid"), conv1_bn=BatchNorm2d(4), conv1_act=Activation("relu")),
        "block2": Residual(
            sepconv1=SeparableConv2d(4, 6),
            sepconv1_bn=BatchNorm2d(6),
            pool=MaxPool2d(3, 2, "same"),
            shortcut=shortcut,
        ),
    }
    if head == "top":
        layers |= {"avg_pool": GlobalAvgPool(), "predictions": Linear(6, 5)}
    elif head == "head":
        layers |= {"avg_pool": GlobalAvgPool(), "fc1": Linear(6, 7), "fc1_act": Activation("relu"), "fc2": Linear(7, 3)}
    model = Sequential(**layers)
    model.input_shape = (16, 16, 3)
    rng = np.random.Generator(np.random.PCG64(seed))
    for _, t in model.named_tensors():
        t.data = rng.uniform(0.5, 1.5, t.shape).astype(np.float32)
    return model


def same(model, other):
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def problems(model, path):
    """The lines of the error, after making sure that nothing was assigned."""
    before = {name: a.copy() for name, a in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        model.load_weights(path)
    for name, a in model.state_dict().items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)
    assert str(path) in str(caught.value)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def keras_layers(model, table):
    """[(name, class, {role: array in Keras' shape})] of the layers in a table."""
    state = model.state_dict()
    return [
        (name, kind, {role: _keras_array(kind, role, state[f"{path}.{ours}"]) for role, ours in roles.items()})
        for name, kind, path, roles in table
    ]


@functools.cache
def golden_model():
    """Our Xception with the golden weights; shared, so not to be changed."""
    model = Xception()
    golden_rule.load_golden_weights(model)
    return model


def golden_layers():
    """The golden Xception as [(name, class, {role: array in Keras' shape})], in the order of Keras' model.layers."""
    classes = {"Conv2D": "conv2d", "SeparableConv2D": "separable_conv2d", "BatchNormalization": "batch_normalization"}
    roles = {"depthwise": "depthwise_kernel", "pointwise": "pointwise_kernel"}
    roles |= {"mean": "moving_mean", "var": "moving_variance", "dense_kernel": "kernel", "dense_bias": "bias"}
    layers = {}
    for tensor in json.loads((GOLDEN / "weight_manifest.json").read_text())["tensors"]:
        kind = classes.get(tensor["cls"], "dense")
        arrays = layers.setdefault(tensor["layer"], (tensor["layer"], kind, {}))[2]
        arrays[roles.get(tensor["role"], tensor["role"])] = golden_rule.draw(tensor)
    return list(layers.values())


def _keras_array(kind, role, array):
    if role == "depthwise_kernel":
        return array[..., None]
    return array[None, None] if kind.endswith("conv2d") and array.ndim == 2 else array


def write_keras1(path, layers, names=KERAS1, text=np.bytes_):
    """As keras-applications' files of 2016: weights directly in the layer's group."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(["input_1", *(names[name] for name, _, _ in layers)], text)
        file.create_group("input_1").attrs["weight_names"] = np.array([], "S")
        for name, _, arrays in layers:
            group = file.create_group(names[name])
            full = {f"{names[name]}_{KERAS1_ROLES.get(role, role)}:0": array for role, array in arrays.items()}
            group.attrs["weight_names"] = np.array(list(full), text)
            for weight, array in full.items():
                group.create_dataset(weight, data=array)


def write_keras2(path, layers, suffix=":0", full_model=False, split=False, text=np.bytes_, nested=None):
    """As Keras 2 (suffix ":0") and Keras 3 ("") write .h5; nested: {name: layers} of models in the model."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if full_model else file
        if full_model:
            file.attrs["model_config"] = '{"class_name": "Functional"}'
            file.create_dataset("optimizer_weights/adam/iteration", data=np.int64(7))
        groups = {name: [(name, kind, arrays)] for name, kind, arrays in layers} | (nested or {})
        names = ["input_1", *groups]
        if split:
            root.attrs["layer_names0"] = np.array(names[:3], "S")
            root.attrs["layer_names1"] = np.array(names[3:], "S")
        else:
            root.attrs["layer_names"] = names if text is str else np.array(names, text)
        root.attrs["backend"] = "tensorflow"
        root.create_group("input_1").attrs["weight_names"] = []
        for group_name, members in groups.items():
            group = root.create_group(group_name)
            full = {f"{name}/{role}{suffix}": array for name, _, arrays in members for role, array in arrays.items()}
            group.attrs["weight_names"] = np.array(list(full), "S")
            for weight, array in full.items():
                group.create_dataset(weight, data=array)
        root.create_group("top_level_model_weights").attrs["weight_names"] = []


def write_keras3(path, layers, named=True, nested=None, container="layers", optimizer=True):
    """As Keras 3 writes .weights.h5; named=False without the attribute that older versions did not write."""
    with h5py.File(path, "w") as file:
        _keras3_layers(file, layers, named, container)
        for name, members in (nested or {}).items():
            _keras3_layers(file.create_group(f"{container}/{name}"), members, named, container)
        if optimizer:
            file.create_dataset("optimizer/vars/0", data=np.int64(7))
            file.create_dataset("optimizer/vars/1", data=np.ones((3, 3, 3, 4), np.float32))


def _keras3_layers(group, layers, named, container):
    group.create_group("vars")
    group.create_group(f"{container}/input_layer/vars")
    counts = {}
    for name, kind, arrays in layers:
        number = counts[kind] = counts.get(kind, -1) + 1
        variables = group.create_group(f"{container}/{kind}{f'_{number}' if number else ''}/vars")
        if named:
            variables.attrs["name"] = name
        for j, array in enumerate(arrays.values()):
            variables.create_dataset(str(j), data=array)


def write_archive(path, weights, method=zipfile.ZIP_STORED):
    """A .keras archive around the bytes of a .weights.h5 file."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        archive.writestr("config.json", '{"module": "os", "class_name": "system", "config": {"command": "false"}}')
        archive.writestr("model.weights.h5", weights)


def write_keras_archive(path, layers, method=zipfile.ZIP_STORED, **options):
    """A .keras archive of these layers."""
    weights = io.BytesIO()
    write_keras3(weights, layers, **options)
    write_archive(path, weights.getvalue(), method)


def timm_state(state):
    """Our Xception's tensors as timm's legacy_xception has them: name by name from its module tree."""
    pairs = []  # (timm's layer, our layer)
    for number, ours in {1: "block1.conv1", 2: "block1.conv2", 3: "block14.sepconv1", 4: "block14.sepconv2"}.items():
        pairs += [(f"conv{number}", ours), (f"bn{number}", f"{ours}_bn")]
    for block in range(1, 13):
        ours = f"block{block + 1}"
        if f"{ours}.shortcut.conv.weight" in state:
            pairs += [(f"block{block}.skip", f"{ours}.shortcut.conv"), (f"block{block}.skipbn", f"{ours}.shortcut.bn")]
        place = 0
        for unit in range(1, 4):
            if f"{ours}.sepconv{unit}.depthwise" in state:
                place += block > 1 or unit > 1  # the ReLU
                pairs += [(f"block{block}.rep.{place}", f"{ours}.sepconv{unit}")]
                pairs += [(f"block{block}.rep.{place + 1}", f"{ours}.sepconv{unit}_bn")]
                place += 2
    pairs.append(("fc", "predictions"))
    theirs = {}
    for timm, ours in pairs:
        for name, array in state.items():
            layer, _, attribute = name.rpartition(".")
            if layer == ours:
                theirs[f"{timm}.{_TIMM[attribute]}"] = np.ascontiguousarray(_timm_array(attribute, timm, array))
        if f"{timm}.running_mean" in theirs:
            theirs[f"{timm}.num_batches_tracked"] = np.array(5)
    return theirs


_TIMM = {
    **{"weight": "weight", "bias": "bias", "depthwise": "conv1.weight", "pointwise": "pointwise.weight"},
    **{"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"},
}


def _timm_array(attribute, layer, array):
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if attribute == "depthwise":
        return array.transpose(2, 0, 1)[:, None]
    if array.ndim == 2:
        return array.T if layer == "fc" else array.T[:, :, None, None]
    return array


def base_files(folder):
    """One small file of every layout, with the network that it fits: {name: (path, head of small_model)}."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    top, head = small_model("top"), small_model("head")
    layers, body, dense = keras_layers(top, BODY + TOP), keras_layers(head, BODY), keras_layers(head, HEAD)
    write_keras1(folder / "keras1", layers)
    write_keras2(folder / "keras2", layers)
    write_keras2(folder / "keras2_full", layers, full_model=True, split=True)
    write_keras2(folder / "keras2_nested", dense, suffix="", full_model=True, text=str, nested={"xception": body})
    write_keras3(folder / "keras3", layers)
    write_keras3(folder / "keras3_unnamed", layers, named=False)
    write_keras_archive(folder / "archive", layers)
    write_keras_archive(folder / "archive_nested", dense, named=False, nested={"functional": body})
    write_keras_archive(folder / "archive_packed", layers, zipfile.ZIP_DEFLATED)
    save_file(top.state_dict(), folder / "own", {"format": "minixception"})
    save_file(timm_state(top.state_dict()), folder / "timm", {"format": "pt"})
    heads = {"keras2_nested": "head", "archive_nested": "head"}
    return {path.name: (path, heads.get(path.name, "top")) for path in sorted(folder.iterdir())}
