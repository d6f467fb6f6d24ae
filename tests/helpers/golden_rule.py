"""The rule that makes the golden network's weights, and the golden names of our layers: see tests/golden/README.md."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
SEED = 161002357


def draw(tensor: dict[str, Any]) -> np.ndarray:
    """One tensor of the manifest as float32, from a generator of its own."""
    rng = np.random.Generator(np.random.PCG64([SEED, tensor["index"]]))
    shape, role = tensor["shape"], tensor["role"]
    if role in ("gamma", "var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    fan_in = math.prod(shape[:-1])  # of the dense and conv kernels
    scale = {
        "beta": 0.1,
        "mean": 0.1,
        "dense_bias": 0.1,
        "dense_kernel": 4 * math.sqrt(1 / fan_in),
        "depthwise": 1 / 3,  # sqrt(1 / (3 * 3))
        "pointwise": math.sqrt(1 / fan_in),
        "kernel": math.sqrt((2 if shape[0] == 3 else 1) / fan_in),
    }[role]
    return (rng.standard_normal(shape) * scale).astype(np.float32)


def load_golden_weights(model: Any) -> None:
    """Set the model's tensors, in order, to those of the manifest; each is held to its checksum."""
    tensors = json.loads((GOLDEN / "weight_manifest.json").read_text())["tensors"]
    for (name, target), tensor in zip(model.named_tensors(), tensors, strict=False):
        values = draw(tensor)
        assert hashlib.sha256(values.tobytes()).hexdigest().startswith(tensor["sha256"]), tensor["layer"]
        assert target.data.size == values.size, (name, target.shape, tensor)
        target.data = values.reshape(target.shape).astype(target.dtype)


def keras_name(path: str) -> str:
    """Keras' name of a layer of our Xception: block2.sepconv1 is block2_sepconv1; shortcuts and adds are numbered."""
    block, _, layer = path.partition(".")
    if layer.startswith("shortcut") or layer == "add":
        number = int(block.removeprefix("block"))
        which = {2: 0, 3: 1, 4: 2, 13: 3}.get(number, 0) if layer != "add" else number - 2
        kind = {"shortcut.conv": "conv2d", "shortcut.bn": "batch_normalization", "add": "add"}[layer]
        return f"{kind}_{which}" if which else kind
    return path.replace(".", "_")


def layer_paths(model):
    """Modules without sub-modules, and the ReLU of each separable convolution that has one, as a layer of its own."""
    for path, module in model.named_modules():
        if getattr(module, "relu", False):
            yield f"{path}_act"
        if not module.children():
            yield path
