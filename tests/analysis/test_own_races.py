"""The package's own ``prange`` kernels, searched for races as a student's are: as plain Python on watched arrays."""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import minixception
from minixception.analysis.prange_races import race
from minixception.bench import limits
from minixception.cpu import elementwise
from minixception.engine import accumulate
from minixception.ops import OPERATORS, loss, reflect_pad
from minixception.ops.conv2d import products as conv2d
from minixception.ops.dropout import _drop
from minixception.ops.pointwise import cpu as pointwise
from minixception.ops.pooling import avg_pool, global_pool, max_pool
from minixception.optim import optimizers

# Kernels that hold vectors in registers (cpu/simd/): these exist in compiled code only, so they cannot be searched.
# Of the operators among them tests/ops/test_operators.py asks for the same bits with any number of threads, and
# tests/compiler/test_training_step.py of those of a compiled step.
IN_REGISTERS = {
    "bench/limits.py: _fma", "bench/limits.py: _read", "bench/tile.py: _products",
    "cpu/gemm.py: _long_product", "cpu/gemm.py: _product",
    "ops/batchnorm/cpu.py: _gradient_sums", "ops/batchnorm/cpu.py: _normalise",
    "ops/batchnorm/cpu.py: _project", "ops/batchnorm/cpu.py: _statistics",
    "ops/conv2d/products.py: _backward_input_strided", "ops/conv2d/products.py: _backward_weights",
    "ops/conv2d/products.py: convolve", "ops/conv2d/products.py: pack_kernel",
    "ops/conv2d/segments.py: _backward_input_strided", "ops/conv2d/segments.py: _forward_kernel.forward",
    "ops/conv2d/segment_weights.py: _weights_kernel.backward_weights",
    "ops/depthwise/cpu.py: _backward_input_strided", "ops/depthwise/cpu.py: _forward_kernel.forward",
    "ops/depthwise/cpu.py: _weights_kernel.backward_weights",
    "ops/pooling/avg_pool.py: _forward", "ops/pooling/max_pool.py: _forward",
    "ops/pooling/max_pool.py: _maxima", "ops/reduction.py: _partial_sums",
    "ops/separable/cpu.py: _fused_kernel.fused", "ops/separable/training.py: _both_kernel.backward",
    "ops/separable/training.py: _forward_kernel.forward", "ops/separable/training.py: _pack",
    "ops/separable/training.py: _strips_kernel.backward",
}  # fmt: skip


