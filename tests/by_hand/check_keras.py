"""Keras itself, where it is installed: its files load here with golden logits, ours load there with the same weights.

    python -m tests.by_hand.check_keras

Keras builds Xception, gets the golden weights and writes every layout that it has; each must load and give the golden
logits of tests/golden. Then Xception nested below a head, trained for a step, in each layout; the .weights.h5 that we
write, array by array beside the one that Keras writes; a base with a head, put together in each of Keras' ways, into
our base and head, into the base alone, and back; and the other networks of the zoo both ways.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format

import minixception as mx
from minixception.nn import Activation, Linear, Sequential
from tests.helpers.golden_rule import GOLDEN
from tests.helpers.weight_files import golden_layers

FULL = dict(np.load(GOLDEN / "xception_forward.npz"))
FAILURES = []


def report(what, value, limit):
    """Print one figure, and remember it if it is above its limit."""
    print(f"{'ok  ' if value <= limit else 'FAIL'} {what:68} {value:.2e}  (limit {limit:.0e})", flush=True)
    if value > limit:
        FAILURES.append(what)


def keras_files(model, folder, name):
    """The model in every layout that this Keras writes."""
    model.save(folder / f"{name}.keras")
    model.save_weights(folder / f"{name}.weights.h5")
    model.save(folder / f"{name}.h5")
    with h5py.File(folder / f"{name}_weights.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return [folder / f"{name}{suffix}" for suffix in (".keras", ".weights.h5", ".h5", "_weights.h5")]


def shake(model, rng):
    """Weights as after training: no two alike, and activations that neither vanish nor explode."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            shake(layer, rng)
            continue
        weights = [w + 0.1 * np.abs(w).mean() * rng.standard_normal(w.shape) for w in layer.get_weights()]
        layer.set_weights([rng.uniform(0.5, 1.5, w.shape) if w.ndim == 1 else w for w in weights])


def distance(got, expected):
    """Relative to the expected norm."""
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def run(model, x):
    with mx.no_grad():
        return model.eval()(mx.tensor(x)).numpy()


def arrays(path):
    """{path in the file: values} of the layers' arrays."""
    found = {}
    with h5py.File(path) as file:
        file["layers"].visititems(lambda name, item: found.update({name: item[()]} if hasattr(item, "shape") else {}))
    return found


def check_golden(folder):
    theirs = keras.applications.Xception(weights=None, classifier_activation=None)
    theirs.set_weights([array for _, _, arrays in golden_layers() for array in arrays.values()])
    x = FULL["full/input_u8"].astype(np.float32) / np.float32(127.5) - np.float32(1)
    for path in keras_files(theirs, folder, "golden"):
        ours = mx.models.Xception()
        loaded = ours.load_weights(path)
        difference = np.abs(run(ours, x) - FULL["full/f64/logits"]).max()
        report(f"{path.name} ({loaded.layout}, {loaded.tensors} tensors): golden logits", difference, 2e-4)
    ours.save_weights(folder / "ours.weights.h5")
    mine, keras_own = arrays(folder / "ours.weights.h5"), arrays(folder / "golden.weights.h5")
    report("arrays of our .weights.h5 that Keras' has not, or the other way", len(mine.keys() ^ keras_own.keys()), 0)
    report("their values", max(np.abs(mine[name] - keras_own[name]).max() for name in keras_own), 0)
    again = keras.applications.Xception(weights=None, classifier_activation=None)
    again.load_weights(folder / "ours.weights.h5")
    pairs = zip(again.get_weights(), theirs.get_weights(), strict=True)
    report("our .weights.h5 in Keras: its weights", max(np.abs(a - b).max() for a, b in pairs), 0)


def check_nested(folder):
    rng = np.random.default_rng(1)
    for name, trainable in (("frozen", False), ("tuned", True)):
        keras.backend.clear_session()
        base = keras.applications.Xception(weights=None, include_top=False, input_shape=(96, 96, 3))
        shake(base, rng)
        base.trainable = trainable
        layers = keras.layers
        inputs = layers.Input((96, 96, 3))
        x = base(layers.RandomFlip()(inputs), training=False)
        x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
        outputs = layers.Dense(4)(layers.Dense(16, activation="relu")(x))
        model = keras.Model(inputs, outputs)
        model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        x = rng.uniform(-1, 1, (4, 96, 96, 3)).astype(np.float32)
        model.fit(x, np.arange(4), epochs=1, verbose=0)
        expected, features = model.predict(x, verbose=0), base.predict(x, verbose=0)
        for path in keras_files(model, folder, name):
            whole = mx.models.Xception(num_classes=4, fc_units=(16,), input_shape=(96, 96, 3))
            loaded = whole.load_weights(path)
            report(f"{path.name}: whole, {loaded.tensors} tensors, relative", distance(run(whole, x), expected), 1e-4)
            body = mx.models.Xception(include_top=False, input_shape=(96, 96, 3))
            loaded = body.load_weights(path)
            what = f"{path.name}: nested model alone, {loaded.tensors} tensors, {len(loaded.outside)} outside"
            report(f"{what}, relative", distance(run(body, x), features), 1e-4)


