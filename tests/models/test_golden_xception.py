"""The whole network against Keras: every layer's statistics and samples, logits and features, float64 and float32."""

from __future__ import annotations

import numpy as np
import pytest

import minixception as mx
from minixception.engine.op import Observer, observe
from minixception.engine.tensor import Tensor
from minixception.models import Xception
from tests.helpers.golden_rule import GOLDEN, SEED, keras_name, load_golden_weights

DATA = dict(np.load(GOLDEN / "xception_forward.npz"))


class LayerOutputs(Observer):
    """Statistics and samples of every layer's output, by Keras' name, taken as the network runs."""

    def __init__(self, model, case):
        self.paths = {module: path for path, module in model.named_modules()}
        names = [str(name) for name in DATA[f"{case}/layer_names"]]
        self.index = dict(zip(names, DATA[f"{case}/layer_index"], strict=True))
        self.stats, self.samples, self.outputs = {}, {}, {}

    def exit_module(self, module, inputs, output):
        if module.children():
            self.outputs[self.paths[module]] = output.numpy()
            return
        name = keras_name(self.paths[module])
        if name == "avg_pool" and name not in self.index:
            name = "global_average_pooling2d"
        if getattr(module, "relu", False):  # applied by the kernel itself: a layer of its own in Keras
            self._note(f"{name}_act", np.maximum(inputs[0].numpy(), 0))
        self._note(name, output.numpy())

    def _note(self, name, y):
        self.stats[name] = [y.mean(), y.std(), np.abs(y).max(), (y == 0).mean()]
        where = np.random.Generator(np.random.PCG64([SEED, 200000 + self.index[name]])).integers(0, y.size, 64)
        self.samples[name] = y.reshape(-1)[where]


def run(case, dtype):
    top = {"include_top": True} if case == "full" else {"include_top": False, "pooling": "avg"}
    image = DATA[f"{case}/input_u8"]
    model = Xception(input_shape=image.shape[1:], **top).astype(dtype).eval()
    load_golden_weights(model)
    layers = LayerOutputs(model, case)
    with mx.no_grad(), observe(layers):
        y = model(Tensor(image.astype(dtype) / dtype(127.5) - dtype(1)))
    return y.numpy(), layers


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full", "s71"])
def test_every_layer_in_float64(case):
    y, layers = run(case, np.float64)
    names = [str(name) for name in DATA[f"{case}/layer_names"]]
    assert set(layers.stats) == set(names)
    for name, stats, samples in zip(
        names, DATA[f"{case}/f64/layer_stats"], DATA[f"{case}/f64/layer_samples"], strict=True
    ):
        scale = stats[2]  # the layer's largest value
        np.testing.assert_allclose(layers.samples[name], samples, rtol=1e-10, atol=1e-10 * scale, err_msg=name)
        np.testing.assert_allclose(layers.stats[name], stats, rtol=1e-10, atol=1e-10 * scale, err_msg=name)
    if case == "full":
        np.testing.assert_allclose(y, DATA["full/f64/logits"], rtol=1e-10, atol=1e-10)
        np.testing.assert_array_equal(np.argsort(-y)[:, :5], DATA["full/f64/top5"])
        probabilities = mx.ops.softmax(Tensor(y)).numpy()
        np.testing.assert_allclose(probabilities, DATA["full/f64/probs"], rtol=1e-9, atol=1e-14)
    else:
        np.testing.assert_allclose(y, DATA["s71/f64/features"], rtol=1e-10, atol=1e-10)
        for block in ("block4", "block8", "block12", "block13", "block14"):
            np.testing.assert_allclose(
                layers.outputs[block], DATA[f"s71/f64/{block}_out"], rtol=1e-10, atol=1e-10, err_msg=block
            )


@pytest.mark.parametrize("case", ["full", "s71"])
def test_float32_within_the_stated_tolerances(case):
    y, layers = run(case, np.float32)
    key = "logits" if case == "full" else "features"
    expected = DATA[f"{case}/f64/{key}"]
    assert np.abs(y - expected).max() <= 1e-3
    assert np.linalg.norm(y - expected) <= 1e-5 * np.linalg.norm(expected)
    assert np.linalg.norm(y - DATA[f"{case}/f32/{key}"]) <= 1e-5 * np.linalg.norm(expected)
    names = [str(name) for name in DATA[f"{case}/layer_names"]]
    for name, samples in zip(names, DATA[f"{case}/f64/layer_samples"], strict=True):
        assert np.linalg.norm(layers.samples[name] - samples) <= 1e-5 * np.linalg.norm(samples), name
    if case == "full":
        np.testing.assert_array_equal(np.argsort(-y)[:, :5], DATA["full/f32/top5"])


@pytest.mark.parametrize("backend", ["numpy", "loops"])
def test_the_slow_rungs_too_at_71_pixels(backend):
    with mx.use_backend(backend):
        y, _ = run("s71", np.float64)
    np.testing.assert_allclose(y, DATA["s71/f64/features"], rtol=1e-10, atol=1e-10)
