"""The course: every exercise is solved by its solution, knows its usual mistakes, and stands in its notebook."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

import minixception as mx
from minixception.course.checks import judge, progress

pytestmark = pytest.mark.usefixtures("each_backend")
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
EXERCISES = mx.lab.EXERCISES


sys.path.insert(0, str(NOTEBOOKS / "solutions"))
table = importlib.import_module("table")

MODULES = table.modules()
SOLUTIONS = {name: answer for module in MODULES.values() for name, answer in module.SOLUTIONS.items()}
MISTAKES = [mistake for module in MODULES.values() for mistake in module.MISTAKES]
SUBTLE = table.subtle()


def cells(number, kind):
    (path,) = NOTEBOOKS.glob(f"{number:02d}_*.ipynb")
    return ["".join(c["source"]) for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == kind]


@pytest.mark.slow  # each of these answers has a test below
def test_the_page_of_mistakes_is_what_the_checks_say():
    def rows(text):  # without what was seen: its last digits may differ on another processor
        cells = (line.split(" | ") for line in text.splitlines() if line.startswith("| "))
        return [(*row[:3], row[-1]) for row in cells]

    page = (NOTEBOOKS.parent / "docs" / "results" / "mistakes.md").read_text("utf-8")
    assert rows(page) == rows("\n".join(table.lines()))
    kinds = [row[1] for row in rows(page)]
    letters = sum(EXERCISES[name].kind == "explain a plot" for name, _, _ in MISTAKES)  # would give the right one away
    assert "explain a plot" not in kinds
    assert len(kinds) == len(MISTAKES) - letters + len(MODULES) + len(SUBTLE.WRONG) + len(SUBTLE.RIGHT) + 1


def test_every_exercise_has_a_solution_and_no_solution_is_left_over():
    assert SOLUTIONS.keys() == EXERCISES.keys()


COMPILED_FOR_LONG = ("fused-kernel", "own-forward", "own-weight-gradient")  # students' parallel kernels


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in COMPILED_FOR_LONG else ()) for name in EXERCISES]
)
def test_the_solution_passes(name):
    verdict = mx.lab.check(name, SOLUTIONS[name], time=False)
    assert verdict, verdict


@pytest.mark.parametrize(
    ("name", "answer", "words"), MISTAKES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(MISTAKES)]
)
def test_a_usual_mistake_fails_with_its_own_hint(name, answer, words):
    verdict = judge(EXERCISES[name], answer, time=False)
    assert verdict.passed is False
    assert words in verdict.hint, verdict


@pytest.mark.parametrize(
    ("name", "answer", "words"), SUBTLE.WRONG, ids=[f"{n}-{table.label(a)}" for n, a, _ in SUBTLE.WRONG]
)
def test_what_is_right_on_most_inputs_is_wrong(name, answer, words):
    verdict = judge(EXERCISES[name], answer, time=False)
    assert verdict.passed is False and words in str(verdict), verdict


@pytest.mark.parametrize(("name", "answer"), SUBTLE.RIGHT, ids=[f"{n}-{table.label(a)}" for n, a in SUBTLE.RIGHT])
def test_what_is_right_is_right_in_an_unusual_form_too(name, answer):
    verdict = judge(EXERCISES[name], answer, time=False)
    assert verdict and "races" not in verdict.message, verdict


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_planted_mistakes(name):
    functions = EXERCISES[name].kind.startswith("fill in")
    assert sum(planted == name for planted, _, _ in MISTAKES) >= (2 if functions else 1)


@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_not_attempted(name):
    assert mx.lab.check(name, None).passed is None


@pytest.mark.parametrize("number", MODULES)
def test_the_notebook_asks_for_its_exercises_and_does_not_solve_them(number):
    code = "\n".join(cells(number, "code"))
    asked = re.findall(r'mx\.lab\.check\(\s*"([^"]+)"', code)
    assert set(asked) == {name for name, e in EXERCISES.items() if e.notebook == number}
    assert "solutions" not in code


def test_there_are_enough_exercises_of_every_kind():
    kinds = [exercise.kind for exercise in EXERCISES.values()]
    assert len(kinds) >= 20
    assert {"fill in a function", "fill in a CUDA kernel", "predict a number", "explain a plot"} == set(kinds)


# The command -------------------------------------------------------------------------------------------------------


def test_the_course_is_copied_once_and_tells_what_is_solved(call, tmp_path, monkeypatch):
    folder = tmp_path / "course"
    status, out, _ = call("course", folder, "--json")
    first = json.loads(out)
    assert status == 0 and {row["file"] for row in first} == {"copied"}
    assert len(first) == len(list(NOTEBOOKS.glob("*.ipynb")))
    assert not list(folder.glob("solutions"))
    copied = folder / first[0]["notebook"]
    assert all(not cell.get("outputs") for cell in json.loads(copied.read_text("utf-8"))["cells"])

    copied.write_text("mine", "utf-8")
    monkeypatch.chdir(folder)
    name = next(iter(EXERCISES))
    mx.lab.check(name, SOLUTIONS[name], time=False)
    rows = json.loads(call("course", folder, "--json")[1])
    assert {row["file"] for row in rows} == {"kept"} and copied.read_text("utf-8") == "mine"
    assert sum(row["solved"] for row in rows) == 1


def test_a_file_in_the_place_of_the_folder_is_refused(call, tmp_path):
    (tmp_path / "course").write_text("x")
    status, _, err = call("course", tmp_path / "course")
    assert status == 2 and "must be a folder" in err


def test_nothing_is_noted_outside_of_a_course_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    progress.note("some-exercise")
    assert not list(tmp_path.iterdir())