def put_together(kind):
    """Xception with two dense layers on top: in one model, nested, in a Sequential, or two levels deep."""
    layers, dense = keras.layers, (keras.layers.Dense(16, activation="relu"), keras.layers.Dense(3, name="classes"))
    base = keras.applications.Xception(weights=None, include_top=False, pooling="avg", input_shape=(71, 71, 3))
    inputs, inner = layers.Input((71, 71, 3)), layers.Input((71, 71, 3))
    if kind == "flat":
        return keras.Model(base.input, dense[1](dense[0](base.output)))
    if kind == "nested":
        return keras.Model(inputs, dense[1](layers.Dropout(0.2)(dense[0](base(inputs)))))
    if kind == "sequential":
        return keras.Sequential([base, *dense])
    return keras.Model(inputs, dense[1](keras.Model(inner, dense[0](base(inner)))(inputs)))


def check_base_and_head(folder):
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, (2, 71, 71, 3)).astype(np.float32)
    base = mx.models.Xception(include_top=False, pooling="avg", input_shape=(71, 71, 3))
    relu, hidden, classes = Activation("relu"), Linear(2048, 16), Linear(16, 3)
    model = Sequential(base=base, head=Sequential(hidden, relu, classes))
    flat = Sequential(**base.children(), hidden=hidden, relu=relu, classes=classes)
    features = Sequential(base=base, hidden=hidden, relu=relu)
    flat.input_shape = features.input_shape = base.input_shape
    deep = Sequential(features=features, classes=classes)
    for kind, ours in {"flat": flat, "nested": model, "sequential": model, "deep": deep}.items():
        keras.backend.clear_session()
        theirs = put_together(kind)
        shake(theirs, rng)
        expected = theirs.predict(x, verbose=0)
        for path in keras_files(theirs, folder, kind):
            loaded = model.load_weights(path)
            what = f"{path.name}: base and head, {loaded.tensors} tensors, relative"
            report(what, distance(run(model, x), expected), 1e-5)
            alone = mx.models.Xception(include_top=False, pooling="avg", input_shape=(71, 71, 3))
            loaded = alone.load_weights(path, part="base")
            what = f"{path.name}: the base alone, {loaded.tensors} tensors, {len(loaded.outside)} outside, relative"
            report(what, distance(run(alone, x), run(base, x)), 0)
        ours.save_weights(folder / f"{kind}_ours.weights.h5")
        again = put_together(kind)
        again.load_weights(folder / f"{kind}_ours.weights.h5")
        report(f"our {kind}.weights.h5 in Keras, relative", distance(again.predict(x, verbose=0), expected), 1e-5)


def check_zoo(folder):
    rng = np.random.default_rng(2)
    for name in ("InceptionV3", "VGG16", "ResNet152"):
        keras.backend.clear_session()
        options = {"weights": None, "include_top": False, "pooling": "avg", "input_shape": (96, 96, 3)}
        theirs = getattr(keras.applications, name)(**options)
        shake(theirs, rng)
        x = rng.uniform(-1, 1, (1, 96, 96, 3)).astype(np.float32)
        expected = theirs.predict(x, verbose=0)
        ours = getattr(mx.models, name)(**options)
        for path in keras_files(theirs, folder, name):
            loaded = ours.load_weights(path)
            report(f"{path.name}: {loaded.tensors} tensors, relative", distance(run(ours, x), expected), 1e-4)
        ours.save_weights(folder / f"{name}_ours.weights.h5")
        again = getattr(keras.applications, name)(**options)
        again.load_weights(folder / f"{name}_ours.weights.h5")
        pairs = zip(again.get_weights(), theirs.get_weights(), strict=True)
        report(f"our {name}.weights.h5 in Keras: its weights", max(np.abs(a - b).max() for a, b in pairs), 0)


def main():
    print(f"Keras {keras.__version__}, {keras.backend.backend()}; h5py {h5py.__version__}")
    for check in (check_golden, check_nested, check_base_and_head, check_zoo):
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    sys.exit(bool(FAILURES))


if __name__ == "__main__":
    main()
