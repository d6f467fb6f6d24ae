"""Which rung of the ladder runs: ``numpy`` (the definition), ``loops``, ``cpu`` (fast, the default), ``cuda``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from ..errors import BackendError

LADDER = ("numpy", "loops", "cpu", "cuda")  # slowest first
_current: ContextVar[str] = ContextVar("backend", default="cpu")


def current_backend() -> str:
    """The name of the backend that operators use here."""
    return _current.get()


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every operator inside of the block on one rung; the backward pass uses the rung its forward ran on.

    "cuda" moves the inputs of operators to the GPU and leaves results there; operators on arrays that are there already
    run there in any case. Raises BackendError for an unknown name, and for "cuda" where there is no GPU and
    MINIXCEPTION_CUDA=simulator is not set.

    >>> with use_backend("numpy"):
    ...     current_backend()
    'numpy'
    """
    if name not in LADDER:
        raise BackendError(f"backend must be one of {', '.join(LADDER)}, got {name!r}")
    if name == "cuda":
        from ..gpu.kernel import require_gpu

        require_gpu()
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)
