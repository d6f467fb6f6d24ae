"""What the commands share: the type of options, where to compute, and printing a table or JSON."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from ...errors import BackendError
from ...files import check_writable
from ...gpu import kernel as gpu
from ...models import MODELS


class Add(Protocol):
    """Adds a command to the command line: its name, its function (returns the exit status) and a line about it."""

    def __call__(
        self, name: str, command: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser: ...


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option --json, which ``show`` obeys."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def show(options: argparse.Namespace, data: Any, text: Any) -> None:
    """Print the data as JSON if that was asked for, else the text."""
    print(json.dumps(data, indent=2) if options.json else text, flush=True)


def check_outputs(result: Path | None, figure: Path | None = None) -> None:
    """Before anything is measured: ArgumentError if a file cannot be written. A result's folder is made."""
    if result:
        result.parent.mkdir(parents=True, exist_ok=True)
    for path in filter(None, (result, figure)):
        check_writable(path)


def progress(total: int, **options: Any) -> Any:
    """tqdm's bar on a terminal; elsewhere, where a bar would be one endless line, some ten plain lines."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(total=total, **options)
    text, tenth = "{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}{postfix}]", max(1, total // 10)
    options |= {"bar_format": text, "miniters": tenth, "mininterval": 0, "maxinterval": math.inf}
    return tqdm(total=total, file=_Lines(), **options)


class _Lines(io.StringIO):
    """What tqdm writes over and over, as lines on stderr: one for each count, though tqdm repeats the last."""

    _count = ""

    def write(self, text: str) -> int:
        count, bracket, _ = text.strip().partition("[")
        if bracket and count != self._count:
            print(text.strip(), file=sys.stderr)
            self._count = count
        return len(text)


def add_model(parser: argparse._ActionsContainer, name: str = "--model", **options: Any) -> None:
    """An option or argument that names one of ``MODELS``, spelled as on the command line or as in Python: VGG16."""
    spellings = {_plain(spelling): known for known in MODELS for spelling in (known, MODELS[known].__name__)}
    parser.add_argument(
        name, type=lambda text: spellings.get(_plain(text), text), choices=MODELS, metavar="MODEL", **options
    )


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --device, which ``chosen_device`` reads."""
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda", "simulator"),
        default="cpu",
        help="cuda: an NVIDIA GPU; simulator: the GPU's kernels without a GPU, so slowly that only networks and images "
        "of a few pixels and channels finish; default: %(default)s",
    )


def chosen_device(options: argparse.Namespace) -> str:
    """The device that --device names, "cpu" or "cuda", ready to be used; call it before anything else.

    Raises BackendError where there is no GPU, or where numba.cuda was imported before the simulator was asked for.
    """
    if options.device == "simulator":
        os.environ[gpu.VARIABLE] = "simulator"
        if not gpu.is_simulated():
            raise BackendError(
                "--device simulator comes too late: numba.cuda is in use for a GPU. Start Python anew for it"
            )
    elif options.device == "cuda" and not gpu.is_available():
        raise BackendError(
            "--device cuda needs an NVIDIA GPU with its driver, and none was found: 'minixception doctor' says why. "
            "Use --device cpu, or for a tiny network --device simulator"
        )
    return "cpu" if options.device == "cpu" else "cuda"


def device_words(options: argparse.Namespace) -> list[str]:
    """The option --device as it stands in a command that goes on on the same device; nothing for the default."""
    return [] if options.device == "cpu" else ["--device", options.device]


def positive(text: str) -> int:
    """The value of an option that counts something."""
    if (count := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return count
