"""The list of actions that a training step becomes, while it grows: what happens when, and what lies where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...engine.op import Shape
from ...graph.trace import Graph
from .arena import Slot, place

Action = Callable[[], Any]


class Build:
    """What is known while the list of actions grows: the moment, and where each value and its gradient lie."""

    def __init__(self, graph: Graph, dtype: np.dtype) -> None:
        self.graph, self.dtype = graph, dtype
        self.makers = {node.makes: node for node in graph.nodes}
        self.actions: list[Action] = []
        self._slots: list[Slot] = []
        self._values: dict[int, Slot] = {}
        self._gradients: dict[int, Slot] = {}
        self._wanted = {0: False} | {index: t.requires_grad for index, t in graph.constants.items()}
        for node in graph.nodes:
            trained = any(t.requires_grad for call in node.calls for t in call.inputs)
            self._wanted[node.makes] = trained or any(self._wanted[value] for value in node.reads)

    def act(self, action: Action) -> None:
        """The next thing to do; slots asked for before it are needed at this moment."""
        self.actions.append(action)

    def slot(self, shape: Shape | None) -> Slot:
        """A new one, from this moment on."""
        self._slots.append(Slot(shape, len(self.actions)))
        return self._slots[-1]

    def value(self, index: int, shape: Shape | None = None) -> Slot:
        """Where a value lies, needed at this moment; with a shape in planned memory, if it is new."""
        if index not in self._values:
            self._values[index] = self.slot(shape)
        return self._needed(self._values[index])

    def wants_gradient(self, index: int) -> bool:
        """Whether any parameter lies behind this value."""
        return self._wanted[index]

    def gradient(self, index: int) -> Slot | None:
        """The gradient of a value, of all that has reached it, needed at this moment; None if nothing has."""
        slot = self._gradients.get(index)
        return None if slot is None else self._needed(slot)

    def hold(self, index: int, slot: Slot | None = None) -> Slot:
        """From now on the value's gradient is in this slot, or in a new one for an array of somebody else's."""
        self._gradients[index] = self._needed(slot or self.slot(None))
        return self._gradients[index]

    def add_gradient(self, index: int, slot: Slot) -> None:
        """What is in the slot reaches this value, too; the slot is read by others and stays as it is."""
        before = self.gradient(index)
        if not self.wants_gradient(index):
            return
        if before is None:
            self.hold(index, slot)
            return
        first, total = before, self.hold(index, self.slot(slot.shape or before.shape))

        def add() -> None:
            if total.shape is None:
                total.array = np.empty_like(slot.array)
            np.add(first.array, slot.array, out=total.array)

        self._needed(slot)
        self.act(add)

    def _needed(self, slot: Slot) -> Slot:
        slot.last = len(self.actions)
        return slot

    def finished(self) -> list[tuple[Action, list[Slot]]]:
        """The actions, each with the slots whose arrays are forgotten after it; memory is given out."""
        self.nbytes = place(self._slots, self.dtype)
        done: list[list[Slot]] = [[] for _ in self.actions]
        for slot in self._slots:
            if slot.shape is None and slot.last < len(done):
                done[slot.last].append(slot)
        return list(zip(self.actions, done, strict=True))
