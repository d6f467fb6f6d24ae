"""Run every student's notebooks and print, as CSV, which exercises they solve.

python grade.py HANDED_IN [NUMBER ...]      HANDED_IN/<student>/NN_*.ipynb
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from minixception.course import EXERCISES
from minixception.course.checks import progress


def solved(folder: Path, numbers: list[str]) -> set[str]:
    """The exercises that a student's notebooks solve when they run here and now."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copytree(folder, Path(scratch, folder.name))
        (copy / progress.FILE).unlink(missing_ok=True)  # the student's own
        progress.begin(copy)
        for path in sorted(copy.glob("*.ipynb")):
            if path.name[:2] in numbers:
                run(path)
        return progress.solved(copy)


def run(path: Path) -> None:
    """Run a notebook to its end, past the cells that fail; name it if that is not possible."""
    try:
        notebook = nbformat.read(path, as_version=4)
        where = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=600, allow_errors=True, resources=where).execute()
    except Exception as error:  # a damaged file, a cell that hangs, a kernel that died: the others count
        print(f"{path.parent.name}/{path.name}: {error}", file=sys.stderr)


def main(handed_in: str, *chosen: str) -> None:
    """A line for each student: the name, 1 or 0 for each exercise, how many are solved, and how often they guessed."""
    known = sorted({f"{exercise.notebook:02d}" for exercise in EXERCISES.values()})
    if unknown := sorted(set(chosen) - set(known)):
        sys.exit(f"grade.py: notebooks are {', '.join(known)}; got {', '.join(unknown)}")
    numbers = list(chosen) or known
    names = [name for name, exercise in EXERCISES.items() if f"{exercise.notebook:02d}" in numbers]
    table = csv.writer(sys.stdout)
    table.writerow(["student", *names, "solved", "wrong"])
    for folder in sorted(path for path in Path(handed_in).iterdir() if path.is_dir()):
        done = solved(folder, numbers)
        marks = [int(name in done) for name in names]
        wrong = sum(count for name, count in progress.tries(folder).items() if name in names)
        table.writerow([folder.name, *marks, sum(marks), wrong])


if __name__ == "__main__":
    main(*sys.argv[1:])
