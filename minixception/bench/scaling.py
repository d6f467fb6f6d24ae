"""What a training step would take in many processes: measured in one, predicted for more by ``cluster.plan``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numba

from ..cluster.means import BUCKET, in_buckets
from ..cluster.plan import Link, Work, predict
from ..compiler.training import TrainingStep
from ..engine.tensor import Tensor
from ..nn import Module
from ..ops import cross_entropy
from ..optim import EMA, SGD
from .training import random_batch

IMAGENET = 1_281_167  # training images
_BACKWARD = 2 / 3  # of a pass: two products for each of the forward pass


class Measured:
    """A network's training, measured on this machine with as many threads as there are now.

    work: seconds of the passes of one shard of so many images, and of the update. memory: bytes of a process that has
    so many shards, counted: what the passes plan, the weights, gradients, momenta and averages, and the buckets.
    """

    def __init__(self, model: Module, images: int, repeats: int = 5) -> None:
        x, labels = random_batch(model, images)
        step, sgd = TrainingStep(model, cross_entropy), SGD(model.parameters(), lr=0.01, momentum=0.9)
        ema = EMA([one for _, one in model.named_tensors()], 0.999)
        batch, targets = Tensor(x), Tensor(labels)

        def update() -> None:
            sgd.step()
            ema.update()

        passes, updates = _median(lambda: step.gradients(batch, targets), repeats), _median(update, repeats)
        trained = [one.data.nbytes for one in reversed(model.parameters()) if one.requires_grad]
        buckets = [sum(trained[bucket.start : bucket.stop]) for bucket in in_buckets(trained, BUCKET)]
        rest = sum(buffer.data.nbytes for _, buffer in model.named_buffers())
        self.images, self.threads = images, numba.get_num_threads()
        self.work = Work(passes * (1 - _BACKWARD), passes * _BACKWARD, updates, buckets, rest)
        self._planned = step.planned_bytes

    def memory(self, own_shards: int, processes: int) -> float:
        """Bytes of a process with so many shards of its own: nodes of a sum, its result, and slices of the others'."""
        gradients = sum(self.work.buckets)
        sums = own_shards.bit_length() + 1 + (processes - 1) / processes
        return self._planned + (4 + sums * (own_shards > 1 or processes > 1)) * gradients


class Row(NamedTuple):
    """Training in so many processes: seconds of a step and of its communication, and of that what nothing hides.

    images: of a step. efficiency: the speed beside that of as many processes that do not talk. memory: bytes of each.
    """

    processes: int
    images: int
    step: float
    communication: float
    exposed: float
    images_per_second: float
    efficiency: float
    memory: float
    epochs_per_day: float


def scaling(
    measured: Measured, counts: Iterable[int], link: Link, shards: int | None = None, epoch: int = IMAGENET
) -> list[Row]:
    """A row for each number of processes; shards: of every step, None for one in each process; epoch: its images."""
    rows = []
    for processes in counts:
        all_of_them = shards or processes
        found = predict(measured.work, all_of_them, processes, link)
        images = all_of_them * measured.images
        speed = images / found.step
        own = -(-all_of_them // processes)
        alone = own * measured.images / predict(measured.work, own, 1, link).step
        memory = measured.memory(own, processes)
        efficiency, days = speed / alone / processes, epoch / speed / 86400
        seconds = found.step, found.communication, found.exposed
        rows.append(Row(processes, images, *seconds, speed, efficiency, memory, 1 / days))
    return rows


def _median(call: Callable[[], object], repeats: int) -> float:
    """Seconds, after two calls that compile, plan and warm up."""
    times = []
    for number in range(repeats + 2):
        begun = time.perf_counter()
        call()
        if number > 1:
            times.append(time.perf_counter() - begun)
    return statistics.median(times)
