"""Memory traces of an operator's CUDA kernels, without a GPU: what their threads read and write, and how well."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.op import Case, Op, RandomDraw, Shape
from ..errors import ArgumentError, KernelError
from ..gpu.device import to_gpu
from ..gpu.kernel import redirected
from ..ops import OPERATORS
from ..ops.window import check_window
from ..tables import Table
from ..viz import threads
from . import thread_map
from .counts import SECTOR, Counts, count, races
from .recorder import Launch, RecordedArray, Recorder

if TYPE_CHECKING:
    from ..viz.style import VectorFigure

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
DIRECTIONS = ("forward", "backward")
_COLUMNS = (
    "reads", "writes", "shared reads", "shared writes", "bytes moved", "sectors per access", "coalescing",
    "bank conflicts",
)  # fmt: skip


def _depthwise(draw: RandomDraw, x: Shape, kernel_size: int = 3, stride: int = 1, padding: str | int = "same") -> Case:
    check_window("depthwise_conv2d", (kernel_size, kernel_size), stride, padding)
    arrays = draw.normal(*x), draw.normal(kernel_size, kernel_size, x[-1])
    return Case(arrays, {"stride": stride, "padding": padding})


def _pointwise(draw: RandomDraw, x: Shape, out_channels: int | None = None, stride: int = 1) -> Case:
    co = x[-1] if out_channels is None else out_channels
    if not _is_size(co):
        raise ArgumentError(f"out_channels must be a positive integer, got {out_channels!r}")
    return Case((draw.normal(*x), draw.normal(x[-1], co)), {"stride": stride})


def _batch_norm(draw: RandomDraw, x: Shape, training: bool = True, eps: float = 1e-3) -> Case:
    c = x[-1]
    arrays = draw.normal(*x), draw.normal(c), draw.normal(c), draw.normal(c), np.abs(draw.normal(c))
    return Case(arrays, {"training": training, "eps": eps})


# Operators that can be asked for by the shape of x, and the shape that a ladder is shown at.
_CASES: dict[str, tuple[Callable[..., Case], Shape]] = {
    "depthwise_conv2d": (_depthwise, (1, 16, 16, 64)),
    "pointwise_conv2d": (_pointwise, (1, 8, 8, 64)),
    "batch_norm": (_batch_norm, (2, 8, 8, 64)),
}


@dataclass(frozen=True, repr=False)
class Trace:
    """What the kernels of one rung did: one of ``counts`` for each of ``launches``.

    case: the operator's inputs. x: the first array that the kernels were given, x or dy. results: y, or the gradients.
    least_bytes: what would move if all inputs were read once and all results written once.
    """

    operator: str
    rung: str
    direction: str
    case: Case
    x: RecordedArray
    results: list[RecordedArray]
    least_bytes: int
    launches: list[Launch]
    counts: list[Counts]

    @property
    def outputs(self) -> int:
        """How many elements the results have."""
        return sum(result.size for result in self.results)

    @property
    def total(self) -> Counts:
        """All launches together."""
        return sum(self.counts, Counts())

    def cells(self, counts: Counts) -> dict[str, float]:
        """Accesses and bytes moved per output; sectors per warp's access; shares and factors, 1 being ideal."""
        per_output = (counts.global_reads, counts.global_writes, counts.shared_reads, counts.shared_writes)
        values = [count / self.outputs for count in (*per_output, SECTOR * counts.sectors)]
        quality = counts.sectors_per_access, counts.coalescing, counts.conflicts
        return dict(zip(_COLUMNS, (*values, *quality), strict=True))

    def table(self) -> Table:
        """A row for each launch. Accesses and bytes are per output."""
        rows = [
            (launch.kernel.__qualname__, str(launch.grid[0]), str(launch.grid[1]), *self.cells(counts).values())
            for launch, counts in zip(self.launches, self.counts, strict=True)
        ]
        total = ("", "", "", *self.cells(self.total).values()) if len(rows) > 1 else None
        return Table(("kernel", "blocks", "threads", *_COLUMNS), rows, total)

    def __str__(self) -> str:
        x = self.case.arrays[0]
        what = f"{self.operator} {self.direction}, {self.rung}, x {x.shape} {x.dtype}"
        return f"{what}; per output, of which {self.least_bytes / self.outputs:.2f} bytes must move:\n{self.table()}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()

    def figure(self) -> VectorFigure:
        """The threads of a block over the outputs they write, and how often each input is read: ``viz.threads``.

        ArgumentError for a backward pass, whose gradients are not outputs over an image.
        """
        if self.direction != "forward":
            raise ArgumentError("the figure of a trace is drawn for direction='forward'")
        panels = thread_map.panels(self.launches, self.case, self.x, self.results[0])
        return threads(panels, f"{self.operator}, {self.rung}: one block")


