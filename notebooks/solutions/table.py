"""The planted mistakes of all exercises and what a student is told about each, as a page.

python notebooks/solutions/table.py docs/results/mistakes.md
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import minixception as mx
from minixception.files import atomic_path

HEAD = """# Planted mistakes, and the hints they get

Written by `python notebooks/solutions/table.py docs/results/mistakes.md`: every exercise of the course, the wrong
answers that it is tried with, and what `mx.lab.check` says of them. The tests hold each to words of its own hint.
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


def lines() -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    for number, module in modules().items():
        yield f"## Notebook {number:02d}\n"
        yield "| exercise | kind | wrong answer | what the check says | hint |\n|-|-|-|-|-|"
        for name, answer, _ in module.MISTAKES:
            verdict = mx.lab.check(name, answer, time=False)
            shown = getattr(getattr(answer, "py_func", answer), "__name__", None)
            shown = shown or getattr(getattr(answer, "function", None), "__name__", repr(answer))
            cells = (name, mx.lab.EXERCISES[name].kind, f"`{shown}`", verdict.message, verdict.hint)
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
