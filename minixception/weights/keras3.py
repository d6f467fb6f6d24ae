"""Keras 3's .weights.h5, alone or inside of a .keras archive: read, and written so that Keras loads it.

    /layers/<class>[_k]/vars/<j>     array j of the layer; k counts the layers of a class in the order of the network
    /layers/functional/layers/...    the same for a nested model
    /<attribute>/...                 a layer or a model that a class of one's own has as its attribute

Newer versions (3.15, not yet 3.3) give the group ``vars`` the layer's true name as an attribute; before, there are only
the counts. Before version 3 the same lay below ``_layer_checkpoint_dependencies``, where Keras still looks. The
states of the optimizer and of the metrics are no part of the model and are passed over.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ..errors import ArgumentError
from ..files import atomic_path
from ..nn import Module
from .hdf5 import Group
from .layers import FileLayer, nested_models, network_order
from .source import StoredTensor

_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_NO_LAYERS = ("optimizer", "metrics")
# The roles of a layer's arrays by its class and their number. A batchnorm of three has no gamma: our layers have beta.
_KERNELS = {1: ["kernel"], 2: ["kernel", "bias"]}
_STATISTICS = ["beta", "moving_mean", "moving_variance"]
_ROLES = {
    "conv2d": _KERNELS,
    "depthwise_conv2d": _KERNELS,
    "dense": _KERNELS,
    "separable_conv2d": {
        2: ["depthwise_kernel", "pointwise_kernel"],
        3: ["depthwise_kernel", "pointwise_kernel", "bias"],
    },
    "batch_normalization": {3: _STATISTICS, 4: ["gamma", *_STATISTICS]},
}
_Found = tuple[str, FileLayer]  # the count or the attribute that stands for the layer's name where it has none


def is_keras3(root: Group) -> bool:
    """Does the file have a group of layers where Keras 3 keeps it?"""
    return _container(root) is not None


def read_keras3(root: Group) -> list[FileLayer]:
    """All layers that have weights. If any of them lacks its true name, none is taken for named."""
    found = sorted(_read_model(root, ""), key=lambda pair: _class_and_number(pair[0]))
    if all(layer.name for _, layer in found):
        return [layer for _, layer in found]
    return [replace(layer, name=key, named=False) for key, layer in found]


def _class_and_number(count: str) -> tuple[str, int]:
    """conv2d_12 is the thirteenth conv2d."""
    kind, _, number = count.rpartition("_")
    return (kind, int(number)) if number.isdecimal() and len(number) < 10 else (count, 0)


def _container(group: Group) -> str | None:
    return next((name for name in _CONTAINERS if name in group), None)


def _read_model(model: Group, path: str) -> Iterator[_Found]:
    """The layers of a model and of those nested in it, and strays."""
    container = _container(model)
    if container:
        layers = model.group(container)
        for count in layers:
            yield from _read_member(layers, count, path, path)
    for name in model:
        if name == "vars" or not isinstance(model[name], Group):
            yield from _strays(model.tensors_of(name), path)
        elif name not in (container, *_NO_LAYERS):
            yield from _read_member(model, name, path, f"{path}/{name}".lstrip("/"))


def _read_member(parent: Group, key: str, path: str, scope: str) -> Iterator[_Found]:
    """One layer, or all those of a nested model, and strays. An attribute has a scope of its own."""
    layer = parent.group(key)
    if _container(layer):
        yield from _read_model(layer, f"{path}/{key}".lstrip("/"))
        return
    for name in layer:
        if name == "vars":
            yield from _read_layer(key, layer.group("vars"), path, scope)
        else:
            yield from _strays(layer.tensors_of(name), path)


def _read_layer(key: str, variables: Group, path: str, scope: str) -> Iterator[_Found]:
    names = sorted(variables)
    name = "".join(variables.texts("name") or [])
    kind = next((kind for kind, _ in map(_class_and_number, (key, name)) if kind in _ROLES), "")
    roles = _ROLES.get(kind, {}).get(len(names))
    if roles is None or names != [str(j) for j in range(len(names))]:
        yield from _strays(variables.tensors(), path)
        return
    tensors = {role: variables.tensor(name) for role, name in zip(roles, names, strict=True)}
    yield key, FileLayer(name, True, path, scope, tensors)


def _strays(tensors: Iterable[StoredTensor], path: str) -> Iterator[_Found]:
    """Arrays in no layer's place, each as a layer of its own."""
    return ((t.name, FileLayer(t.name, True, path, path, {"": t})) for t in tensors)


def write_keras3(model: Module, path: str | os.PathLike[str]) -> None:
    """Write what Keras' ``load_weights`` takes, whole or not at all. ArgumentError for layers that Keras lacks."""
    import h5py

    layers = network_order(model)
    state = model.state_dict()
    if strange := state.keys() - {slot.tensor for layer in layers for slot in layer.slots.values()}:
        raise ArgumentError(f"Keras has no layer for: {', '.join(sorted(strange))}; write a .safetensors file")
    counts: Counter[str] = Counter()
    containers = {"": "layers"}  # of the layers of each nested model, which is counted where it stands in the network

    def counted(container: str, kind: str) -> str:
        number = counts[f"{container}/{kind}"]
        counts[f"{container}/{kind}"] += 1
        return f"{container}/{kind}{f'_{number}' if number else ''}"

    content = io.BytesIO()  # HDF5 itself crashes where the disk is full
    with h5py.File(content, "w") as file:
        for layer in layers:
            outer = ""
            for group in [group for group in nested_models(model) if f"{layer.path}.".startswith(f"{group}.")]:
                if group not in containers:
                    containers[group] = f"{counted(containers[outer], 'functional')}/layers"
                outer = group
            variables = file.create_group(f"{counted(containers[layer.group], layer.kind)}/vars")
            variables.attrs["name"] = layer.name
            for j, slot in enumerate(layer.slots.values()):
                variables.create_dataset(str(j), data=state[slot.tensor].reshape(slot.keras_shape))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())
