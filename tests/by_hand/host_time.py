"""How long the processor is busy with a step of the GPU: python -m tests.by_hand.host_time docs/results/gpu_host.json

On a driver that does nothing (tests/helpers/stub_driver.c), so on any machine with Linux and a C compiler. It tells the
time after which the GPU has all its work: where that is less than the GPU takes, the processor does not hold it up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minixception as mx
from minixception.bench.results import write_result
from minixception.gpu import kernel as gpu
from minixception.gpu.device import to_gpu
from minixception.gpu.graph import Repeated
from minixception.training.batch import Gradients
from tests.helpers import stub_driver

REPEATS = 15
PRINT = """
import json
from tests.by_hand.host_time import measured

print(json.dumps(measured(lambda: stub.stub_launches() + stub.stub_graphs())))
"""


@gpu.kernel
def nothing(x: Any) -> None:
    """A kernel that does nothing."""


def main() -> int:
    """Measure in a process on the driver that does nothing, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        driver = stub_driver.build(Path(folder))
        rows = json.loads(stub_driver.run(driver, PRINT))
    write_result(out, f"python -m tests.by_hand.host_time {out}", {"repeats": REPEATS, "rows": rows}, ("numba-cuda",))
    return 0


def measured(launches: Callable[[], int]) -> list[tuple[Any, ...]]:
    """Rows: what, how, calls of the driver that launch, milliseconds: median, least, most. launches: counts so far."""

    def row(what: str, how: str, run: Callable[[], Any], calls: int = 1) -> tuple[Any, ...]:
        for _ in range(3):  # compile, record, replay
            run()
        before = launches()
        times = [_milliseconds(run) / calls for _ in range(REPEATS)]
        count = (launches() - before) // (REPEATS * calls)
        return what, how, count, statistics.median(times), min(times), max(times)

    def both(what: str, run: Callable[[], Any], graphs: Callable[[], list[Repeated]]) -> list[tuple[Any, ...]]:
        replayed = row(what, "replayed", run)
        for graph in graphs():
            graph.recordable = False
        return [row(what, "one by one", run), replayed]

    x, cuda = to_gpu(np.zeros((2, 3), np.float32)), gpu.numba_cuda()
    numbas, launch = cuda.as_cuda_array(x), nothing.made_for(np.float32)
    found = [
        row("a launch", "by numba.cuda", lambda: [launch[1, 32](numbas) for _ in range(200)], 200),
        row("a launch", "ours", lambda: [nothing[1, 32](x) for _ in range(200)], 200),
    ]
    images = mx.tensor(np.zeros((1, 299, 299, 3), np.float32)).to("cuda")
    fast = mx.compile(mx.models.Xception().to("cuda"))
    plans = fast._plans.values()
    found += both("compiled Xception", lambda: fast(images), lambda: [plan._pass for plan in plans])
    step, gradients = _training_step()
    found += both("training step of Xception", step, lambda: list(gradients._repeated.values()))
    return found


def _training_step() -> tuple[Callable[[], None], Gradients]:
    """As the Trainer's: gradients, momentum SGD, averages of the weights."""
    mx.seed(0)
    model = mx.models.Xception(dropout=0.5).to("cuda").train()
    optimizer = mx.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-5)
    average = mx.optim.EMA([tensor for _, tensor in model.named_tensors()], 0.999)
    gradients = Gradients(model, 1000, 0.1)
    x, labels = mx.tensor(np.zeros((4, 299, 299, 3), np.float32)).to("cuda"), np.arange(4)

    def step() -> None:
        gradients(x, labels)
        optimizer.step()
        average.update()

    return step, gradients


def _milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    raise SystemExit(main())
