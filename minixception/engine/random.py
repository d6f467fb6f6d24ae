"""The package's own source of random numbers: for whatever is random and was given no generator.

It starts from a fixed seed, so a program that never calls ``seed`` still gives the same result every time it
runs. Each thread has a generator of its own: what one draws does not depend on what others draw meanwhile.
"""

from __future__ import annotations

import threading

import numpy as np

from ..errors import ArgumentError

_seed = 0  # what any thread set last


def seeded(n: int) -> np.random.Generator:
    """A generator of its own that starts from n; ArgumentError unless n is an integer of 0 or more."""
    if not isinstance(n, (int, np.integer)) or n < 0:
        raise ArgumentError(f"a seed must be an integer of 0 or more, got {n!r}")
    return np.random.Generator(np.random.PCG64(int(n)))


class _OfThread(threading.local):
    """What belongs to one thread, made when it first asks."""

    def __init__(self) -> None:
        self.generator = seeded(_seed)


_here = _OfThread()


def seed(n: int) -> None:
    """Start this thread's generator anew from n; ArgumentError unless n is an integer of 0 or more.

    The generator itself stays the same object, so whoever holds it sees the new stream. A thread that has not drawn yet
    will start from n too, unless another seed is set before; one that is to be repeatable beside others calls ``seed``
    itself.

    >>> seed(1)
    >>> first = generator().random()
    >>> seed(1)
    >>> generator().random() == first
    True
    """
    global _seed
    started = seeded(n)
    _seed = int(n)
    _here.generator.bit_generator.state = started.bit_generator.state


def generator() -> np.random.Generator:
    """The generator that everything random in the package draws from by default, in this thread.

    ``generator().bit_generator.state`` is a dict of plain integers: save it and set it to continue a stream.
    """
    return _here.generator
