"""What only a GPU can tell, in four steps; each is run by tests/by_hand/check_gpu.py in a process of its own.

A step writes a row (a line of JSON) as soon as it knows it: who is stopped loses one row. What fails, and what computes
something else than it should, is a row as well, with an "error", and the step goes on.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import minixception as mx
from minixception.bench.cuda import command, limits
from minixception.bench.cuda.kernels import NEAR
from minixception.bench.cuda.timing import QueuedClock
from minixception.bench.measurement import distance
from minixception.bench.peers import versioned
from minixception.bench.results import machine, write_result
from minixception.gpu import kernel as gpu
from minixception.gpu.device import empty_cache, to_cpu, to_gpu
from minixception.gpu.gemm import MATRIX_A, MATRIX_B, MATRIX_C, register_tiled
from minixception.ops import OPERATORS
from minixception.ops.separable.cuda import forward_cuda_fused
from minixception.timing import interleaved
from tests.by_hand import check_sanitizer, host_time, tile_128

ROOT = Path(__file__).parents[2]
REPEATS = 9
PACKAGES = ("numpy", "numba", "llvmlite", "numba-cuda", "cuda-core", "cuda-bindings", "torch")


class Rows:
    """The file of a step; ``faults`` counts rows with an error."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self._path, self.faults = path, 0

    def add(self, what: str, found: Mapping[str, Any]) -> None:
        """Write a row, on the disk before the next one is measured."""
        self.faults += "error" in found
        line = json.dumps({"what": what, **found})
        print(line, flush=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def attempt(self, what: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Write what is measured, or the error."""
        try:
            found = measure()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        self.add(what, found)


def environment() -> dict[str, Any]:
    """The machine, the GPU, and the versions of the driver and of all packages."""
    cuda = gpu.numba_cuda()
    device = cuda.get_current_device()
    found = {
        name: metadata.version(name) for name in PACKAGES if find_spec(name.replace("-", "_").replace("cuda_", "cuda."))
    }
    return machine() | {
        "device": device.name.decode() if isinstance(device.name, bytes) else str(device.name),
        "capability": list(device.compute_capability),
        "driver_api": _driver_api(),
        "versions": found | {"python": sys.version.split()[0]},
    }


def _driver_api() -> int:
    from cuda.bindings import driver

    return int(driver.cuDriverGetVersion()[1])


# 1. Does it run, is it right, what does starting cost -----------------------------------------------------------------


def first(rows: Rows, out: Path) -> None:
    """Every rung against the definition, compile times, what launches cost, the kernels beside PyTorch's."""
    for name, op in OPERATORS.items():
        for rung in (one for one in op.rungs if one.startswith("cuda")):
            rows.attempt(f"{name}, {rung}", partial(agreement, name, rung))
    rows.attempt("host time", lambda: {"milliseconds": host_time.measured(lambda: 0)})
    rows.attempt("bench kernels", lambda: _bench("kernels", out))


def agreement(name: str, rung: str) -> dict[str, Any]:
    """Relative L2 distances from the definition, forward and backward, and the seconds of the first call."""
    op, distances = OPERATORS[name], []
    start = time.perf_counter()
    seconds = 0.0
    for case in check_sanitizer.cases(name):
        y, saved = op.rungs[rung].forward(*map(to_gpu, case.arrays), **case.params)
        dy = np.random.default_rng(0).standard_normal(y.shape).astype(y.dtype)
        gradients = op.rungs[rung].backward(to_gpu(dy), saved)
        results = [to_cpu(one) for one in (y, *gradients) if one is not None]
        seconds = seconds or time.perf_counter() - start
        right, right_saved = op.rungs["numpy"].forward(*case.arrays, **case.params)
        wanted = (right, *op.rungs["numpy"].backward(dy, right_saved))
        pairs = zip(results, (np.asarray(one) for one in wanted if one is not None), strict=True)
        distances.append([distance(a, b) if np.any(b) else float(np.abs(a).max(initial=0)) for a, b in pairs])
    found: dict[str, Any] = {"seconds": seconds, "distances": distances}
    if not all(value < NEAR for row in distances for value in row):  # not a number is not less
        found["error"] = f"further than {NEAR} from the definition"
    return found


def _bench(what: str, out: Path) -> dict[str, Any]:
    """The benchmark, into bench_cuda.json, where the other half of it stays if it is there."""
    path = out / "bench_cuda.json"
    before = command.GpuReport.from_json(json.loads(path.read_text("utf-8"))) if path.exists() else None

    def keep(report: command.GpuReport) -> None:
        if before is not None and what == "models":
            report.kernels = report.kernels or before.kernels
        figures = {"seed": 0, "repeats": REPEATS, **report.to_json()}
        write_result(path, f"python -m tests.by_hand.check_gpu --out {out.name}", figures, versioned())

    report = command.run(what, REPEATS, beside=True, keep=keep)
    found: dict[str, Any] = {"late": report.late, "left out": report.left_out}
    return found | ({"error": "; ".join(report.wrong)} if report.wrong else {})


# 2. Matrix products, the fused kernel, graphs -------------------------------------------------------------------------

PRODUCTS = (  # pixels of 32 images, input and output channels: the pointwise convolutions of Xception
    *((32 * 147**2, 64, 128), (32 * 147**2, 128, 128), (32 * 74**2, 128, 256), (32 * 74**2, 256, 256)),
    *((32 * 37**2, 256, 728), (32 * 37**2, 728, 728), (32 * 19**2, 728, 728), (32 * 19**2, 728, 1024)),
    *((32 * 10**2, 1024, 1536), (32 * 10**2, 1536, 2048)),
    *((11520, 768, 768), (4096, 4096, 4096)),  # not of Xception
)
SEPARABLES = ((147, 64, 128), (74, 128, 256), (37, 728, 728), (19, 728, 728), (10, 1536, 2048))


def products(rows: Rows, out: Path) -> None:
    """Beside PyTorch, without TF32; fused beside separate kernels; replayed beside one by one; what a profiler sees."""
    clock = QueuedClock(gpu.numba_cuda(), gpu.stream(), limits.filler())
    with command._peer(True, gpu.stream()) as settings:
        rows.add("PyTorch", settings)
        for m, k, n in PRODUCTS:
            rows.attempt(f"product {m} x {k} x {n}", partial(product, (m, n, k), "torch" in settings, clock))
            empty_cache()
    for size, ci, co in SEPARABLES:
        rows.attempt(f"separable {size}x{size}, {ci} to {co}", partial(fused_or_not, size, ci, co, clock))
        empty_cache()
    rows.attempt("profiler", profile)


def product(shape: tuple[int, int, int], beside: bool, clock: QueuedClock) -> dict[str, Any]:
    """Our fastest step, and PyTorch's product of the same matrices."""
    m, n, k = shape
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(one, dtype=np.float32) for one in ((m, k), (k, n)))
    x, w, y = to_gpu(a), to_gpu(b), gpu.empty((m, n), np.float32)
    multiply = register_tiled(MATRIX_A, MATRIX_B, MATRIX_C)
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: multiply(x, w, y, shape)}
    if m % tile_128.TILE == n % tile_128.TILE == k % tile_128.DEPTH == 0:
        runs["tiles of 128"] = lambda: tile_128.multiply(x, w, y)
    if beside:
        import torch

        p, q = (torch.from_numpy(one).cuda() for one in (a, b))
        runs["torch"] = lambda: p @ q
    right, off = a[::97] @ b, {}  # some rows are enough to see a mistake
    for who in (one for one in runs if one != "torch"):
        runs[who]()
        off[who] = distance(to_cpu(y)[::97], right)
    times = interleaved(runs, REPEATS, clock=clock)
    found = {"milliseconds": {who: 1e3 * one.median for who, one in times.items()}, "distance": off}
    found["TFLOP/s"] = {who: 2e-12 * m * n * k / one.median for who, one in times.items()}
    return found | ({} if all(one < NEAR for one in off.values()) else {"error": "wrong product"})


