"""What a student has solved, and how often they guessed: one small file in the folder of their notebooks."""

from __future__ import annotations

import json
from pathlib import Path

from ...files import atomic_path

FILE = "progress.json"  # written by `minixception course`; without it nothing is noted


def solved(folder: Path) -> set[str]:
    """The names of the exercises solved in a course folder; none if the file is missing or is not ours."""
    names = _read(folder).get("solved")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def tries(folder: Path) -> dict[str, int]:
    """How many wrong numbers or letters each exercise was answered with before it was solved."""
    counts = _read(folder).get("wrong")
    counts = counts if isinstance(counts, dict) else {}
    return {name: count for name, count in counts.items() if type(count) is int and count > 0}


def begin(folder: Path) -> None:
    """Make a folder a course folder; one that is one already keeps its progress."""
    if not (folder / FILE).exists():
        _write(folder, set(), {})


def note(name: str, wrong: int = 0, folder: Path | None = None) -> None:
    """Add a solved exercise, or so many wrong answers to one, if the folder is a course folder; the current one."""
    folder = folder or Path.cwd()
    if not (folder / FILE).exists():
        return
    done, counts = solved(folder), tries(folder)
    if name not in done:
        _write(
            folder, done if wrong else done | {name}, counts | ({name: counts.get(name, 0) + wrong} if wrong else {})
        )


def _read(folder: Path) -> dict[str, object]:
    try:
        read = json.loads((folder / FILE).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):  # missing, not UTF-8 or not JSON, nested without end
        return {}
    return read if isinstance(read, dict) else {}


def _write(folder: Path, done: set[str], counts: dict[str, int]) -> None:
    with atomic_path(folder / FILE) as temporary:
        text = json.dumps({"solved": sorted(done), "wrong": dict(sorted(counts.items()))}, indent=1)
        temporary.write_text(text + "\n", "utf-8")
