"""Imports point down, late ones inside of functions too: the table of floors, and what would lead up or in a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import minixception

ROOT = Path(minixception.__file__).parent
# Folders and loose modules, from the bottom up; what shares a line does not import each other.
FLOORS = """
    errors | tables
    files | timing | download
    cpu
    gpu
    engine
    ops
    nn | optim
    graph
    compiler
    imagenet | weights
    models
    cluster | data
    training
    viz
    analysis
    bench
    experiments
    course
    apps
    __init__
    __main__
"""
FLOOR = {name.strip(): floor for floor, line in enumerate(FLOORS.strip().splitlines()) for name in line.split("|")}


def imports(path, root):
    """(line, file) of every import of the package in a file, but for those that only a type checker follows."""
    tree, here = ast.parse(path.read_text(encoding="utf-8")), path.relative_to(root).parent.parts
    checks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {id(inner) for node in checks for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in skipped:
            base = root.joinpath(*here[: len(here) - node.level + 1], *filter(None, (node.module or "").split(".")))
            for target in (base / alias.name for alias in node.names):
                found = target if target.is_dir() or target.with_suffix(".py").exists() else base
                yield node.lineno, found / "__init__.py" if found.is_dir() else found.with_suffix(".py")


def upward(root):
    """What is wrong, as a person would want to be told."""
    for path in sorted(root.rglob("*.py")):
        for line, target in imports(path, root):
            here, there = (file.relative_to(root) for file in (path, target))
            start, end = here.with_suffix("").parts[0], there.with_suffix("").parts[0]
            if start != end and FLOOR[end] >= FLOOR[start]:
                yield f"{here}:{line} imports {there}, and {end} is not below {start}"


def test_imports_point_down():
    assert not list(upward(ROOT))


def test_no_modules_import_each_other_in_a_circle():
    graph = {path: {target for _, target in imports(path, ROOT)} - {path} for path in ROOT.rglob("*.py")}
    for path, targets in graph.items():  # that a folder's __init__ hands out what its modules hold is no circle
        graph[path] = {file for file in targets if file.name != "__init__.py" or file.parent not in path.parents}
    TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_a_planted_import_is_noticed(tmp_path):
    late = "def f():\n    from ..engine import tape\n"
    for name, text in {"cpu/jit.py": late, "engine/tape.py": "", "apps/cli.py": "from ..engine import tape"}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert list(upward(tmp_path)) == ["cpu/jit.py:2 imports engine/tape.py, and engine is not below cpu"]