def fused_or_not(size: int, ci: int, co: int, clock: QueuedClock) -> dict[str, Any]:
    """A separable convolution of 32 images by the fused kernel, and by two kernels with an array between them."""
    rng = np.random.default_rng(0)
    shapes = (32, size, size, ci), (3, 3, ci), (ci, co)
    x, wd, wp = (to_gpu(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes)
    separate = OPERATORS["separable_conv2d"].rungs["cuda"].forward
    settings = {"stride": 1, "padding": "same"}
    runs = {
        "fused": lambda: forward_cuda_fused(x, wd, wp, **settings, relu=False)[0],
        "separate": lambda: separate(x, wd, wp, **settings)[0],
    }
    off = distance(to_cpu(runs["fused"]()), to_cpu(runs["separate"]()))
    times = interleaved(runs, REPEATS, clock=clock)
    found = {"milliseconds": {who: 1e3 * one.median for who, one in times.items()}, "distance": off}
    return found | ({} if off < NEAR else {"error": "they differ"})


METRICS = {  # what ncu calls them, in percent of what the GPU can do
    "sm__inst_issued.avg.pct_of_peak_sustained_active": "issue slots",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "DRAM",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy",
}


def profile() -> dict[str, Any]:
    """For each kernel of one pass over Xception's kinds of layers: shares of issue slots, DRAM and occupancy."""
    tool = shutil.which("ncu")
    if tool is None:
        return {"left out": "Nsight Compute (ncu) is not on PATH"}
    options = [tool, "--csv", "--clock-control", "none", "--metrics", ",".join(METRICS)]
    done = subprocess.run(
        [*options, sys.executable, "-m", "tests.by_hand.gpu_steps", "profiled"],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    return {"kernels": shares(done.stdout)} if done.returncode == 0 else {"left out": done.stdout[-500:]}


def shares(text: str) -> dict[str, dict[str, float]]:
    """By kernel, of what ncu printed as CSV behind its own lines; the median of each kernel's launches."""
    start = text.find('"ID"')
    found: dict[str, dict[str, list[float]]] = {}
    for row in csv.DictReader(io.StringIO(text[start:])) if start >= 0 else ():
        metric = METRICS.get(row["Metric Name"])
        if metric:
            kernel = found.setdefault(row["Kernel Name"], {})
            kernel.setdefault(metric, []).append(float(row["Metric Value"].replace(",", "")))
    return {name: {m: statistics.median(v) for m, v in metrics.items()} for name, metrics in found.items()}


def profiled() -> None:
    """What the profiler watches."""
    rng = np.random.default_rng(0)
    x, wd, wp = (
        to_gpu(rng.standard_normal(shape, dtype=np.float32)) for shape in ((32, 19, 19, 728), (3, 3, 728), (728, 728))
    )
    for name, weights in (("depthwise_conv2d", wd), ("pointwise_conv2d", wp)):
        params = {"stride": 1} | ({"padding": "same"} if name == "depthwise_conv2d" else {})
        for rung in (one for one in OPERATORS[name].rungs if one.startswith("cuda")):
            y, saved = OPERATORS[name].rungs[rung].forward(x, weights, **params)
            OPERATORS[name].rungs[rung].backward(y, saved)
    layer = mx.nn.BatchNorm2d(728).to("cuda").train()
    y = layer(mx.Tensor(x, requires_grad=True))
    y.backward(y.numpy())
    forward_cuda_fused(x, wd, wp, stride=1, padding="same", relu=True)
    gpu.synchronize()


# 3. Tests and sanitizers ----------------------------------------------------------------------------------------------


def tests(rows: Rows, out: Path) -> None:
    """The tests marked gpu, on the GPU; then memcheck, the pool and racecheck, as far as the time goes."""
    rows.attempt("pytest -m gpu", partial(run_tests, out))
    for name in ("memcheck", "pool", "racecheck"):
        rows.attempt(name, partial(sanitize, name))


def run_tests(out: Path) -> dict[str, Any]:
    """What pytest says last; all of its output is in gpu_tests.txt."""
    log = out / "gpu_tests.txt"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--numprocesses", "8", "--dist", "worksteal"],
            cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=330, check=False,
        )  # fmt: skip
    last = log.read_text("utf-8").strip().splitlines()[-1]
    return {"summary": last} | ({} if done.returncode == 0 else {"error": f"exit status {done.returncode}"})


def sanitize(name: str) -> dict[str, Any]:
    """One check of tests/by_hand/check_sanitizer.py."""
    if reason := check_sanitizer.missing():
        return {"left out": reason}
    verdict = check_sanitizer.check(check_sanitizer.find_sanitizer(), name, check_sanitizer.started)
    found = {"verdict": verdict.verdict, "cases": verdict.cases, "planted": verdict.planted}
    return found if verdict.is_clean else found | {"error": verdict.output[-2000:]}


# 4. Networks, and what the notebook times -----------------------------------------------------------------------------


def models(rows: Rows, out: Path) -> None:
    """Networks beside PyTorch; the cells of notebook 07, which times the rungs of depthwise on a GPU."""
    rows.attempt("bench models", lambda: _bench("models", out))
    rows.attempt("notebook 07", notebook)


def notebook() -> dict[str, Any]:
    """What its cells print, one after the other."""
    path = ROOT / "notebooks" / "07_on_the_gpu.ipynb"
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True, timeout=240, check=False
    )
    found = {"printed": done.stdout[-8000:]}
    return found if done.returncode == 0 else found | {"error": done.stderr[-2000:]}


STEPS: dict[str, Callable[[Rows, Path], None]] = {
    "first": first, "products": products, "tests": tests, "models": models,
}  # fmt: skip


def main() -> int:
    """gpu_steps STEP OUT; exit status 1 if a row has an error."""
    if sys.argv[1] == "profiled":
        profiled()
        return 0
    step, out = sys.argv[1], Path(sys.argv[2])
    rows = Rows(out / f"gpu_{step}.jsonl")
    rows.add("environment", environment())
    STEPS[step](rows, out)
    return int(rows.faults > 0)


if __name__ == "__main__":
    raise SystemExit(main())
