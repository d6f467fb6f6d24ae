"""InceptionV3, VGG16 and ResNet152 against Keras: every layer, features and logits, in both dtypes and compiled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import minixception as mx
from minixception.engine.op import observe
from minixception.engine.tensor import Tensor
from minixception.models import MODELS
from minixception.nn import Activation, AvgPool2d, BatchNorm2d, Conv2d, MaxPool2d, Module, PointwiseConv2d
from tests.helpers import zoo

CASES = {  # (height, width, images), by network and case
    ("inception_v3", "full"): (299, 299, 1),
    ("vgg16", "full"): (224, 224, 1),
    ("vgg16", "small"): (64, 48, 2),
    ("resnet152", "full"): (224, 224, 1),
    ("resnet152", "small"): (64, 48, 2),
}
FEATURES = {"inception_v3": "avg_pool", "vgg16": "fc2", "resnet152": "avg_pool"}  # of the whole network
FLOAT32 = {"inception_v3": 1e-5, "vgg16": 2e-5, "resnet152": 1e-5}  # relative error in float32; VGG16 has long sums
MACS = {"inception_v3": 5_713_216_096, "vgg16": 15_470_264_320, "resnet152": 11_282_415_616}
ROLES = {"kernel": "weight", "mean": "running_mean", "var": "running_var"}

# Keras' names ---------------------------------------------------------------------------------------------------------


def keras_layers(name, model):
    """Our modules by Keras' names of layers."""
    if name == "inception_v3":
        return inception_layers(model)
    layers = {path.replace(".shortcut", "").replace(".", "_"): module for path, module in model.named_modules()}
    if "avg_pool" in layers:
        layers["global_average_pooling2d"] = layers["avg_pool"]
    return layers


def inception_layers(model):
    """Keras numbers the layers of a kind in the order in which its source makes them: that of our modules."""
    kinds = {
        "conv2d": Conv2d | PointwiseConv2d,
        "batch_normalization": BatchNorm2d,
        "activation": Activation,
        "average_pooling2d": AvgPool2d,
        "max_pooling2d": MaxPool2d,
    }
    layers = {name: module for name, module in model.children().items() if name != "stem"}
    for kind, types in kinds.items():
        made = [module for _, module in model.named_modules() if isinstance(module, types)]
        layers |= {f"{kind}_{number}" if number else kind: module for number, module in enumerate(made)}
    forks = (model.mixed9.b3x3, model.mixed9.b3x3dbl, model.mixed10.b3x3, model.mixed10.b3x3dbl)
    return layers | dict(zip(("mixed9_0", "concatenate", "mixed9_1", "concatenate_1"), forks, strict=True))


def recorded(name, model, data, case):
    """Module -> (Keras' name, its number), for all golden layers but ResNet152's zero padding, which we do not have.

    VGG16's convolutions and fully connected layers are recorded behind their ReLU.
    """
    numbers = dict(zip(data[f"{case}/layer_names"].tolist(), data[f"{case}/layer_index"].tolist(), strict=True))
    ours = keras_layers(name, model)
    assert set(numbers) - set(ours) == ({"conv1_pad", "pool1_pad"} if name == "resnet152" else set())
    return {ours.get(f"{layer}_act", ours[layer]): (layer, k) for layer, k in numbers.items() if layer in ours}


# The networks ---------------------------------------------------------------------------------------------------------


@dataclass
class Golden:
    """A network with its golden weights, in float32, and its input, in float64."""

    name: str
    case: str
    data: dict[str, np.ndarray]
    x: np.ndarray
    model: Module

    def expected(self, dtype):
        return self.data[f"{self.case}/{dtype}/{'logits' if self.case == 'full' else 'features'}"]

    def run(self, dtype):
        """The network's output, and what its layers gave."""
        records = zoo.Records(int(self.data["seed"]), recorded(self.name, self.model, self.data, self.case))
        with mx.no_grad(), observe(records):
            y = self.model.astype(dtype)(Tensor(self.x.astype(dtype))).numpy()
        self.model.astype(np.float32)
        return y, records

    def in_float32(self, y):
        """Whether y is within the stated tolerances of both golden dtypes."""
        assert y.dtype == np.float32
        assert np.abs(y - self.expected("f64")).max() <= 2e-4
        allowed = FLOAT32[self.name] * np.linalg.norm(self.expected("f64"))
        return all(np.linalg.norm(y - self.expected(dtype)) <= allowed for dtype in ("f64", "f32"))


