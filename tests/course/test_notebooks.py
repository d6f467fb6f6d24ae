"""The committed notebooks: complete, clean, and free of what belongs to one machine. `make notebooks` executes them."""

import importlib
import json
import re
from pathlib import Path

import pytest

from minixception.course.notebooks import NotebookError, clean, main

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
OF_A_MACHINE = re.compile(r"(?<![\w.])/(home|root|tmp|work|usr|Users|opt|mnt)/|[A-Z]:\\\\|\.venv|site-packages")


@pytest.fixture(scope="module")
def nbformat():
    """Imported where it is used: that takes seconds, and most tests need none of it."""
    return importlib.import_module("nbformat")


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_the_course_has_all_its_notebooks():
    assert [name[:2] for name in NAMES] == [f"{number:02d}" for number in range(14)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_is_committed_as_it_ran_from_top_to_bottom(nbformat, path):
    notebook = nbformat.read(path, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    assert any("image/" in kind for output in outputs(notebook) for kind in output.get("data", {}))  # it shows a figure
    assert not [
        output for output in outputs(notebook) if output.get("name") == "stderr" or output.output_type == "error"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_a_notebook_says_nothing_of_the_machine(nbformat, path):
    text = path.read_text("utf-8")
    assert not OF_A_MACHINE.search(re.sub(r'"image/png": "[^"]*"', "", text))
    notebook = nbformat.reads(text, as_version=4)
    clean(notebook)
    assert json.loads(nbformat.writes(notebook)) == json.loads(text)
    assert len(text) < 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_figures_are_seen_where_notebooks_are_browsed_and_said_in_words(nbformat, path):
    shown = [output for output in outputs(nbformat.read(path, as_version=4)) if "image/png" in output.get("data", {})]
    assert shown
    assert not [output for output in shown if "image/svg+xml" in output.data]  # preferred, and then cut up
    figures = [output.metadata["image/png"] for output in shown if "Figure size" in output.data["text/plain"]]
    assert figures and all(figure["alt"] and figure["width"] < 1300 for figure in figures)


# The tool ----------------------------------------------------------------------------------------------------------


def write(nbformat, path, *sources):
    cells = [nbformat.v4.new_code_cell(source, metadata={"scrolled": True}) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"author": "x"}), path)


def test_a_notebook_is_executed_and_kept_with_its_outputs(nbformat, tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    write(nbformat, path, "x = 6", "print(7 * x, object())")
    before = path.read_bytes()
    assert main(["--check", str(path)]) == 0
    assert path.read_bytes() == before
    assert main([str(path)]) == 0
    notebook = nbformat.read(path, as_version=4)
    assert outputs(notebook)[0].text == "42 <object object>\n"
    assert set(notebook.metadata) == {"kernelspec", "language_info"} and not notebook.cells[0].metadata
    assert "a: " in capsys.readouterr().out


@pytest.mark.parametrize("source", ["import sys; print('!', file=sys.stderr)", "1 / 0"])
def test_a_failing_notebook_is_left_as_it_was(nbformat, tmp_path, source):
    from nbclient.exceptions import CellExecutionError

    path = tmp_path / "a.ipynb"
    write(nbformat, path, source)
    before = path.read_bytes()
    with pytest.raises((NotebookError, CellExecutionError)):
        main([str(path)])
    assert path.read_bytes() == before
