"""timm's file, the files that we write, and weights="imagenet"."""

from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pytest
from safetensors.numpy import save_file

import minixception as mx
from minixception.errors import ArgumentError, DataError, WeightsError
from minixception.models import InceptionV3, ResNet152, Xception
from minixception.nn import BatchNorm2d, MaxPool2d
from minixception.weights import imagenet
from minixception.weights.layers import creation_order, network_order
from tests.helpers.golden_rule import GOLDEN
from tests.helpers.weight_files import (
    BODY,
    TOP,
    golden_layers,
    golden_model,
    keras_layers,
    problems,
    same,
    small_model,
    timm_state,
    write_keras1,
    write_keras3,
)

# timm -----------------------------------------------------------------------------------------------------------------


def test_timms_file_and_its_conventions(tmp_path):
    save_file(timm_state(golden_model().state_dict()), tmp_path / "w", {"format": "pt"})
    model = Xception()
    loaded = model.load_weights(tmp_path / "w")
    assert (loaded.layout, loaded.tensors) == ("timm", 236)
    same(model, golden_model())
    pools = [module for _, module in model.named_modules() if isinstance(module, MaxPool2d)]
    norms = [module for _, module in model.named_modules() if isinstance(module, BatchNorm2d)]
    assert ({p.padding for p in pools}, {n.eps for n in norms}) == ({"same"}, {1e-3})

    model.load_weights(tmp_path / "w", conventions="timm")
    assert ({p.padding for p in pools}, {n.eps for n in norms}) == ({1}, {1e-5})
    data = np.load(GOLDEN / "xception_forward.npz")
    x, expected = data["full/input_u8"].astype(np.float32) / np.float32(127.5) - 1, data["full/f64/logits"]
    with mx.no_grad():
        logits = model.eval()(mx.tensor(x)).numpy()
    distance = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    np.testing.assert_allclose(distance, 0.017559, atol=1e-5)  # of timm's own legacy_xception, run in PyTorch


def test_a_timm_file_is_held_to_the_model(tmp_path):
    state = timm_state(golden_model().state_dict())
    state["fc.weight"] = state["fc.weight"][:10].copy()
    state["block3.rep.0.weight"] = state.pop("block3.rep.1.conv1.weight")  # a ReLU has no weight
    del state["bn4.bias"]
    save_file(state, tmp_path / "w")
    assert problems(Xception(), tmp_path / "w") == [
        "surplus: block3.rep.0.weight (256, 1, 3, 3)",
        "shape of predictions.weight: the model has (2048, 1000), the file (2048, 10) in fc.weight",
        "missing: block4.sepconv1.depthwise (3, 3, 256)",
        "missing: block14.sepconv2_bn.beta (2048,)",
    ]


def test_other_conventions(tmp_path):
    with pytest.raises(ArgumentError, match="conventions must be None or 'timm', got 'keras'"):
        small_model().load_weights(tmp_path / "w", conventions="keras")


# Writing --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.safetensors", "w.weights.h5"])
@pytest.mark.parametrize("head", ["top", "head", None])
def test_what_is_written_is_read_again(tmp_path, name, head):
    small_model(head).save_weights(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    model = small_model(head, seed=1)
    model.load_weights(tmp_path / name)
    same(model, small_model(head))


def test_a_model_in_training_whose_images_shrink_to_a_pixel(tmp_path):
    """Batchnorm cannot run on one value; the order of the layers is asked for as at inference."""
    model = small_model()
    model.input_shape = (3, 3, 3)
    model.save_weights(tmp_path / "w.weights.h5")
    assert model.training


def test_our_file_for_keras_3_has_the_arrays_of_keras_own(tmp_path):
    golden_model().save_weights(tmp_path / "ours.weights.h5")
    write_keras3(tmp_path / "keras", golden_layers(), optimizer=False)
    found = []
    for name in ("ours.weights.h5", "keras"):
        with h5py.File(tmp_path / name) as file:
            arrays = {}
            file.visititems(
                lambda key, item, into=arrays: into.update({key: item[()]} if hasattr(item, "shape") else {})
            )
            found.append(arrays)
    assert found[0].keys() == found[1].keys()
    for name, array in found[0].items():
        np.testing.assert_array_equal(array, found[1][name], err_msg=name)


def test_other_names_and_unknown_inputs(tmp_path):
    with pytest.raises(WeightsError, match=r"written to \.safetensors or \.weights\.h5 files, got 'w\.h5'"):
        small_model().save_weights(tmp_path / "w.h5")
    model = small_model()
    model.input_shape = None
    with pytest.raises(ArgumentError, match=r"expected model\.input_shape = \(h, w, c\), got None"):
        model.save_weights(tmp_path / "w.weights.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("network", [Xception, InceptionV3, ResNet152])
def test_the_order_of_the_network_is_keras_own(network):
    """The manifests list layers as Keras does; the numbers in Inception's made names are the order of creation."""
    model = network()
    manifest = {Xception: "weight", InceptionV3: "zoo_inception_v3", ResNet152: "zoo_resnet152"}[network]
    tensors = json.loads((GOLDEN / f"{manifest}_manifest.json").read_text())["tensors"]
    theirs = dict.fromkeys((tensor["layer"], tensor["cls"]) for tensor in tensors)
    names = {name for name, _ in theirs}
    for cls, kind in {"Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Dense": "dense"}.items():
        made = [layer.path for layer in creation_order(model) if layer.kind == kind and layer.name not in names]
        numbered = {path: f"{kind}_{i}" if i else kind for i, path in enumerate(made)}
        ours = [numbered.get(layer.path, layer.name) for layer in network_order(model) if layer.kind == kind]
        assert ours == [name for name, its_class in theirs if its_class == cls]


# weights="imagenet" ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIXCEPTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(imagenet, "ADDRESS", "http://127.0.0.1:9/")  # the discard port: nobody listens
    return tmp_path / "cache"


def test_offline_one_line_names_the_file_and_the_folder(cache):
    for top, name in ((True, "kernels.h5"), (False, "kernels_notop.h5")):
        with pytest.raises(DataError) as caught:
            Xception(include_top=top, weights="imagenet")
        message = str(caught.value)
        assert f"xception_weights_tf_dim_ordering_tf_{name} from" in message
        assert str(cache / "weights") in message
        assert "\n" not in message


def test_imagenet_is_for_xception_alone(cache):
    for model in (small_model(), Xception(num_classes=10), Xception(residual=False)):
        with pytest.raises(ArgumentError, match="weights='imagenet' are those of Xception"):
            model.load_weights("imagenet")
    assert not cache.exists()


def test_a_file_in_the_cache_needs_no_network(cache, monkeypatch):
    (cache / "weights").mkdir(parents=True)
    write_keras1(cache / "weights" / "small.h5", keras_layers(small_model(), BODY + TOP))
    md5 = hashlib.md5((cache / "weights" / "small.h5").read_bytes()).hexdigest()
    monkeypatch.setattr(imagenet, "FILES", {small_model().num_parameters(): ("small.h5", md5)})
    model = small_model(seed=1)
    model.load_weights("imagenet")
    same(model, small_model())
