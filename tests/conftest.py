"""Shared by all tests: one hypothesis profile, the golden data, random choices for operators, calling a command.

Tests marked gpu run in Numba's simulator; with MINIXCEPTION_CUDA set to nothing, on a GPU:
`MINIXCEPTION_CUDA= pytest -m gpu`.
"""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # tiny kernels on a busy machine: threads should sleep, not spin
os.environ.setdefault("MINIXCEPTION_CUDA", "simulator")  # empty: a real GPU, for `pytest -m gpu`

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

hypothesis.settings.register_profile(
    "minixception",
    deadline=None,  # the first example compiles
    max_examples=25,
    derandomize=True,  # the same examples everywhere; raise max_examples to search further
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("minixception")

GOLDEN = Path(__file__).parent / "golden"


def layer_paths(model):
    """Modules without sub-modules, and the ReLU of each separable convolution that has one, as a layer of its own."""
    for path, module in model.named_modules():
        if getattr(module, "relu", False):
            yield f"{path}_act"
        if not module.children():
            yield path


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


class HypothesisDraw:
    """``Op.sample``'s random choices made by hypothesis, so that a failing case shrinks to a small one."""

    def __init__(self, draw: Any, dtype: Any) -> None:
        self._draw = draw
        self.dtype = np.dtype(dtype)

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def choice(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(list(options)))

    def _rng(self) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(self._draw(st.integers(0, 2**32 - 1))))

    def normal(self, *shape: int) -> np.ndarray:
        return self._rng().standard_normal(shape).astype(self.dtype)

    def distinct(self, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        values = (np.arange(size) - size // 2 + 0.5) * 0.1
        return self._rng().permutation(values).reshape(shape).astype(self.dtype)


@st.composite
def cases(draw: Any, op: Any, dtype: Any) -> Any:
    """Random valid inputs of an operator, from its own ``sample``."""
    return op.sample(HypothesisDraw(draw, dtype))


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator, fresh for each test."""
    return np.random.Generator(np.random.PCG64(161002357))


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
