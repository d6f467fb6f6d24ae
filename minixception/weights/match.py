"""Which tensor of a file becomes which tensor of the model; settled before anything is assigned.

What stands against a match is of five kinds. Strictly, each is an error. Where only a part of the file is asked for, a
surplus is none; where not strict, only the impossible is, and what does not fit is left as it is, on both sides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

from ..errors import WeightsError
from ..nn import Module
from .layers import VERSION_1, FileLayer, ModelLayer, creation_order, network_order
from .source import StoredTensor

BASE = "base"  # the part of a file that is its layers up to a head, which the model does not have
SURPLUS, MISSING, SHAPE, ORDER, IMPOSSIBLE = "surplus", "missing", "shape", "order", "impossible"
NOT_STRICT = (SURPLUS, MISSING, SHAPE, ORDER)
MAX_SCOPES = 5  # whose orders are tried


class Problem(NamedTuple):
    """What stands against a match: one of the kinds above, in words, and for a shape the model's tensor and both."""

    kind: str
    line: str
    tensor: str = ""
    expected: tuple[int, ...] = ()
    found: tuple[int, ...] = ()


@dataclass
class Match:
    """The model's tensors with those of a file that become them, and what stands against it.

    in_doubt: the model's tensors that only an order places, where one of their class does not fit its place.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    in_doubt: set[str] = field(default_factory=set)

    @property
    def certain(self) -> dict[str, StoredTensor]:
        """The tensors but for those in doubt."""
        return {name: tensor for name, tensor in self.tensors.items() if name not in self.in_doubt}

    def against(self, tolerated: Collection[str]) -> list[Problem]:
        """The problems but for those of some kinds."""
        return [problem for problem in self.problems if problem.kind not in tolerated]

    def surplus(self, tensors: Iterable[StoredTensor]) -> None:
        """None of these belongs to the model."""
        self.problems += [Problem(SURPLUS, f"surplus: {tensor.name} {tensor.shape}") for tensor in tensors]

    def complete(self, model: Module) -> Match:
        """Add what is missing; returns self."""
        named = self.tensors.keys() | {problem.tensor for problem in self.problems}
        lines = [f"missing: {name} {t.shape}" for name, t in model.named_tensors() if name not in named]
        self.problems += [Problem(MISSING, line) for line in lines]
        return self


def tolerated(part: str | None, strict: bool) -> Collection[str]:
    """The kinds of problems that are none."""
    return NOT_STRICT if not strict else (SURPLUS,) if part == BASE else ()


def match_names(model: Module, tensors: Mapping[str, StoredTensor], part: str | None = None) -> Match:
    """Tensors that already have the model's names and layouts; those of a part have its name and a dot before."""
    if part and (inside := [name for name in tensors if name.startswith(f"{part}.")]):
        tensors = {name.removeprefix(f"{part}."): tensors[name] for name in inside}
    elif part not in (None, BASE):
        raise _no_part(part, {name.rpartition(".")[0] for name in tensors})
    match = Match()
    expected = {name: t.shape for name, t in model.named_tensors()}
    for name, tensor in tensors.items():
        if name not in expected:
            match.surplus([tensor])
        else:
            _put(match, name, tensor, expected[name])
    return match.complete(model)


def match_layers(model: Module, layers: Sequence[FileLayer], part: str | None = None) -> Match:
    """The layers of a Keras file: all of them together, or if they do not fit, those of the one nested model that does.

    part: a nested model, to which this is confined; or BASE. Raises WeightsError for another part, and if several
    nested models fit; if none does, the problems are those of the file as a whole.
    """
    if part and (inside := _inside(layers, part)):
        layers = inside
    elif part not in (None, BASE):
        raise _no_part(part, {layer.group for layer in layers})
    whole = _match(model, layers)
    for beside in ((), (SURPLUS,)) if part == BASE else ((),):
        if not whole.against(beside):
            return whole
        groups = sorted({layer.group for layer in layers} - {""})
        matches = {group: _match(model, _inside(layers, group)) for group in groups}
        fits = {group: match for group, match in matches.items() if not match.against(beside)}
        if len(fits) > 1:
            raise WeightsError(
                f"expected one nested model that fits, got {len(fits)}: {', '.join(fits)}; "
                f"part={next(iter(fits))!r} takes that one"
            )
        if fits:
            return next(iter(fits.values()))
    return whole


def _inside(layers: Sequence[FileLayer], group: str) -> list[FileLayer]:
    return [layer for layer in layers if f"{layer.group}/".startswith(f"{group}/")]


