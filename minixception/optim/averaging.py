"""Polyak-averaged weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from ..gpu.device import assign, copy, is_on_gpu, to_cpu
from . import cuda as gpu
from .common import Parameter, Scratch, check_range, load_arrays


class EMA:
    """Polyak averaging: an exponential moving average of the weights, for evaluation (Xception, section 4.2).

        average = d * average + (1 - d) * w,   d = min(decay, (1 + t) / (10 + t)),   t = updates so far,

    TensorFlow's ExponentialMovingAverage with its warm-up, without which a short run would evaluate its
    initial weights. Give it buffers (batchnorm's running statistics) beside the parameters to average these
    too.

    >>> from types import SimpleNamespace
    >>> w = SimpleNamespace(data=np.array([1.0]), grad=None)
    >>> ema = EMA([w], decay=0.999)
    >>> w.data[:] = 11.0
    >>> ema.update()  # d = 1 / 10
    >>> with ema.averaged():
    ...     print(w.data)
    [10.]
    >>> w.data
    array([11.])
    """

    def __init__(self, params: Iterable[Parameter], decay: float) -> None:
        check_range("decay", decay, 0, 1)
        self.params = list(params)
        self.decay = decay
        self.updates = 0
        self._averages = [copy(p.data) for p in self.params]
        self._scratch = Scratch()

    def update(self) -> None:
        """Take the weights as they are now into the average: after each step of the optimiser."""
        share = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        for p, average in zip(self.params, self._averages, strict=True):
            if is_on_gpu(average):
                gpu.update(gpu.average, average, p.data, share=share)
            else:
                difference = np.subtract(p.data, average, out=self._scratch(average, 0))
                average += np.multiply(difference, share, out=difference)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In the ``with`` block the parameters hold their averages; after it, bit for bit what they held."""
        kept = [copy(p.data) for p in self.params]
        self._assign(self._averages)
        try:
            yield
        finally:
            self._assign(kept)

    def assign(self) -> None:
        """Give the parameters their averages for good: for a model that is trained no further."""
        self._assign(self._averages)

    def _assign(self, arrays: list[np.ndarray]) -> None:
        for p, array in zip(self.params, arrays, strict=True):
            assign(p.data, array)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The averages, as copies, and the number of updates."""
        return {
            "updates": np.array(self.updates, np.int64),
            **{k: np.array(to_cpu(v)) for k, v in self._flat().items()},
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Take over a state of :meth:`state_dict`, whole or not at all.

        Raises:
            CheckpointError: the state's names, shapes or dtypes are not those of these parameters.
        """
        updates = np.array(0, np.int64)
        load_arrays(state, {"updates": updates, **self._flat()}, type(self).__name__)
        self.updates = int(updates)

    def _flat(self) -> dict[str, np.ndarray]:
        return {f"average/{i}": array for i, array in enumerate(self._averages)}
