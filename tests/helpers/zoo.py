"""The zoo's golden data: weights and images by the manifests' rule, and records of what every layer gives.

Shared by the tests of all networks; the conventions stand in tests/golden/README.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from minixception.engine.op import Observer
from minixception.engine.tensor import Tensor
from minixception.nn import Module
from tests.helpers.golden_rule import GOLDEN


def manifest(name: str) -> dict[str, Any]:
    """What the golden network is made of: seed, tensors, layers."""
    return json.loads((GOLDEN / f"zoo_{name}_manifest.json").read_text())


def cases(name: str) -> dict[str, np.ndarray]:
    """The golden arrays, by "case/dtype/what"."""
    return dict(np.load(GOLDEN / f"zoo_{name}.npz"))


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(key))


def draw(seed: int, tensor: dict[str, Any]) -> np.ndarray:
    """One tensor of a manifest as float32, in the manifest's layout, held to its checksum."""
    rng, shape, std = _rng(seed, tensor["index"]), tensor["shape"], tensor["std"]
    values = rng.uniform(0.5, 1.5, shape) if std is None else rng.standard_normal(shape) * std
    values = values.astype(np.float32)
    assert hashlib.sha256(values.tobytes()).hexdigest().startswith(tensor["sha256"]), tensor
    return values


def assign(target: Tensor, values: np.ndarray) -> None:
    """Set a parameter or buffer; 1x1 kernels may have their two sides of 1 or not."""
    shape = [size for size in values.shape if size > 1]
    assert shape == [size for size in target.shape if size > 1], (target.shape, values.shape)
    target.data = values.reshape(target.shape).astype(target.dtype)


def images(seed: int, height: int, width: int, batch: int) -> np.ndarray:
    """Image 0 is noise, image 1 a pattern: uint8 (batch, height, width, 3)."""
    noise = _rng(seed, 100000, height, width).integers(0, 256, (height, width, 3), np.uint8)
    y, x, c = np.ogrid[:height, :width, :3]
    pattern = ((3 * x + 5 * y + 37 * c + (x * y) // 7) % 256).astype(np.uint8)
    return np.stack([noise, pattern][:batch])


class Records(Observer):
    """Of each layer in ``layers`` (module -> its golden name and number): four statistics and 16 samples of its output.

    vectors: whole outputs (n, c) by name; last_map: the last output (n, h, w, c).
    """

    def __init__(self, seed: int, layers: Mapping[Module, tuple[str, int]]) -> None:
        self.seed, self.layers = seed, layers
        self.stats: dict[str, list[float]] = {}
        self.samples: dict[str, np.ndarray] = {}
        self.vectors: dict[str, np.ndarray] = {}
        self.last_map = np.empty(0)

    def exit_module(self, module: Module, inputs: Any, output: Tensor) -> None:
        if module not in self.layers:
            return
        name, k = self.layers[module]
        y = output.numpy()
        self.stats[name] = [y.mean(), y.std(), np.abs(y).max(), (y == 0).mean()]
        self.samples[name] = y.reshape(-1)[_rng(self.seed, 200000 + k).integers(0, y.size, 16)]
        if y.ndim == 2:
            self.vectors[name] = y
        else:
            self.last_map = y

    def compare(self, golden: Mapping[str, np.ndarray], case: str, tolerance: float, stats: bool = True) -> None:
        """All samples and statistics within ``tolerance`` of their layer's largest value."""
        names, every = golden[f"{case}/layer_names"].tolist(), golden[f"{case}/f64/layer_stats"]
        for name, expected, samples in zip(names, every, golden[f"{case}/f64/layer_samples"], strict=True):
            if name in self.stats:
                allowed = {"rtol": 0, "atol": tolerance * expected[2], "err_msg": name}
                np.testing.assert_allclose(self.samples[name], samples, **allowed)
                if stats:
                    np.testing.assert_allclose(self.stats[name][:3], expected[:3], **allowed)
                    assert self.stats[name][3] == expected[3], f"{name}: share of exact zeros"
