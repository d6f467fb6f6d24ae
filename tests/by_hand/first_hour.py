"""What a clone costs in time and disk: python -m tests.by_hand.first_hour docs/results/setup.json

Clones the commit that is checked out and runs in the clone what README.md tells a newcomer to, with nothing in pip's
cache and nothing compiled. The last rows are a second clone, with NVIDIA's compilers: there a network learns from 200
pictures of four classes, which the package draws, and names one. Needs the internet and a quarter of an hour; what else
the machine does shows in the seconds, less so in those of its processors.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minixception import data
from minixception.bench.results import write_result
from tests.helpers.processes import ROOT

COMMANDS = ("make setup", "make demo", "make test")
WITH_COMPILERS = "make setup CUDA=1"
OF_PHOTOS = (
    ".venv/bin/minixception train --data folder:photos --image-size 64",
    ".venv/bin/minixception predict runs/photos photos/new.png",
)
UNSET = ("CUDA", "CI", "PYTHONPATH", "NUMBA_CACHE_DIR", "VIRTUAL_ENV")


def main() -> int:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        first, second = clone(Path(folder) / "first"), clone(Path(folder) / "second")
        rows = [measured(command, first) for command in COMMANDS]
        rows.append(measured(WITH_COMPILERS, second))
        draw_photos(second / "photos")
        rows += [measured(command, second) for command in OF_PHOTOS]
    write_result(out, f"python -m tests.by_hand.first_hour {out}", {"steps": rows})
    return 0


def clone(folder: Path) -> Path:
    """The commit that is checked out, alone."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


def draw_photos(folder: Path) -> None:
    """50 pictures in a folder for each of four classes, and one more beside them."""
    drawn = data.shapes("train", image_size=128)
    for label in range(4):
        (folder / drawn.class_names[label]).mkdir(parents=True)
        for i in np.flatnonzero(drawn.labels == label)[:50]:
            Image.fromarray(drawn.images[i]).save(folder / drawn.class_names[label] / f"{i}.png")
    Image.fromarray(drawn.images[np.flatnonzero(drawn.labels == 0)[50]]).save(folder / "new.png")


def measured(command: str, folder: Path) -> dict[str, Any]:
    """Run it there: seconds by the clock and of all processors, and the bytes of .venv afterwards."""
    environment = {name: value for name, value in os.environ.items() if name not in UNSET} | {"PIP_NO_CACHE_DIR": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command.split(), cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "command": command,
        "seconds": round(seconds, 1),
        "processor_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "disk": sum(file.lstat().st_size for file in (folder / ".venv").rglob("*")),
    }


if __name__ == "__main__":
    raise SystemExit(main())
