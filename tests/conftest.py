"""Shared by all tests: one hypothesis profile, where tests marked gpu run, a seeded generator, calling a command.

Tests marked gpu run in Numba's simulator; with MINIXCEPTION_CUDA set to nothing, on a GPU:
`MINIXCEPTION_CUDA= pytest -m gpu`.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # tiny kernels on a busy machine: threads should sleep, not spin
os.environ.setdefault("MINIXCEPTION_CUDA", "simulator")  # empty: a real GPU, for `pytest -m gpu`

from typing import Any

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "minixception",
    deadline=None,  # the first example compiles
    max_examples=25,
    derandomize=True,  # the same examples everywhere; raise max_examples to search further
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("minixception")

collect_ignore = ["by_hand"]
# On a build machine with Linux, which has all that tests need.
NOTHING_SKIPPED = bool(os.environ.get("CI")) and sys.platform == "linux"


def missing_gpu() -> str:
    """Why tests marked gpu cannot run; nothing where they can."""
    if os.environ["MINIXCEPTION_CUDA"]:
        return ""
    from minixception.gpu import kernel as gpu

    missing = "MINIXCEPTION_CUDA is empty, which asks for an NVIDIA GPU, and Numba finds none that it can use"
    return "" if gpu.is_available() else missing


def pytest_report_header() -> str:
    """Where the tests marked gpu run."""
    where = "in Numba's simulator" if os.environ["MINIXCEPTION_CUDA"] else "on the GPU"
    reason = missing_gpu()
    return f"tests marked gpu: {'skipped: ' + reason if reason else where}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them with the reason where they cannot run."""
    if reason := missing_gpu():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be left out, a skipped test has failed."""
    report = yield
    if NOTHING_SKIPPED and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped on a build machine: {report.longrepr[2]}"
    return report


def pytest_collection_finish() -> None:
    """Spare the garbage collector what stays to the end: it took a seventh of the time that compiling takes."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20)


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator, fresh for each test."""
    return np.random.Generator(np.random.PCG64(161002357))


@pytest.fixture(params=["numpy", pytest.param("cpu", marks=pytest.mark.slow)])
def each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """For what a test puts together of operators in float64; slow on the fast rungs, which are compiled for it."""
    import minixception as mx

    with mx.use_backend(request.param):
        yield


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run one command in this process: exit status, stdout, stderr."""
    from minixception.apps import cli

    def run(*arguments: Any) -> tuple[Any, str, str]:
        try:
            status: Any = cli.main([str(a) for a in arguments])
        except SystemExit as error:  # argparse's way out
            status = error.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