def trace(
    operator: str,
    rung: str = "cuda",
    shape: Shape | None = None,
    dtype: str = "float32",
    direction: str = "forward",
    blocks: int | None = None,
    **params: Any,
) -> Trace:
    """Run one rung's kernels on a recorder that notes every access of every thread; no GPU is needed.

    operator: a name in ``mx.ops.OPERATORS``; rung: one of its rungs that begin with "cuda". shape: that of x;
    without one, the operator's own small sample is used. params: of the operator, and kernel_size (depthwise_conv2d) or
    out_channels (pointwise_conv2d). Half a microsecond of a GPU is seconds here: keep shapes small, or run
    only some ``blocks`` of each launch, spread over its grid; then the result is not compared.
    Raises KernelError where two threads race for one address (no barrier in between), where an index is outside of its
    array or a barrier not reached by all, or where the result is not the definition's (float32 1e-5, float64 1e-12);
    ArgumentError for names that do not exist and sizes that are not positive integers; ShapeError for a shape that the
    operator does not take.

    >>> trace("relu", shape=(64, 32)).total.global_reads
    2048.0
    """
    _check_known("operator", OPERATORS, operator)
    op = OPERATORS[operator]
    _check_known(f"rung of {operator}", _cuda_rungs(op), rung)
    _check_known("direction", DIRECTIONS, direction)
    _check_known("dtype", TOLERANCE, dtype)
    case = _case(op, RandomDraw(0, dtype), shape, params)
    recorder = Recorder(blocks)
    with redirected(recorder):
        inputs, results, expected = _run(op, rung, direction, case)
    for launch in recorder.launches:
        _refuse_races(launch)
    if blocks is None:
        _compare(f"{operator} {direction}, {rung}", results, expected)
    written = [array for array in results if array is not None]
    least_bytes = sum(array.data.nbytes for array in (*inputs, *written))
    counts = [count(launch) for launch in recorder.launches]
    return Trace(operator, rung, direction, case, inputs[0], written, least_bytes, recorder.launches, counts)


def ladder_table(
    operator: str, shape: Shape | None = None, dtype: str = "float32", direction: str = "forward", **params: Any
) -> Table:
    """What each CUDA rung of an operator asks of memory, slowest first: a row of ``trace`` for each.

    Reads, writes and bytes are per output; least bytes: all inputs read once and all results written once. shape: of x;
    small by default. Raises what ``trace`` does.
    """
    _check_known("operator", OPERATORS, operator)
    if shape is None and operator in _CASES:
        shape = _CASES[operator][1]
    rows = []
    for rung in _cuda_rungs(OPERATORS[operator]):
        traced = trace(operator, rung, shape, dtype, direction, **params)
        least = traced.least_bytes / traced.outputs
        rows.append((rung, len(traced.launches), *traced.cells(traced.total).values(), least))
    return Table(("rung", "kernels", *_COLUMNS, "least bytes"), rows)


def _cuda_rungs(op: Op) -> list[str]:
    return [name for name in op.rungs if name.startswith("cuda")]


def _check_known(what: str, known: Iterable[str], *names: Any) -> None:
    """ArgumentError unless all names are known."""
    known = list(known)  # a list can be asked for what has no hash
    for name in names:
        if name not in known:
            raise ArgumentError(f"{what} must be one of {', '.join(known) or 'none'}, got {name!r}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int | np.integer) and bool(value > 0)


def _case(op: Op, draw: RandomDraw, shape: Shape | None, params: dict[str, Any]) -> Case:
    """The operator's inputs for this shape of x."""
    if shape is not None and not (isinstance(shape, tuple | list) and shape and all(map(_is_size, shape))):
        raise ArgumentError(f"shape must be positive integers, as in (1, 8, 8, 64), got {shape!r}")
    if op.name in _CASES and (shape is not None or params):
        make, usual = _CASES[op.name]
        _check_known(f"parameter of {op.name}", list(inspect.signature(make).parameters)[2:], *params)
        case = make(draw, usual if shape is None else shape, **params)
    else:
        case = op.sample(draw)
        _check_known(f"parameter of {op.name}", case.params, *params)
        if shape is not None and len(case.arrays) > 1:
            raise ArgumentError(f"shape is for {', '.join(_CASES)} and operators of one input, not for {op.name}")
        if shape is not None:
            case = Case((draw.distinct(*shape),), case.params)
        case = Case(case.arrays, case.params | params)
    op.shape(*[array.shape for array in case.arrays], **case.params)
    return case


def _run(op: Op, rung: str, direction: str, case: Case) -> tuple[list[RecordedArray], list[Any], list[Any]]:
    """The inputs of a rung on the recorder, its results there, and those of the definition."""
    reference, kernels = op.rungs["numpy"], op.rungs[rung]
    y, saved = reference.forward(*case.arrays, **case.params)
    if direction == "forward":
        inputs = [to_gpu(array) for array in case.arrays]
        return inputs, [kernels.forward(*inputs, **case.params)[0]], [y]
    dy = np.asarray(np.random.default_rng(0).standard_normal(np.shape(y)), y.dtype)
    there, saved_there = to_gpu(dy), _moved(saved)
    inputs = [there, *(array for array in saved_there if isinstance(array, RecordedArray))]
    return inputs, list(kernels.backward(there, saved_there)), list(reference.backward(dy, saved))


def _moved(value: Any) -> Any:
    """Arrays in tuples and lists, moved to the recorder."""
    if isinstance(value, tuple | list):
        return type(value)(map(_moved, value))
    return to_gpu(value) if isinstance(value, np.ndarray) else value


def _refuse_races(launch: Launch) -> None:
    found = list(races(launch))
    if found:
        more = f"; and at {len(found) - 3:,} other addresses" if len(found) > 3 else ""
        raise KernelError(f"{launch.kernel.name} has a race: {'; '.join(found[:3])}{more}")


def _compare(what: str, results: list[Any], expected: list[Any]) -> None:
    for i, (result, right) in enumerate(zip(results, expected, strict=True)):
        if result is None or right is None:
            if result is not right:
                raise KernelError(f"{what}: result {i} is None here or in the definition, and not in both")
            continue
        got, right = result.copy_to_host(), np.asarray(right)
        tolerance = TOLERANCE[right.dtype.name]
        if got.shape != right.shape or not np.allclose(got, right, tolerance, tolerance, equal_nan=True):
            raise KernelError(f"{what}: result {i} is not the definition's")
