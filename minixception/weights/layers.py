"""The two sides of a Keras file: its layers as they are read, and the model's as Keras would name and order them.

Keras calls a layer by the name that its author gave it (block2_sepconv1), or makes one of the class and a count
(conv2d_3). Ours is called by its path: block2.sepconv1 is block2_sepconv1, and what lies in a residual block's shortcut
leaves that word out: conv2_block1.shortcut.0_conv is conv2_block1_0_conv. The path starts at the innermost model around
the layer, as in Keras, where a model in a model does not change the names in it: a module below ours that knows its own
``input_shape`` is one. Layers with made names, or with names that ours do not have, go by an order:

    creation order   of the counts in made names: a shortcut comes before the chain beside it
    network order    of Keras' model.layers, in which files list or count layers: those furthest from the output come
                     first, and of two at the same distance the one created first
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..engine.tensor import Tensor
from ..errors import ArgumentError
from ..graph.trace import trace
from ..nn import BatchNorm2d, Conv2d, DepthwiseConv2d, Linear, Module, PointwiseConv2d, SeparableConv2d
from ..nn.module import Buffer, Parameter
from .source import StoredTensor

_KERNEL = {"weight": "kernel", "bias": "bias"}
# Keras' class and our attribute -> Keras' role, in the order of Keras' get_weights()
KERAS: dict[type[Module], tuple[str, dict[str, str]]] = {
    Conv2d: ("conv2d", _KERNEL),
    PointwiseConv2d: ("conv2d", _KERNEL),
    DepthwiseConv2d: ("depthwise_conv2d", _KERNEL),
    SeparableConv2d: ("separable_conv2d", {"depthwise": "depthwise_kernel", "pointwise": "pointwise_kernel"}),
    BatchNorm2d: (
        "batch_normalization",
        {"gamma": "gamma", "beta": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"},
    ),
    Linear: ("dense", _KERNEL),
}
_CLASSES = {  # in the names that Keras makes, of version 1 (convolution2d_7), 2 (conv2d_7) and 3 (conv2d, conv2d_1)
    **{"convolution2d": "conv2d", "conv2d": "conv2d", "dense": "dense", "depthwise_conv2d": "depthwise_conv2d"},
    **{"separableconvolution2d": "separable_conv2d", "separable_conv2d": "separable_conv2d"},
    **{"batchnormalization": "batch_normalization", "batch_normalization": "batch_normalization"},
}
VERSION_1 = ("convolution2d", "separableconvolution2d", "batchnormalization")  # names that only it made
_MADE_NAME = re.compile(rf"({'|'.join(_CLASSES)})(?:_(\d{{1,9}}))?")
_TELLING = {  # roles that only one class has
    **{"moving_mean": "batch_normalization", "pointwise_kernel": "separable_conv2d"},
    **{"depthwise_kernel": "depthwise_conv2d"},
}


@dataclass(frozen=True)
class FileLayer:
    """A layer in a file.

    name, named: the one that the layer had in Keras or, if not named, its class with the file's count. group: the
    nested model that it belongs to, "" outside of any. scope: layers of one class and one scope are in network order.
    tensors: by Keras' roles, in Keras' shapes.
    """

    name: str
    named: bool
    group: str
    scope: str
    tensors: dict[str, StoredTensor]

    @property
    def kind(self) -> str | None:
        """Its class, which a made name says; under another name, the arrays. None if it is none of ours."""
        if made_name := _MADE_NAME.fullmatch(self.name):
            return _CLASSES[made_name[1]]
        axes = len(self.tensors["kernel"].shape) if "kernel" in self.tensors else 0
        telling = (kind for role, kind in _TELLING.items() if role in self.tensors)
        return next(telling, {2: "dense", 4: "conv2d"}.get(axes))

    @property
    def number(self) -> int:
        """The count in its made name."""
        made_name = _MADE_NAME.fullmatch(self.name)
        return int(made_name[2] or 0) if made_name else 0


@dataclass(frozen=True)
class Slot:
    """A place for a tensor of a file: which of the model's tensors it becomes, and its shape here and in Keras."""

    tensor: str
    shape: tuple[int, ...]
    keras_shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelLayer:
    """A layer of the model: its path, the model around it, its name and class in Keras, and its slots by Keras' roles.

    group: the path of that model, "" for the whole.
    """

    path: str
    group: str
    name: str
    kind: str
    slots: dict[str, Slot]


def creation_order(model: Module) -> list[ModelLayer]:
    """The model's layers that Keras has too, in the order in which Keras' models create theirs."""
    groups = nested_models(model)
    return [_model_layer(path, module, groups) for path, module in _leaves(model, "") if type(module) in KERAS]


def nested_models(model: Module) -> list[str]:
    """The paths of the models in a model, the outer before the inner."""
    return [path for path, module in model.named_modules() if path and module.input_shape is not None]


def network_order(model: Module) -> list[ModelLayer]:
    """The same in the order of Keras' ``model.layers``.

    ArgumentError if neither the model nor one in it, with which it is taken to begin, knows its input's shape.
    """
    shape = next((module.input_shape for _, module in model.named_modules() if module.input_shape), None)
    if shape is None:
        raise ArgumentError(
            "Keras 3 files count layers in the order of the network: expected model.input_shape = (h, w, c), got None"
        )
    graph = trace(model, (1, *shape))
    value_depths: Counter[int] = Counter()  # longest way from each value to the result, in layers
    depths: dict[str, int] = {}
    for node in reversed(graph.nodes):
        depths[node.path] = value_depths[node.makes]
        for value in node.reads:
            value_depths[value] = max(value_depths[value], depths[node.path] + 1)
    return sorted(creation_order(model), key=lambda layer: -depths[layer.path])


def _leaves(module: Module, path: str) -> Iterator[tuple[str, Module]]:
    """Modules without children, a shortcut's before those of the chain beside it."""
    children = module.children()
    if not children:
        yield path, module
    for name in sorted(children, key=lambda name: name != "shortcut"):
        yield from _leaves(children[name], f"{path}.{name}" if path else name)


def _model_layer(path: str, module: Module, groups: list[str]) -> ModelLayer:
    kind, roles = KERAS[type(module)]
    slots = {}
    for attribute, role in roles.items():
        value = getattr(module, attribute, None)
        if isinstance(value, Parameter | Buffer):
            slots[role] = Slot(
                f"{path}.{attribute}" if path else attribute, value.shape, _keras_shape(kind, role, value)
            )
    group = next((group for group in reversed(groups) if path.startswith(f"{group}.")), "")
    name = "_".join(part for part in path.removeprefix(f"{group}.").split(".") if part != "shortcut")
    return ModelLayer(path, group, name, kind, slots)


def _keras_shape(kind: str, role: str, tensor: Tensor) -> tuple[int, ...]:
    """Keras keeps a depthwise kernel with a last axis, and a pointwise one with two first axes, of 1."""
    if role == "depthwise_kernel" or (kind == "depthwise_conv2d" and role == "kernel"):
        return (*tensor.shape, 1)
    if role == "pointwise_kernel" or (kind == "conv2d" and role == "kernel" and tensor.ndim == 2):
        return (1, 1, *tensor.shape)
    return tensor.shape
