"""Machine code is made of a kernel once, and of what it is made of only for those who ask for it."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location

import numba
import numpy as np
import pytest
from numba.core.codegen import JitEngine

from minixception.cpu import jit

KERNELS = """
from numba import njit
from minixception.cpu.jit import forceinline, loops, parallel, prange

@forceinline
def plus_one(x):
    return x + 1

@njit
def root(x):
    if x < 0:
        raise ValueError("a root of", x)
    return x ** 0.5

@loops
def one_more(x):
    return plus_one(x)

@loops
def two_more(x):
    return plus_one(one_more(x))

@loops
def root_of_next(x):
    return root(plus_one(x))

@parallel
def all_plus_one(x, y):
    for i in prange(x.size):
        y[i] = plus_one(x[i])
"""


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A function that gives a module with these kernels, none of which is compiled yet in this process."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "some_kernels.py").write_text(KERNELS)

    def fresh():
        monkeypatch.setattr(jit, "NAMES", [])
        spec = spec_from_file_location("some_kernels", tmp_path / "some_kernels.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return fresh


@pytest.fixture
def made(monkeypatch):
    """One entry for each time that machine code was made."""
    calls = []
    finalize = JitEngine.finalize_object
    monkeypatch.setattr(JitEngine, "finalize_object", lambda engine: (calls.append(engine), finalize(engine)))
    return calls


def test_a_parallel_kernel_becomes_machine_code_once(kernels, made):
    y, module = np.zeros(5), kernels()
    assert module.one_more(1) == 2  # starts Numba's own runtime, if nobody has
    made.clear()
    module.all_plus_one(np.arange(5.0), y)
    assert y.tolist() == [1, 2, 3, 4, 5]
    assert len(made) == 1


def test_what_a_kernel_calls_can_be_called_by_others_too(kernels, made):
    module = kernels()
    assert module.root_of_next(3.0) == 2
    assert len(made) == 2  # of ``root`` as well, which has an entry for Python
    assert module.root(9.0) == 3
    for function in (module.root, module.root_of_next):
        with pytest.raises(ValueError, match="a root of"):
            function(-4.0)
    assert len(made) == 2


def test_a_kernel_from_the_cache_is_linked_into_one_that_is_compiled(kernels):
    assert kernels().one_more(1) == 2
    module = kernels()
    assert module.two_more(1) == 3
    assert sum(module.one_more.stats.cache_hits.values()) == 1
    assert module.one_more(5) == 6


def test_other_code_is_compiled_as_numba_does(kernels):
    assert kernels().one_more(1) == 2
    function = numba.njit(lambda x: x + 1)
    assert function(1) == 2
    (signature,) = function.signatures
    assert type(function.overloads[signature].library).__module__ == "numba.core.codegen"
