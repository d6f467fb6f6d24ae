"""Which tensor of a file becomes which tensor of the model; strict, and settled before anything is assigned."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import WeightsError
from ..nn import Module
from .layers import FileLayer, ModelLayer, creation_order, network_order
from .source import StoredTensor

_CLASSES = {  # in the names that Keras makes, of version 1 (convolution2d_7), 2 (conv2d_7) and 3 (conv2d, conv2d_1)
    **{"convolution2d": "conv2d", "conv2d": "conv2d", "dense": "dense", "depthwise_conv2d": "depthwise_conv2d"},
    **{"separableconvolution2d": "separable_conv2d", "separable_conv2d": "separable_conv2d"},
    **{"batchnormalization": "batch_normalization", "batch_normalization": "batch_normalization"},
}
_VERSION_1 = ("convolution2d", "separableconvolution2d", "batchnormalization")
_MADE_NAME = re.compile(rf"({'|'.join(_CLASSES)})(?:_(\d{{1,9}}))?")


@dataclass
class Match:
    """The model's tensors with those of a file that become them, what stands against it, and what was left aside."""

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    def surplus(self, tensors: Mapping[str, StoredTensor]) -> None:
        """None of these belongs to the model."""
        self.problems += [f"surplus: {tensor.name} {tensor.shape}" for tensor in tensors.values()]

    def complete(self, model: Module) -> Match:
        """Add what is missing; returns self."""
        self.problems += [f"missing: {name} {t.shape}" for name, t in model.named_tensors() if name not in self.tensors]
        return self


def match_names(model: Module, tensors: Mapping[str, StoredTensor]) -> Match:
    """Tensors that already have the model's names and layouts."""
    match = Match()
    expected = {name: t.shape for name, t in model.named_tensors()}
    for name, tensor in tensors.items():
        if name not in expected:
            match.surplus({name: tensor})
        else:
            _put(match, name, tensor, expected[name])
    return match.complete(model)


def match_layers(model: Module, layers: Sequence[FileLayer]) -> Match:
    """The layers of a Keras file: all of them together, or if they do not fit, those of the one nested model that does.

    WeightsError if several nested models fit; if none does, the problems are those of the file as a whole.
    """
    whole = _match(model, layers)
    if not whole.problems:
        return whole
    fits = {}
    for group in sorted({layer.group for layer in layers} - {""}):
        inside = [layer for layer in layers if f"{layer.group}/".startswith(f"{group}/")]
        match = _match(model, inside)
        if not match.problems:
            fits[group] = match
            match.outside = [t.name for layer in layers if layer not in inside for t in layer.tensors.values()]
    if len(fits) > 1:
        raise WeightsError(f"expected one nested model that fits, got {len(fits)}: {', '.join(fits)}")
    return next(iter(fits.values()), whole)


def _match(model: Module, layers: Sequence[FileLayer]) -> Match:
    """Layers with the name of one of ours by name, those with a made name by class and order, no others.

    The order is that of the file and the network, as when Keras loads one. In files of version 1, which are known from
    the counts in their names, it is that of creation.
    """
    match = Match()
    ours = creation_order(model)
    counts = Counter(layer.name for layer in ours)
    by_name = {layer.name: layer for layer in ours if counts[layer.name] == 1}
    made: dict[str, list[FileLayer]] = defaultdict(list)
    taken = set()
    for layer in layers:
        made_name = _MADE_NAME.fullmatch(layer.name)
        if layer.named and layer.name in by_name:
            mine = by_name[layer.name]
            if mine.path in taken:
                match.problems.append(f"duplicated: layer {layer.name}")
            taken.add(mine.path)
            _pair(match, mine, layer)
        elif made_name:
            made[_CLASSES[made_name[1]]].append(layer)
        else:
            match.surplus(layer.tensors)
    version1 = any(layer.name.startswith(_VERSION_1) for layers in made.values() for layer in layers)
    for kind, theirs in made.items():
        rest = [mine for mine in ours if mine.kind == kind and mine.path not in taken]
        if version1:
            theirs.sort(key=_number)
        elif len(rest) > 1:
            rest = [mine for mine in network_order(model) if mine in rest]
        _pair_in_order(match, rest, theirs)
    return match.complete(model)


def _number(layer: FileLayer) -> int:
    made_name = _MADE_NAME.fullmatch(layer.name)
    return int(made_name[2] or 0) if made_name else 0


def _pair_in_order(match: Match, ours: list[ModelLayer], theirs: list[FileLayer]) -> None:
    """Layers of one class, both in order."""
    scopes = {layer.scope or "the model itself" for layer in theirs}
    if len(scopes) > 1:
        match.problems.append(f"unknown order: {theirs[0].name} and others are in {' and in '.join(sorted(scopes))}")
    for mine, layer in zip(ours, theirs, strict=False):
        _pair(match, mine, layer)
    for layer in theirs[len(ours) :]:
        match.surplus(layer.tensors)


def _pair(match: Match, mine: ModelLayer, layer: FileLayer) -> None:
    left = dict(layer.tensors)
    for role, slot in mine.slots.items():
        if role in left:
            _put(match, slot.tensor, left.pop(role), slot.keras_shape, slot.shape)
    match.surplus(left)


def _put(
    match: Match, name: str, tensor: StoredTensor, expected: tuple[int, ...], shape: tuple[int, ...] | None = None
) -> None:
    """The model's tensor ``name`` becomes ``tensor``, if that has the expected shape; it is stored as ``shape``."""
    if tensor.shape != expected:
        at = "" if tensor.name == name else f" in {tensor.name}"
        match.problems.append(f"shape of {name}: the model has {expected}, the file {tensor.shape}{at}")
    match.tensors[name] = tensor if shape is None else tensor.reshaped(shape)
