"""minixception course: the student's notebooks in a folder of their own, and what is solved there."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...course.checks import progress
from ...course.exercises import EXERCISES
from ...errors import ArgumentError
from ...files import atomic_path
from ...tables import Table
from .common import Add, add_json, show

_PACKAGE = Path(__file__).resolve().parents[2]
_PLACES = (_PACKAGE / "notebooks", _PACKAGE.parent / "notebooks")  # of an installed package, of a clone


def register(add: Add) -> None:
    """The command and its options."""
    parser = add("course", run, "copy the course's notebooks to a folder, and say which exercises are solved there")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="is made; notebooks that are there are kept")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Copy what is missing, then print the progress."""
    if options.folder.exists() and not options.folder.is_dir():
        raise ArgumentError(f"{options.folder} must be a folder, and is a file")
    options.folder.mkdir(parents=True, exist_ok=True)
    progress.begin(options.folder)
    done = progress.solved(options.folder)
    rows = []
    for source in _notebooks():
        copied = _copy(source, options.folder / source.name)
        names = {name for name, exercise in EXERCISES.items() if exercise.notebook == int(source.name[:2])}
        rows.append((source.name, "copied" if copied else "kept", len(names), len(done & names)))
    fields = ("notebook", "file", "exercises", "solved")
    total = ("", "", len(EXERCISES), len(done & EXERCISES.keys()))
    show(options, [dict(zip(fields, row, strict=True)) for row in rows], Table(fields, rows, total))
    return 0


def _notebooks() -> list[Path]:
    """The course's notebooks in order; ArgumentError where the installation has none."""
    for place in _PLACES:
        if found := sorted(place.glob("[0-9][0-9]_*.ipynb")):
            return found
    raise ArgumentError("this installation of minixception carries no notebooks: use a clone or the wheel")


def _copy(source: Path, target: Path) -> bool:
    """Copy a notebook without its outputs, which are the student's to make; False if the target is there."""
    if target.exists():
        return False
    notebook = json.loads(source.read_text("utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    with atomic_path(target) as temporary:
        temporary.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return True
