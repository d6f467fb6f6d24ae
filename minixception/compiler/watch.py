"""Notice that a model has changed since its weights were folded, in a small part of the time of a call.

Whoever changes weights writes into arrays, and no array tells. So some cells of each are kept and compared: all of a
small array, and of a large one a few. Training, loading weights and exchanging arrays change them all. A layer that was
replaced is noticed by a count that all modules share.
"""

from __future__ import annotations

from operator import attrgetter, is_

import numpy as np

from ..nn.module import Module, structure_changes

_DATA = attrgetter("data")
_CELLS = 64  # of an array that are looked at, if it has more than four times as many


class Watch:
    """The weights of a model as they are now.

    >>> import minixception as mx
    >>> model = mx.nn.Conv2d(3, 8)
    >>> watch = Watch(model)
    >>> watch.sees_change()
    False
    >>> model.weight.data *= 2
    >>> watch.sees_change()
    True
    """

    def __init__(self, model: Module) -> None:
        self._model = model
        self._structure, self._parts = structure_changes(), _parts(model)
        self._tensors = [tensor for _, tensor in model.named_tensors()]
        self._arrays = [tensor.data for tensor in self._tensors]
        by_dtype: dict[np.dtype, list[np.ndarray]] = {}
        for array in self._arrays:
            if isinstance(array, np.ndarray):
                by_dtype.setdefault(array.dtype, []).append(_cells(array))
        self._cells = list(by_dtype.values())
        self._before = [np.concatenate(cells) for cells in self._cells]
        self._now = [np.empty_like(before) for before in self._before]

    def sees_change(self) -> bool:
        """Whether other arrays, or other values, are there now.

        Not noticed: single elements of a large array written by hand, and arrays on the GPU written in place, where
        reading them would be waiting for all that runs.
        """
        if self._structure != structure_changes():  # of any model: is it this one?
            self._structure = structure_changes()
            now = _parts(self._model)
            if len(now) != len(self._parts) or not all(map(is_, now, self._parts)):
                return True
        if not all(map(is_, map(_DATA, self._tensors), self._arrays)):
            return True
        for cells, here, before in zip(self._cells, self._now, self._before, strict=True):
            np.concatenate(cells, out=here)
            if not np.array_equal(here, before) and here.tobytes() != before.tobytes():  # the same nan is no change
                return True
        return False


def _parts(model: Module) -> list[object]:
    """Its modules and tensors."""
    return [part for _, part in (*model.named_modules(), *model.named_tensors())]


def _cells(array: np.ndarray) -> np.ndarray:
    """A view of some elements of an array, in one dimension; the step is odd, so as not to meet one channel alone."""
    flat = array.reshape(-1) if array.flags.c_contiguous else array[(0,) * (array.ndim - 1)]
    return flat if flat.size <= 4 * _CELLS else flat[:: (flat.size // _CELLS) | 1]
