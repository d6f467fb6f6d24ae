"""Who may launch a parallel kernel: several Python threads, and processes made by fork.

The threads that share out a ``prange`` are those of a threading layer that Numba picks, and not each of them takes
everything. workqueue, where there is neither TBB nor OpenMP, aborts the process when two Python threads launch at once;
GNU's OpenMP kills a child of ``os.fork()`` whose parent had it running, and a pool of such children waits forever.

No call asks which of this holds. The class of a kernel's dispatcher says how it is called, and is replaced when that
changes: ``_First`` until the first call, then Numba's own, whose calls are all in C, or ``_InTurn`` with workqueue;
``_Orphaned`` in a child whose parent's threads did not come along.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import Any

import numba
from numba.core.registry import CPUDispatcher

from ..errors import BackendError

_kernels: weakref.WeakSet[Any] = weakref.WeakSet()  # all that are parallel
_turn = threading.RLock()  # a signal handler may run a kernel of its own while this thread has the turn
_orphaned = False


def guard(dispatcher: Any) -> Any:
    """Let the dispatcher of a parallel kernel find out at its first call how it may be called; returns it."""
    dispatcher.__class__ = _First
    _kernels.add(dispatcher)
    return dispatcher


class _First(CPUDispatcher):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.__class__ = _class_here()
        return self(*arguments, **named)


class _InTurn(CPUDispatcher):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with _turn:
            return super().__call__(*arguments, **named)


class _Orphaned(CPUDispatcher):
    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise BackendError(
            "this process is a fork of one that had run kernels, and GNU's OpenMP, on whose threads they run, does not "
            'survive a fork. Start processes with multiprocessing.get_context("spawn") or "forkserver", or set '
            "NUMBA_THREADING_LAYER to tbb or workqueue before the first kernel runs"
        )


def _class_here() -> type[CPUDispatcher]:
    if _orphaned:
        return _Orphaned
    numba.get_num_threads()  # starts the threads, unless they are running
    return _InTurn if numba.threading_layer() == "workqueue" else CPUDispatcher


def _after_fork() -> None:
    """In the child, where only the thread that called fork lives on."""
    global _orphaned, _turn
    _turn = threading.RLock()  # another thread may have had the old one
    _orphaned = _runs_on_gnu_openmp()
    if _orphaned:
        for kernel in _kernels:
            kernel.__class__ = _Orphaned


def _runs_on_gnu_openmp() -> bool:
    try:
        layer = numba.threading_layer()
    except ValueError:  # Numba has started no threads yet: the child starts its own
        return False
    return layer == "omp" and sys.modules["numba.np.ufunc.omppool"].openmp_vendor == "GNU"


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork)
