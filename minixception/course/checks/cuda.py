"""Exercises whose answer is a CUDA kernel: it runs on the recorder, which sees races and counts what is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np

from ...analysis.counts import Counts, count, races
from ...analysis.recorder import OutsideError, Recorder
from ...engine.op import Case, RandomDraw
from ...errors import ArgumentError, KernelError
from ...gpu import kernel as gpu
from ...gpu.device import to_gpu
from .exercise import Exercise, Report
from .function import REBOUND, Mistake
from .judging import (
    UNWRITTEN,
    beside,
    call,
    does_nothing,
    drawn,
    first_difference,
    is_empty_cell,
    near,
    raised,
    shapes,
)
from .verdict import Verdict

_SEEDS = 2
BARRIER = (
    "Between a write and another thread's read of the same cell there must be a barrier. Where several threads add to "
    "one cell not even that helps: only one of them may do it."
)
GUARD = "There may be more threads than there is work: those that are left over must ask, and then do nothing."


class StudentKernel(gpu.Kernel):
    """A kernel that is not the package's: it is not listed in ``KERNELS``, and may be defined again and again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super(gpu.Kernel, self).__init__(function)

    def __reduce__(self) -> tuple[Any, ...]:
        """What was compiled from it stays where it is."""
        return StudentKernel, (self.function,)


def cuda_kernel(function: Callable[..., Any]) -> StudentKernel:
    """Make a CUDA kernel of a function that says what one thread does, as ``gpu.kernel.kernel`` does.

    ``cuda`` and ``dtype`` in it need not be defined; ``cuda_kernel`` puts them in.

    >>> @cuda_kernel
    ... def double(x, y):
    ...     i = cuda.grid(1)
    ...     if i < x.size:
    ...         y[i] = x[i] * dtype(2)
    """
    return StudentKernel(function)


@dataclass(frozen=True, kw_only=True)
class CudaKernel(Exercise):
    """Fill in a CUDA kernel, called ``answer[grid, block](*arrays, *params' values, y)``.

    reference, draw, mistakes: as for ``Function``, of one result. launch: case, shape of y -> (grid, block).
    too_much: (counts, outputs) -> what a right kernel asks too much of memory for, and a hint; None if nothing.
    """

    reference: Callable[..., np.ndarray]
    draw: Callable[[RandomDraw], Case]
    launch: Callable[[Case, tuple[int, ...]], tuple[Any, Any]]
    mistakes: tuple[Mistake, ...] = ()
    too_much: Callable[[Counts, int], tuple[str, str] | None] = lambda counts, outputs: None
    kind = "fill in a CUDA kernel"
    runs_code = True

    def _judge(self, answer: Any, time: bool, report: Report) -> Verdict:
        kernel = StudentKernel(answer) if isinstance(answer, FunctionType) else answer
        if not isinstance(kernel, gpu.Kernel):
            raise ArgumentError(
                f"{self.name}: the answer must be a function or a cuda_kernel, got {type(answer).__name__}"
            )
        if does_nothing(kernel):
            return self.not_attempted()
        cases = drawn(self.draw, ("float32", "float64"), _SEEDS)
        given, launches = [], []
        for case in cases:
            report(f"run on {shapes(case)}")
            right = call(self.reference, case)
            recorder = Recorder()
            try:
                given.append(self._run(kernel, recorder, case, right))
            except KernelError as error:
                hint = GUARD if isinstance(error, OutsideError) else ""
                return self.verdict(False, f"{error} ({shapes(case)}).", hint)
            except (Exception, SystemExit) as error:
                if is_empty_cell(error):
                    return self.not_attempted()
                return self.verdict(False, f"{raised(error, kernel)} ({shapes(case)}).")
            launch = recorder.launches[-1]
            launches.append(launch)
            if not launch.accesses.size:
                return self.verdict(False, "It neither reads nor writes an array.", REBOUND.format("y"))
            if found := next(iter(races(launch)), ""):
                return self.verdict(False, f"There is a race: {found} ({shapes(case)}).", BARRIER)
        for case, got in zip(cases, given, strict=True):
            right = call(self.reference, case)
            if not near(got, right):
                index = first_difference(got, right)
                said = f"{beside('y', index, got[index], 'the definition says', right[index])} ({shapes(case)})"
                return self.verdict(False, said, UNWRITTEN if np.isnan(got).any() else self._known(cases, given))
        for case, launch in list(zip(cases, launches, strict=True))[: _SEEDS + 1]:  # those in float32
            counts, outputs = count(launch), call(self.reference, case).size
            if asks := self.too_much(counts, outputs):
                return self.verdict(False, f"The values are right, but {asks[0]}.", asks[1])
        reads, sectors = counts.global_reads / outputs, counts.sectors_per_access
        said = f"It equals the definition; {reads:.2f} global reads per output, {sectors:.1f} sectors per access."
        return self.verdict(True, said)

    def _run(self, kernel: gpu.Kernel, recorder: Recorder, case: Case, right: np.ndarray) -> np.ndarray:
        with gpu.redirected(recorder):
            y = gpu.empty(right.shape, right.dtype)
            grid, block = self.launch(case, right.shape)
            kernel[grid, block](*map(to_gpu, case.arrays), *case.params.values(), y)
        return y.copy_to_host()

    def _known(self, cases: list[Case], given: list[np.ndarray]) -> str:
        for mistake in self.mistakes:
            if all(near(got, call(mistake.wrong, case)) for case, got in zip(cases, given, strict=True)):
                return mistake.hint
        return ""
