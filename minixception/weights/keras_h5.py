"""Keras' HDF5 files of versions 1 and 2, which version 3 still writes as "legacy" .h5.

The root, or in a file with the whole model its group ``model_weights``, has the attribute ``layer_names``; where that
would pass HDF5's 64 KiB, ``layer_names0``, ``layer_names1`` and so on. Each layer is a group with the attribute
``weight_names``, the paths of its arrays:

    version 1      convolution2d_1/convolution2d_1_W:0
    version 2      block1_conv1/block1_conv1/kernel:0
    version 3      block1_conv1/block1_conv1/kernel
    nested model   xception/block1_conv1/kernel:0            one group for all layers of the model inside

Version 1 calls batchnorm's variance ``running_std``. That is a name only: the values are variances.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..errors import WeightsError
from .hdf5 import Group
from .layers import FileLayer
from .source import StoredTensor

_ROLES = {
    **{"depthwise_kernel": "depthwise_kernel", "pointwise_kernel": "pointwise_kernel"},
    **{"kernel": "kernel", "W": "kernel", "bias": "bias", "b": "bias", "gamma": "gamma", "beta": "beta"},
    **{"moving_mean": "moving_mean", "running_mean": "moving_mean"},
    **{"moving_variance": "moving_variance", "running_std": "moving_variance"},
}
_WHOLE_MODEL = ("model_weights", "optimizer_weights")  # the groups in a file with the whole model
_WEIGHT_NAME = re.compile(rf"(.*?)[/_]({'|'.join(_ROLES)})(?::0)?")


def is_keras_h5(root: Group) -> bool:
    """Does the file have a list of layer names where these versions keep it?"""
    return _list(_weights(root), "layer_names") is not None


def read_keras_h5(root: Group) -> list[FileLayer]:
    """All layers that have weights, in the file's order; WeightsError if the lists and the arrays disagree."""
    weights = _weights(root)
    names = _list(weights, "layer_names") or []
    _check_unique(names, "layer_names")
    layers = [layer for name in names for layer in _read_layer(weights.at(name), name)]
    listed = {name.split("/")[0] for name in names}
    strays = [t for name in weights if name not in listed for t in weights.tensors_of(name)]
    if weights is not root:
        strays += [t for name in root if name not in _WHOLE_MODEL for t in root.tensors_of(name)]
    return [*layers, *map(_stray, strays)]


def _stray(tensor: StoredTensor) -> FileLayer:
    """An array that no list names, as a layer of its own."""
    return FileLayer(tensor.name, True, "", "", {"": tensor})


def _weights(root: Group) -> Group:
    return root.group("model_weights") if "model_weights" in root else root


def _read_layer(group: Group, name: str) -> list[FileLayer]:
    """One layer, or all those of a nested model, and strays."""
    listed = _list(group, "weight_names") or []
    _check_unique(listed, group.path)
    parts: dict[str, dict[str, StoredTensor]] = {}
    for weight in listed:
        known = _WEIGHT_NAME.fullmatch(weight)
        layer, role = (known[1], _ROLES[known[2]]) if known else (weight, weight)
        tensors = parts.setdefault(layer, {})
        if role in tensors:
            raise WeightsError(f"duplicated: {role} of {layer} in {group.path}")
        tensors[role] = _tensor(group, weight)
    nested = len(parts) > 1
    layers = [
        FileLayer(part.rpartition("/")[2] if nested else name, True, name if nested else "", "", tensors)
        for part, tensors in parts.items()
    ]
    known_names = {t.name for tensors in parts.values() for t in tensors.values()}
    return [*layers, *(_stray(t) for t in group.tensors() if t.name not in known_names)]


def _tensor(group: Group, path: str) -> StoredTensor:
    parents, _, name = path.rpartition("/")
    return (group.at(parents) if parents else group).tensor(name)


def _list(group: Group, name: str) -> list[str] | None:
    """A list of names, in one attribute or in numbered pieces."""
    whole = group.texts(name)
    if whole is not None:
        return whole
    pieces: list[str] = []
    number = 0
    while (piece := group.texts(f"{name}{number}")) is not None:
        pieces += piece
        number += 1
    return pieces if number else None


def _check_unique(names: Sequence[str], where: str) -> None:
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise WeightsError(f"duplicated in {where}: {', '.join(twice)}")
