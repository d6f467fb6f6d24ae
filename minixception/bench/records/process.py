"""What only a fresh process shows: the time to the first result, and the most memory that training takes.

- Cold start: from the start of Python to the first logits of a compiled network (import, build, compile, one call),
  with kernels that Numba has cached on disk.
- First compile: the same with an empty cache, as right after installation.
- Peak memory: the largest resident set of a process that takes training steps, ours beside PyTorch's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np

from ...engine.random import seed
from ...errors import ArgumentError
from ...nn import Module
from ...tables import Table
from ..measurement import OURS
from ..peers import TRAINING, Peer, installed
from ..results import write_result
from ..training import our_training, random_batch
from . import command

_PACKAGE = Path(__file__).parents[3]  # the folder that the package lies in
_STEPS = 5
_LR = 0.01
_MIB = 1 << 20


@dataclass(frozen=True)
class Network:
    """A network by the expression that builds it in ``minixception.models``, and the batch it runs on."""

    name: str
    model: str
    batch: int

    def __str__(self) -> str:
        return f"{self.name}, batch {self.batch}"


STARTED = Network("Xception 299", "Xception()", 1)
TRAINED = (Network("Xception 299", "Xception()", 4), Network("mini_xception 32", "mini_xception()", 64))


def in_fresh_process(code: str, **environment: str) -> tuple[Any, float]:
    """Run code in a new Python: what it prints as one line of JSON, and the seconds from start to that line.

    environment: variables beside those of this process. Raises CalledProcessError if the code fails; what went wrong
    stands on stderr.

    >>> in_fresh_process("print(2 + 3)")[0]
    5
    """
    command = [sys.executable, "-c", code]
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | environment, cwd=_PACKAGE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads(line), seconds


# The first result -----------------------------------------------------------------------------------------------------

_FIRST_RESULT = """
import numpy as np
import minixception as mx

model = mx.models.{network.model}
logits = mx.compile(model)(np.zeros(({network.batch}, *model.input_shape), np.float32))
print(logits.size, flush=True)
"""


def cold_starts(network: Network, repeats: int) -> list[float]:
    """Seconds to the first result with cached kernels, one process each, after one that may still have to compile.

    Raises ArgumentError for repeats below 1.
    """
    if repeats < 1:
        raise ArgumentError(f"process: repeats must be at least 1, got {repeats!r}")
    code = _FIRST_RESULT.format(network=network)
    return [in_fresh_process(code)[1] for _ in range(1 + repeats)][1:]


def first_compile(network: Network) -> float:
    """Seconds to the first result where Numba has cached nothing yet."""
    with tempfile.TemporaryDirectory() as empty:
        return in_fresh_process(_FIRST_RESULT.format(network=network), NUMBA_CACHE_DIR=empty)[1]


# Memory ---------------------------------------------------------------------------------------------------------------

_TRAINING = """
import json
from minixception import models
from minixception.bench.records.process import train

print(json.dumps(train(lambda: models.{network.model}, {network.batch}, {who!r})), flush=True)
"""


def peak_memory(network: Network, who: str) -> dict[str, int]:
    """What ``train`` returns in a fresh process; the second one, because the first may still have to compile."""
    code = _TRAINING.format(network=network, who=who)
    in_fresh_process(code)
    return in_fresh_process(code)[0]


def train(model: Callable[[], Module], batch: int, who: str) -> dict[str, int]:
    """Take training steps in this process: bytes of its peak ``before`` the first step and after the last (``peak``).

    who: "minixception" or a name in ``peers.TRAINING``. Before the first step lie imports, weights and input.
    """
    seed(0)
    network = model()
    x, labels = random_batch(network, batch)
    step, _ = _TRAINERS[who].build(network, x, labels, numba.get_num_threads(), _LR)
    del network  # a peer has copied the weights
    before = peak_bytes()
    for _ in range(_STEPS):
        step()
    return {"before": before, "peak": peak_bytes()}


def peak_bytes() -> int:
    """The largest resident set that this process has had; ArgumentError where the system does not tell (Windows).

    On Linux never less than that of the process which started it, when it did: hence a small one must.

    >>> peak_bytes() > 1 << 20
    True
    """
    try:
        import resource
    except ImportError:
        raise ArgumentError(
            f"peak memory is read with Python's module resource, which {platform.system()} does not have"
        ) from None
    unit = 1 if platform.system() == "Darwin" else 1 << 10  # macOS counts bytes, Linux KiB
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


_TRAINERS = {OURS: Peer((), our_training), "torch eager": TRAINING["torch eager"]}


# The command ----------------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """How many cold starts there are."""
    parser.add_argument("--repeats", type=int, default=5, help="cold starts; default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Measure starts and memory, print two tables, write the JSON file."""
    own = peak_bytes()  # first of all: it raises where memory cannot be measured
    cold, compiled = cold_starts(STARTED, options.repeats), first_compile(STARTED)
    names = list(installed(_TRAINERS, print))  # imports none of them: this process must stay small (``peak_bytes``)
    memory = [(str(network), who, peak_memory(network, who)) for network in TRAINED for who in names]
    seconds = {"cold_start": float(np.median(cold)), "first_compile": compiled}
    print(Table((f"{STARTED}: first result", "seconds"), list(seconds.items())), end="\n\n")
    header = (f"training, {_STEPS} steps", "by", "MiB before", "MiB at the peak")
    print(Table(header, [(name, who, m["before"] / _MIB, m["peak"] / _MIB) for name, who, m in memory]))
    figures = {
        "seed": 0,
        "threads": numba.get_num_threads(),
        "first_result": {"network": str(STARTED), "cold_starts": cold} | seconds,
        "training_steps": _STEPS,
        "least_visible": own,  # bytes: no process is seen to take less, see ``peak_bytes``
        "memory": [{"network": name, "by": who} | m for name, who, m in memory],
    }
    packages = tuple(library for name in names for library in _TRAINERS[name].needs)
    write_result(options.out, command("process", options.out, repeats=options.repeats), figures, packages)
    return 0
