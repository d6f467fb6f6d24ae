"""What many processes would take: predicted from what one takes, and from two figures of the network.

A message of n bytes takes latency + n / bandwidth (the alpha-beta model, Hockney 1994). In a mean over P ranks each of
them sends P - 1 messages of an n / P, and later P - 1 more (means.py):

    seconds = 2 (P - 1) latency + 2 (P - 1) / P  n / bandwidth

The last shard's backward pass fills the buckets one after the other, and each is on its way while the next ones are
filled. So what communication adds to a step is what is left of it when that pass has ended. This is simulated bucket by
bucket, for buckets that are filled at even intervals and go one after the other through a link that each process has
for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ArgumentError


class Link(NamedTuple):
    """The network as one process sees it: bytes per second, and seconds until the first byte arrives."""

    bandwidth: float
    latency: float

    def mean_seconds(self, nbytes: float, processes: int) -> float:
        """For the mean of so many bytes over the processes, when nothing else is done.

        >>> Link(bandwidth=1e9, latency=1e-6).mean_seconds(1e9, 2)
        1.000002
        """
        messages = processes - 1
        return 2 * messages * self.latency + 2 * messages / processes * nbytes / self.bandwidth


class Work(NamedTuple):
    """What one process was measured to do: seconds of a shard's forward and backward pass, and of the update.

    buckets: bytes of each, in the order in which the backward pass fills them; rest: bytes of running statistics.
    """

    forward: float
    backward: float
    update: float
    buckets: Sequence[int]
    rest: int = 0


class Prediction(NamedTuple):
    """Seconds of a step: of arithmetic, of communication, and of that communication which nothing hides."""

    compute: float
    communication: float
    exposed: float

    @property
    def step(self) -> float:
        """Seconds from one step to the next."""
        return self.compute + self.exposed


def predict(work: Work, shards: int, processes: int, link: Link) -> Prediction:
    """A step of so many shards; ArgumentError for more processes than shards.

    >>> work = Work(forward=0.1, backward=0.2, update=0.05, buckets=[10**6] * 4)
    >>> one, two = (predict(work, 2, processes, Link(1e9, 1e-6)) for processes in (1, 2))
    >>> round(one.step, 3), round(two.step, 3), round(two.communication, 3)
    (0.65, 0.351, 0.004)
    """
    if not 1 <= processes <= shards:
        raise ArgumentError(f"expected from 1 to {shards} processes, one shard for each at least, got {processes}")
    own = -(-shards // processes)  # the rank with the most shards keeps the others waiting
    costs = [link.mean_seconds(nbytes, processes) for nbytes in work.buckets]
    last = link.mean_seconds(work.rest, processes)
    done = 0.0  # on the clock of the last backward pass
    for number, cost in enumerate(costs, 1):
        done = max(done, work.backward * number / len(costs)) + cost
    exposed = done + last - work.backward
    return Prediction(own * (work.forward + work.backward) + work.update, sum(costs) + last, exposed)
