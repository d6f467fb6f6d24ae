"""Run notebooks from top to bottom and keep what they show.

    python -m minixception.course.notebooks notebooks/*.ipynb

Each is executed in a fresh kernel in its own folder and written back with its outputs, if no cell fails; with --check
it is only executed. Text on stderr, such as a warning, is a failure too: a student would wonder about it. What changes
from run to run without meaning anything, such as time stamps and cell numbers of an editing session, is left out, so
that a difference between two versions is a difference in what a reader sees.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..files import atomic_path
from ..tables import Table

_TIMEOUT = 600  # seconds for one cell
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class NotebookError(ValueError):
    """A notebook ran and shows what it should not."""


def execute(path: Path, write: bool) -> float:
    """Run one notebook and, if asked, write it back with its outputs; the seconds it took.

    CellExecutionError if a cell fails, NotebookError if one writes to stderr.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_TIMEOUT,
        record_timing=False,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # of the kernel: it warns of its own connection to this process
    )
    start = time.perf_counter()
    client.execute()
    seconds = time.perf_counter() - start
    _refuse_stderr(path, notebook)
    if write:
        clean(notebook)
        with atomic_path(path) as temporary:
            nbformat.write(notebook, temporary)
    return seconds


def _refuse_stderr(path: Path, notebook: Any) -> None:
    for i, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise NotebookError(f"{path.name}, cell {i} writes to stderr: {output.text.strip()[:500]}")


def clean(notebook: Any) -> None:
    """Leave out what says nothing about the notebook: metadata, cell identities, addresses of objects."""
    notebook.metadata.clear()
    notebook.metadata.update(_METADATA)
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:03d}"
        cell.metadata = {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        for output in cell.get("outputs", []):
            if "metadata" in output:  # of pictures: their size on the page, and what they show in words
                output.metadata = {key: output.metadata[key] for key in ("image/png",) if key in output.metadata}
            if "text" in output:
                output.text = _ADDRESS.sub("", output.text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute notebooks and print how long each took."""
    parser = argparse.ArgumentParser(description="Run notebooks from top to bottom and keep their outputs.")
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="execute, and leave the files as they are")
    options = parser.parse_args(arguments)
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ["TQDM_DISABLE"] = "1"  # a bar that is shown only where compiling takes long is not part of the lesson
    rows = []
    for path in options.notebooks:
        rows.append((path.stem, execute(path, write=not options.check)))
        print(f"{path.stem}: {rows[-1][1]:.0f} s", flush=True)
    print(Table(("notebook", "seconds"), rows, ("", sum(seconds for _, seconds in rows))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
