"""Which exercises a student has solved: one small file in the folder of their notebooks."""

from __future__ import annotations

import json
from pathlib import Path

from ...files import atomic_path

FILE = "progress.json"  # written by `minixception course`; without it nothing is noted


def solved(folder: Path) -> set[str]:
    """The names of the exercises solved in a course folder; none if the file is missing or is not ours."""
    try:
        names = json.loads((folder / FILE).read_text("utf-8"))["solved"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {name for name in names if isinstance(name, str)}


def begin(folder: Path) -> None:
    """Make a folder a course folder; one that is one already keeps its progress."""
    if not (folder / FILE).exists():
        _write(folder, set())


def note(name: str, folder: Path | None = None) -> None:
    """Add a solved exercise, if the folder (the current one by default) is a course folder."""
    folder = folder or Path.cwd()
    if (folder / FILE).exists() and name not in (before := solved(folder)):
        _write(folder, before | {name})


def _write(folder: Path, names: set[str]) -> None:
    with atomic_path(folder / FILE) as temporary:
        temporary.write_text(json.dumps({"solved": sorted(names)}, indent=1) + "\n", "utf-8")
