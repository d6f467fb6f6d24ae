"""The cache of compiled kernels on the disk: a file in it that is damaged, or cannot be written, stops no kernel."""

from __future__ import annotations

import errno
from importlib.util import module_from_spec, spec_from_file_location

import numba
import pytest
from numba.core import caching

from minixception.cpu import cache, jit

KERNEL = """
from minixception.cpu.jit import loops

@loops
def plus_one(x):
    return x + 1
"""


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """A function that gives the kernel as a new process would have it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(jit, "NAMES", [])
    (tmp_path / "a_kernel.py").write_text(KERNEL)

    def fresh():
        cache._say.cache_clear()
        spec = spec_from_file_location("a_kernel", tmp_path / "a_kernel.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.plus_one

    return fresh


def hits(kernel):
    """Whether its code came from the disk."""
    assert kernel(1) == 2
    return sum(kernel.stats.cache_hits.values())


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("kept", [0, 20, 200])
def test_a_damaged_file_is_compiled_anew_and_mended(ending, kept, kernel, tmp_path, capsys):
    assert hits(kernel()) == 0
    assert hits(kernel()) == 1
    (path,) = (tmp_path / "cache").rglob(f"*.{ending}")
    assert path.stat().st_size > kept
    path.write_bytes(path.read_bytes()[:kept])
    assert hits(kernel()) == 0
    assert capsys.readouterr().err.startswith("minixception: a compiled kernel in the cache is damaged (")
    assert hits(kernel()) == 1
    assert capsys.readouterr().err == ""


def test_a_full_disk_stops_nothing(kernel, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(caching.IndexDataCacheFile, "_save_data", full)
    assert hits(kernel()) == 0
    assert capsys.readouterr().err == (
        "minixception: compiled kernels cannot be kept for the next run (No space left on device); "
        "set NUMBA_CACHE_DIR\n"
    )