def floats(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 7 - 3


class Search(NamedTuple):
    """A kernel, small arguments that make several iterations of it, and the names of the arrays that it writes."""

    kernel: Any
    arguments: tuple[Any, ...]
    written: tuple[str, ...]

    @property
    def positions(self):
        return [self.kernel.py_func.__code__.co_varnames.index(name) for name in self.written]


def made(function, name):
    """The kernel of this name that a factory has put into a function, or into one that this one calls."""
    for cell in function.__closure__ or ():
        value = cell.cell_contents
        if hasattr(value, "py_func") and value.__name__ == name:
            return value
        if inspect.isfunction(value) and (found := made(value, name)):
            return found
    return None


def forward_of(op, name="forward"):
    return made(OPERATORS[op].rungs["cpu"].forward, name)


def backward_of(op):
    return made(OPERATORS[op].rungs["cpu"].backward, "backward")


IMAGES, MAPS = floats(2, 5, 6, 3), floats(2, 3, 3, 3)  # of windows 3x3 with stride 2
WINDOW = (3, 3, 2, 1, 0)  # kh, kw, stride, top, left
TAPS = np.full(MAPS.shape, 4, np.uint8)
ROWS = floats(3, 4)
FLAT = floats(10)  # chunks of 4: see test_no_two_iterations_share_a_cell
OUT = ("y",)

SEARCHED = {
    "bench/limits.py: _copy": Search(limits._copy, (FLAT, FLAT), OUT),
    "bench/limits.py: _triad": Search(limits._triad, (FLAT, FLAT, FLAT), ("a",)),
    "engine/accumulate.py: _accumulate": Search(accumulate._accumulate, (FLAT, FLAT), ("total",)),
    "ops/activation.py: _cpu_rung.forward": Search(forward_of("elu"), (FLAT, FLAT), OUT),
    "ops/activation.py: _cpu_rung.backward": Search(backward_of("elu"), (FLAT, FLAT, FLAT), ("dx",)),
    "ops/arithmetic.py: _cpu.kernel": Search(forward_of("add", "kernel"), (FLAT, FLAT, FLAT), OUT),
    "cpu/elementwise.py: _add": Search(elementwise._add, (floats(3, 10), FLAT), ("total",)),
    "ops/conv2d/products.py: _pack_transposed": Search(
        conv2d._pack_transposed, (floats(2, 2, 3, 4), floats(2, 1, 2, 2, 2, 4)), ("packed",)
    ),
    "ops/dropout.py: _drop": Search(_drop, (FLAT, np.ones(10, np.uint8), np.float32(2), FLAT), OUT),
    "ops/loss.py: _cross_entropy_parallel": Search(
        loss._cross_entropy_parallel, (ROWS, np.array([0, 1, 2]), 0.1, ROWS, FLAT[:3]), ("p", "losses")
    ),
    "ops/loss.py: _binary_cross_entropy_parallel": Search(
        loss._binary_cross_entropy_parallel, (ROWS, ROWS, FLAT[:3]), ("losses",)
    ),
    "ops/pointwise/cpu.py: _gather": Search(pointwise._gather, (IMAGES, 2, floats(18, 3)), ("rows",)),
    "ops/pointwise/cpu.py: _spread": Search(pointwise._spread, (floats(18, 3), 2, IMAGES), ("dx",)),
    "ops/pooling/avg_pool.py: _backward": Search(
        avg_pool._backward, (MAPS, np.ones((3, 3, 1), np.float32), IMAGES, *WINDOW), ("dx",)
    ),
    "ops/pooling/global_pool.py: _forward": Search(global_pool._forward, (floats(2, 2, 2, 70), floats(2, 70)), OUT),
    "ops/pooling/global_pool.py: _backward": Search(global_pool._backward, (floats(2, 3), IMAGES), ("dx",)),
    "ops/pooling/max_pool.py: _backward": Search(max_pool._backward, (MAPS, TAPS, IMAGES, *WINDOW), ("dx",)),
    "ops/reflect_pad.py: _forward": Search(reflect_pad._forward, (IMAGES, floats(2, 9, 10, 3), 2), OUT),
    "ops/reflect_pad.py: _backward": Search(reflect_pad._backward, (floats(2, 9, 10, 3), IMAGES, 2), ("dx",)),
    "ops/softmax.py: _cpu_rung.forward": Search(forward_of("softmax"), (ROWS, ROWS), OUT),
    "ops/softmax.py: _cpu_rung.backward": Search(backward_of("softmax"), (ROWS, ROWS, ROWS), ("dx",)),
    "optim/optimizers.py: _momentum_step": Search(
        optimizers._momentum_step, (FLAT, FLAT, FLAT, 0.1, 0.9, 0.01), ("w", "v")
    ),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(elementwise, "CHUNK", 4)


def kernels(tree, path=()):
    """The qualified names of the functions in a module whose own lines loop over ``prange``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from kernels(node, (*path, node.name))
        elif isinstance(node, ast.For) and ast.unparse(node.iter).partition("(")[0].endswith("prange"):
            yield ".".join(path)
            yield from kernels(node, path)
        else:
            yield from kernels(node, path)


def test_every_kernel_is_searched_or_said_to_be_out_of_reach():
    package = Path(minixception.__file__).parent
    found = {
        f"{file.relative_to(package).as_posix()}: {name}"
        for file in package.rglob("*.py")
        for name in kernels(ast.parse(file.read_text("utf-8")))
    }
    assert found == SEARCHED.keys() | IN_REGISTERS
    assert not SEARCHED.keys() & IN_REGISTERS


@pytest.mark.parametrize("search", SEARCHED.values(), ids=SEARCHED)
def test_no_two_iterations_share_a_cell(search):
    assert race(search.kernel, search.arguments, search.positions) == ""


@pytest.mark.parametrize(
    ("search", "name"), [pytest.param(s, name, id=f"{at} {name}") for at, s in SEARCHED.items() for name in s.written]
)
def test_a_cell_that_all_iterations_write_is_found(search, name):
    """Planted in each of them, and for each array: so the search above had iterations to tell apart."""
    function = search.kernel.py_func
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    header = next(i for i, line in enumerate(lines) if "in prange(" in line)
    inside = len(lines[header]) - len(lines[header].lstrip()) + 4
    lines.insert(header + 1, f"{' ' * inside}{name}[(0,) * {name}.ndim] = 0")
    first = next(i for i, line in enumerate(lines) if line.startswith("def "))
    names = function.__globals__ | inspect.getclosurevars(function).nonlocals
    exec("\n".join(lines[first:]), names)
    assert race(names[function.__name__], search.arguments, search.positions)
