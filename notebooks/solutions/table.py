"""The planted mistakes of the exercises and what a student is told about each, as a page.

python notebooks/solutions/table.py docs/results/mistakes.md
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minixception as mx
from minixception.course.checks import Choice
from minixception.files import atomic_path

HEAD = """# Planted mistakes, and the hints they get

Written by `python notebooks/solutions/table.py docs/results/mistakes.md`: the exercises of the course, the wrong
answers that each is tried with, and what `mx.lab.check` says of them. The tests hold each to words of its own hint.
Exercises that explain a plot are left out: their wrong letters would give the right one away.
"""


def modules() -> dict[int, Any]:
    """The modules of solutions beside this file, by the number of their notebook."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("n[0-9][0-9].py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        found[int(path.stem[1:])] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return found


def shown(module: Any) -> list[tuple[str, Any]]:
    """The exercises and wrong answers of a module that are on the page."""
    return [(name, answer) for name, answer, _ in module.MISTAKES if not isinstance(mx.lab.EXERCISES[name], Choice)]


def label(answer: Any) -> str:
    """A function's name; a number as it is."""
    function = getattr(answer, "py_func", getattr(answer, "function", answer))  # compiled by Numba, or a CUDA kernel
    return getattr(function, "__name__", repr(answer))


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    for number, module in modules().items():
        yield f"## Notebook {number:02d}\n"
        yield "| exercise | kind | wrong answer | what the check says | hint |\n|-|-|-|-|-|"
        for name, answer in shown(module):
            verdict = mx.lab.check(name, answer, time=False)
            cells = (name, mx.lab.EXERCISES[name].kind, f"`{label(answer)}`", verdict.message, verdict.hint)
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        yield ""


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
