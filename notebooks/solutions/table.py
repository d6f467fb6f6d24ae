"""The planted mistakes of the exercises and what a student is told about each, as a page.

python notebooks/solutions/table.py docs/results/mistakes.md
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import minixception as mx
from minixception.course.checks import Choice, judge
from minixception.course.checks.judging import source
from minixception.files import atomic_path

HEAD = """# Planted mistakes, and the hints they get

Written by `python notebooks/solutions/table.py docs/results/mistakes.md`: the exercises of the course, the wrong
answers that each is tried with, and what `mx.lab.check` says of them. The tests hold each to words of its own hint.
Exercises that explain a plot are left out: their wrong letters would give the right one away.
"""
SUBTLE = """## Easily judged wrongly

Wrong answers that are right on most inputs, and right ones of an unusual form (`notebooks/solutions/subtle.py`).
"""
_COLUMNS = "| exercise | kind | answer | what the check says | hint |\n|-|-|-|-|-|"


def modules() -> dict[int, Any]:
    """The modules of solutions beside this file, by the number of their notebook."""
    return {int(path.stem[1:]): load(path) for path in sorted(Path(__file__).parent.glob("n[0-9][0-9].py"))}


def load(path: Path) -> Any:
    """A module beside this file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def subtle() -> Any:
    """The answers that are easily judged wrongly."""
    return load(Path(__file__).with_name("subtle.py"))


def shown(module: Any) -> list[tuple[str, Any]]:
    """The exercises and wrong answers of a module that are on the page."""
    return [(name, answer) for name, answer, _ in module.MISTAKES if not isinstance(mx.lab.EXERCISES[name], Choice)]


def label(answer: Any) -> str:
    """A function's name and what is bound to it, a class's name; a number as it is."""
    if isinstance(answer, partial):
        return f"{label(answer.func)}({', '.join(map(repr, answer.args))}, ...)"
    function = source(answer)
    return getattr(function, "__name__", repr(answer) if isinstance(answer, int | float) else type(answer).__name__)


def row(name: str, answer: Any) -> str:
    """What the check says of an answer, as a row of the page."""
    exercise = mx.lab.EXERCISES[name]
    verdict = judge(exercise, answer, time=False)
    said = f"right. {verdict.message}" if verdict else verdict.message
    cells = (name, exercise.kind, f"`{label(answer)}`", said, verdict.hint)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    for number, module in modules().items():
        yield f"## Notebook {number:02d}\n"
        yield _COLUMNS
        yield from (row(name, answer) for name, answer in shown(module))
        yield ""
    yield SUBTLE
    yield _COLUMNS
    unusual = subtle()
    yield from (row(name, answer) for name, answer, *_ in (*unusual.WRONG, *unusual.RIGHT))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    text = "\n".join(lines())
    with atomic_path(out) as temporary:
        temporary.write_text(text.rstrip("\n") + "\n", "utf-8")


if __name__ == "__main__":
    main()