def _no_part(part: str | None, parts: Collection[str]) -> WeightsError:
    known = ", ".join(repr(name) for name in sorted({BASE, *parts} - {""}))
    return WeightsError(f"expected a part of the file, one of {known}, got {part!r}")


def _match(model: Module, layers: Sequence[FileLayer]) -> Match:
    """Layers with the name of one of ours by name, the others by class and order.

    The order is that of the file and the network, as when Keras loads one. In files of version 1, which are known from
    the counts in their names, it is that of creation.
    """
    match = Match()
    ours = creation_order(model)
    counts = Counter(layer.name for layer in ours)
    by_name = {layer.name: layer for layer in ours if counts[layer.name] == 1}
    ordered: dict[str, list[FileLayer]] = defaultdict(list)
    taken = set()
    for layer in layers:
        if layer.named and layer.name in by_name:
            mine = by_name[layer.name]
            if mine.path in taken:
                match.problems.append(Problem(IMPOSSIBLE, f"duplicated: layer {layer.name}"))
            taken.add(mine.path)
            _pair(match, mine, layer)
        elif layer.kind:
            ordered[layer.kind].append(layer)
        else:
            match.surplus(layer.tensors.values())
    version_1 = any(layer.name.startswith(VERSION_1) for layers in ordered.values() for layer in layers)
    for kind, theirs in ordered.items():
        rest = [mine for mine in ours if mine.kind == kind and mine.path not in taken]
        if version_1:
            theirs.sort(key=lambda layer: layer.number)
        elif len(rest) > 1:
            rest = [mine for mine in network_order(model) if mine in rest]
        _pair_in_order(match, rest, theirs)
    return match.complete(model)


def _pair_in_order(match: Match, ours: list[ModelLayer], theirs: list[FileLayer]) -> None:
    """Layers of one class, both in order: those that come first in the network are paired.

    Scopes have no order among them: it is the one in which all layers fit, if there is only one.
    """
    scopes: dict[str, list[FileLayer]] = defaultdict(list)
    for layer in theirs:
        scopes[layer.scope].append(layer)
    if len(scopes) > 1 and ours:
        orders = permutations(scopes.values()) if len(scopes) <= MAX_SCOPES else ()
        fitting = [order for order in ([layer for scope in o for layer in scope] for o in orders) if _fit(ours, order)]
        if len(fitting) != 1:
            names = " and in ".join(sorted(scope or "the model itself" for scope in scopes))
            match.problems.append(Problem(ORDER, f"unknown order: {theirs[0].name} and others are in {names}"))
            return match.surplus(t for layer in theirs for t in layer.tensors.values())
        theirs = fitting[0]
    for mine, layer in zip(ours, theirs, strict=False):
        _pair(match, mine, layer)
    if not _fit(ours, theirs):
        match.in_doubt.update(slot.tensor for mine in ours for slot in mine.slots.values())
    match.surplus(t for layer in theirs[len(ours) :] for t in layer.tensors.values())


def _fit(ours: Sequence[ModelLayer], theirs: Sequence[FileLayer]) -> bool:
    """Has each layer of the file, as far as ours go, the roles and shapes of ours in that place?"""
    return all(
        {role: slot.keras_shape for role, slot in mine.slots.items()} == {r: t.shape for r, t in layer.tensors.items()}
        for mine, layer in zip(ours, theirs, strict=False)
    )


def _pair(match: Match, mine: ModelLayer, layer: FileLayer) -> None:
    left = dict(layer.tensors)
    for role, slot in mine.slots.items():
        if role in left:
            _put(match, slot.tensor, left.pop(role), slot.keras_shape, slot.shape)
    # A layer with more arrays than ours computes something else: a part of the file is no reason to leave them
    match.problems += [Problem(SHAPE, f"surplus: {tensor.name} {tensor.shape}") for tensor in left.values()]


def _put(
    match: Match, name: str, tensor: StoredTensor, expected: tuple[int, ...], shape: tuple[int, ...] | None = None
) -> None:
    """The model's tensor ``name`` becomes ``tensor``, if that has the expected shape; it is stored as ``shape``."""
    if tensor.shape != expected:
        at = "" if tensor.name == name else f" in {tensor.name}"
        line = f"shape of {name}: the model has {expected}, the file {tensor.shape}{at}"
        match.problems.append(Problem(SHAPE, line, name, expected, tensor.shape))
    else:
        match.tensors[name] = tensor if shape is None else tensor.reshaped(shape)