def build(name, case):
    """The network with its golden weights, each tensor assigned once."""
    height, width, _ = CASES[name, case]
    top = {"include_top": True} if case == "full" else {"include_top": False, "pooling": "avg"}
    model = MODELS[name](input_shape=(height, width, 3), **top).eval()
    layers, manifest = keras_layers(name, model), zoo.manifest(name)
    tensors = [t for t in manifest["tensors"] if case == "full" or t["cls"] != "Dense"]
    targets = [getattr(layers[t["layer"]], ROLES.get(t["role"], t["role"])) for t in tensors]
    assert len(targets) == len(set(targets))
    assert set(targets) == {t for _, t in model.named_tensors()}
    for target, tensor in zip(targets, tensors, strict=True):
        zoo.assign(target, zoo.draw(manifest["seed"], tensor))
    return model


LARGE = ("vgg16", "full"), ("resnet152", "full")  # 3 GB of weights in float64; 512 layers. Both have a small case too
PARAMS = [pytest.param(key, marks=pytest.mark.slow if key in LARGE else (), id="-".join(key)) for key in CASES]


@pytest.fixture(scope="module", params=PARAMS)
def golden(request):
    name, case = request.param
    data = zoo.cases(name)
    pixels = zoo.images(int(data["seed"]), *CASES[name, case])
    model = build(name, case)
    x = pixels / 127.5 - 1  # "tf"
    if model.preprocessing == "caffe":
        x = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68])  # blue, green, red
    return Golden(name, case, data, x, model)


@pytest.mark.slow
def test_every_layer_in_float64(golden):
    y, records = golden.run(np.float64)
    assert len(records.stats) == len(records.layers)
    records.compare(golden.data, golden.case, 1e-10)
    data, case, expected = golden.data, golden.case, golden.expected("f64")
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    if case == "small":
        last_map = data["small/f64/last_map"]
        np.testing.assert_allclose(records.last_map, last_map, rtol=0, atol=1e-10 * last_map.max())
        return
    features = data["full/f64/features"]
    np.testing.assert_allclose(records.vectors[FEATURES[golden.name]], features, rtol=0, atol=1e-10 * features.max())
    np.testing.assert_array_equal(np.argsort(-y)[:, :5], data["full/f64/top5"])
    probabilities = mx.ops.softmax(Tensor(y)).numpy()
    np.testing.assert_allclose(probabilities, data["full/f64/probs"], rtol=1e-9, atol=1e-12)
    if golden.name == "vgg16":
        np.testing.assert_allclose(records.last_map.mean((1, 2)), data["full/f64/pooled"], rtol=1e-10)


def test_float32_within_the_stated_tolerances(golden):
    y, records = golden.run(np.float32)
    assert golden.in_float32(y)
    records.compare(golden.data, golden.case, 2e-5, stats=False)


def test_compiled_within_the_same_tolerances(golden):
    assert golden.in_float32(mx.compile(golden.model)(golden.x.astype(np.float32)))


def test_parameters_and_macs(golden):
    if golden.case == "full":
        table, counts = golden.model.summary(), zoo.manifest(golden.name)
        expected = counts["params_total"], counts["params_trainable"], MACS[golden.name]
        assert (table.params, table.trainable, table.macs) == expected


@pytest.mark.slow  # compiled, beside it: within the same tolerances, in float32
@pytest.mark.parametrize("name", ["vgg16", "resnet152"])
def test_compiled_in_float64(name):
    data = zoo.cases(name)
    pixels = zoo.images(int(data["seed"]), *CASES[name, "small"])
    x = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68])
    y = mx.compile(build(name, "small").astype(np.float64))(x)
    expected = data["small/f64/features"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10 * expected.max())


def test_inception_modules_stand_where_the_paths_of_the_manifest_say():
    model = MODELS["inception_v3"]()
    paths = {module: path for path, module in model.named_modules()}
    layers = keras_layers("inception_v3", model)
    for tensor in zoo.manifest("inception_v3")["tensors"]:
        if tensor["cls"] != "Dense":
            kind = "conv" if tensor["cls"] == "Conv2D" else "bn"
            assert paths[layers[tensor["layer"]]] == f"{tensor['path'].replace('/', '.')}.{kind}"
