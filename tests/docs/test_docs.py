"""The documentation agrees with the repository: links, paths, commands, code, tables and spelling. Needs no Sphinx."""

from __future__ import annotations

import ast
import csv
import importlib
import importlib.util
import inspect
import io
import json
import math
import re
import sys
from pathlib import Path
from statistics import median

import pytest
from codespell_lib import main as codespell

import minixception as mx
from minixception.apps.cli import parser
from minixception.training import read_checkpoint
from minixception.training.trained import SHIPPED

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
PAGES += [*sorted((DOCS / "api").glob("*.md")), *sorted((DOCS / "results").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?![a-z]+:)([^)\s]*)\)")
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PATH = re.compile(r"[\w.*-]*/[\w./*-]*/?|[\w*]+\.py")


def name(path):
    return path.relative_to(ROOT).as_posix()


def text_of(path):
    """The text of a page, or of a notebook's text cells, without its blocks of code."""
    text = path.read_text("utf-8")
    if path.suffix == ".ipynb":
        text = "\n\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    return FENCE.sub("", text)


def load(path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


commands = load(DOCS / "extensions" / "commands.py")
course = load(DOCS / "extensions" / "course.py")
docstrings = load(DOCS / "extensions" / "docstrings.py")

# Links ----------------------------------------------------------------------------------------------------------------


def anchors(path):
    """The anchors of a page's headings, as they are made where Markdown is browsed."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name)
def test_every_link_leads_somewhere(page):
    made = {f"commands/{name}.md" for name in commands.commands()}  # when the site is built
    for link in LINK.findall(text_of(page)):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert path in made or target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_links_change_with_the_place_of_their_page():
    moved = course.moved_links
    text = "[a](../docs/kernels.md#x) [b](01_y.ipynb) [c](https://x.y/z.md) [d](#e) ![f](../docs/f.svg)"
    assert moved(text, "notebooks", "docs/course") == (
        "[a](../kernels.md#x) [b](01_y.ipynb) [c](https://x.y/z.md) [d](#e) ![f](../f.svg)"
    )
    assert moved("[a](../CONTRIBUTING.md#adding-an-operator)", "docs", "docs") == "[a](add-an-operator.md)"
    assert moved("[a](../CONTRIBUTING.md#rules)", "docs", "docs") == "[a](contributing.md#rules)"
    assert moved("[a](docs/results/README.md)", "", "docs") == "[a](results/README.md)"
    assert moved("[a](../notebooks/03_b.ipynb) [c](../notebooks/)", "docs", "docs") == (
        "[a](course/03_b.ipynb) [c](course.md)"
    )


# Names ----------------------------------------------------------------------------------------------------------------


def exists(path):
    """Whether a path that a text names is there, seen from the repository, the package, the docs, or any folder."""
    if "/" not in path:
        return any(ROOT.glob(f"minixception/**/{path}")) or any(ROOT.glob(f"tests/**/{path}")) or (DOCS / path).exists()
    return any(any(folder.glob(path.rstrip("/"))) for folder in (ROOT, ROOT / "minixception", DOCS))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_exists(page):
    made = ("runs/", "build/", ".venv", "photos/", "handed-in/", "figures/")  # by the commands that the text explains
    for code in CODE.findall(text_of(page)):
        path, _, function = code.partition("::")
        if PATH.fullmatch(path) and not path.startswith(made):
            assert exists(path), code
            assert not function or f"\ndef {function}(" in (ROOT / path).read_text("utf-8"), code


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_exists(page):
    commands = re.findall(r"^    (\w+)(?:  |$)", parser().format_help(), re.MULTILINE)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    codes = CODE.findall(text_of(page)) + [
        line for kind, block in FENCE.findall(page.read_text("utf-8")) if kind == "sh" for line in block.splitlines()
    ]
    for code in codes:
        for command in re.findall(r"(?:^|/)minixception ([a-z]+)", code):
            assert command in commands, code
        for target in re.findall(r"^make ([a-z]+)", code):
            assert target in targets, code
        for module in re.findall(r"python -m (minixception[\w.]*)", code):
            assert importlib.util.find_spec(module), code


# Code -----------------------------------------------------------------------------------------------------------------

BLOCKS = [
    pytest.param(block, id=f"{name(page)}-{number}")
    for page in PAGES
    for number, (kind, block) in enumerate(FENCE.findall(page.read_text("utf-8")))
    if kind == "python"
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_in_a_text_is_python(block):
    ast.parse(block)


def run_block(page, number):
    blocks = [block for kind, block in FENCE.findall(page.read_text("utf-8")) if kind == "python"]
    exec(compile(blocks[number], page.name, "exec"), {})


def test_the_readmes_tour_runs():
    run_block(ROOT / "README.md", 0)


def test_an_exercise_of_an_instructors_own_is_found(monkeypatch):
    monkeypatch.setitem(mx.lab.EXERCISES, "pixels", None)  # taken out again afterwards
    run_block(DOCS / "instructor.md", -1)
    assert mx.lab.check("pixels", 361) and "one side" in mx.lab.check("pixels", 19).hint


def test_the_rungs_of_the_page_about_reading_agree(capsys):
    run_block(DOCS / "read-an-operator.md", 0)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"{backend} [-2. -3.  2.]" for backend in ("numpy", "loops", "cpu")]


# Pages ----------------------------------------------------------------------------------------------------------------

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (DOCS / "conventions.md").read_text("utf-8").splitlines()
    if line.startswith("|") and not line.startswith(("|-", "| what |"))
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_every_convention_names_the_test_that_holds_it(row):
    assert len(row) == 4 and all(row)
    file, test = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[3]).groups()
    functions = [node for node in ast.parse((ROOT / file).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    assert test in [function.name for function in functions]


def public(module):
    """The functions and classes of ``__all__``; without one, those that the module and what lies below it define."""
    names = getattr(module, "__all__", [one for one in vars(module) if not one.startswith("_")])
    things = [getattr(module, one) for one in names]
    if not hasattr(module, "__all__"):
        things = [thing for thing in things if getattr(thing, "__module__", "").startswith(module.__name__)]
    return [thing for thing in things if inspect.isroutine(thing) or inspect.isclass(thing)]


def test_the_api_lists_every_public_name():
    text = "\n".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    shown = []
    for name, block in re.findall(r"(?:currentmodule|automodule):: (\S+)\n(.*?)```", text, re.DOTALL):
        module = importlib.import_module(name)
        named = re.findall(r":: (\w+)", block)
        shown += [getattr(module, one) for one in named] or public(module)
    for module in (mx, *(getattr(mx, one) for one in mx.__all__ if inspect.ismodule(getattr(mx, one)))):
        assert [thing.__name__ for thing in public(module) if thing not in shown] == [], module.__name__


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_says_what_it_teaches_and_how_long_it_takes(path):
    (notebook,) = [one for one in course.notebooks() if one.path == path]
    assert notebook.title and notebook.teaches and notebook.minutes
    assert f"# {path.name[:2]}. {notebook.title}" in text_of(path)


def test_every_command_has_a_page_with_an_example():
    record = json.loads(commands.RECORD.read_text("utf-8"))
    examples = {example["command"].partition(" ")[0]: example for example in record["examples"]}
    assert [example["command"] for example in record["examples"]] == list(commands.EXAMPLES)
    assert sorted(examples) == sorted(commands.commands())
    for name, options in commands.commands().items():
        parser().parse_args(examples[name]["command"].split())
        text = commands.page(name, options, examples[name])
        assert f"usage: minixception {name} " in text
        assert examples[name]["printed"].strip() in text
        assert f"[{name}](commands/{name}.md)" in commands.overview()


def test_the_overview_has_a_line_for_each_notebook():
    lines = course.overview().splitlines()[2:]
    counts = [int(line.rstrip(" |").rpartition("|")[2]) for line in lines]
    assert len(lines) == len(NOTEBOOKS)
    assert sum(counts) == len(mx.lab.EXERCISES)


def test_docstrings_become_text_formulas_and_examples():
    lines = ["Text with *stars and a_ ``x*y``:", "", "    y = x * w", "", "More.", "", ">>> f(*x)", "1"]
    assert docstrings.restructure(lines) == [
        r"Text with \*stars and a\_ ``x*y``:", "", "", "::", "", "    y = x * w", "", "", "More.", "", ">>> f(*x)", "1",
    ]  # fmt: skip
    assert docstrings.restructure(["MAP@100"]) == [r"MAP\@100"]  # no address to write to
    sections = ["Args:", "    x: one", "        line more", "", "Raises:", "    ShapeError: two", "", "Text."]
    fields = [":param x: one", "        line more", ":raises ShapeError: two"]
    assert docstrings.restructure(sections) == ["", *fields, "", "Text."]


# Spelling -------------------------------------------------------------------------------------------------------------


def test_spelling(tmp_path, capsys):
    texts = []
    for notebook in NOTEBOOKS:
        texts.append(tmp_path / f"{notebook.stem}.md")
        texts[-1].write_text(text_of(notebook), "utf-8")
    code = [*(ROOT / "minixception").rglob("*.py"), *DOCS.glob("*.py"), *DOCS.glob("extensions/*.py")]
    found = codespell(*map(str, [*PAGES, *texts, *code]))
    assert found == 0, capsys.readouterr().out


# Grading --------------------------------------------------------------------------------------------------------------


def student(folder, *cells, notebook="08_x.ipynb"):
    import nbformat  # takes seconds, and few tests need it

    folder.mkdir(parents=True)
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), folder / notebook
    )


def test_the_grading_script_judges_anew_and_survives_bad_notebooks(tmp_path, capsys):
    student(
        tmp_path / "ada",
        "import minixception as mx\nfrom fractions import oops",
        'mx.lab.check("xception-trainable", 22_855_952)',
    )
    student(tmp_path / "bob", 'import minixception as mx\nmx.lab.check("xception-trainable", 1)')
    (tmp_path / "bob" / "progress.json").write_text(
        '{"solved": ["xception-trainable"], "wrong": {"xception-trainable": 3, "sgd-step": 1}}'
    )
    (tmp_path / "eve").mkdir()
    (tmp_path / "eve" / "08_x.ipynb").write_text("no notebook")
    load(DOCS / "grade.py").main(str(tmp_path), "08")
    out, err = capsys.readouterr()
    rows = {row["student"]: row for row in csv.DictReader(io.StringIO(out))}
    assert [rows[one]["xception-trainable"] for one in ("ada", "bob", "eve")] == ["1", "0", "0"]
    assert [rows[one]["solved"] for one in ("ada", "bob", "eve")] == ["1", "0", "0"]
    assert [rows[one]["wrong"] for one in ("ada", "bob", "eve")] == ["0", "3", "0"]
    assert "eve/08_x.ipynb" in err
    assert json.loads((tmp_path / "bob" / "progress.json").read_text())["solved"] == ["xception-trainable"]


def test_the_grading_script_knows_its_notebooks(tmp_path):
    with pytest.raises(SystemExit, match=r"notebooks are 00, .*, 13; got 3"):
        load(DOCS / "grade.py").main(str(tmp_path), "3")


def result(stem):
    return json.loads((DOCS / "results" / f"{stem}.json").read_text("utf-8"))


def counted(n, what):
    return f"{n} {what}{'s' * (n != 1)}"


def test_the_pictures_in_the_folder_are_those_that_pages_show():
    shown = {name for page in PAGES for name in re.findall(r"figures/([\w.-]+)\)", page.read_text("utf-8"))}
    assert {path.name for path in (DOCS / "figures").iterdir()} == shown


def test_the_readmes_picture_shows_an_eighth():
    times = {
        m["name"].split()[0]: m["times"]["minixception"]["median"]
        for m in result("bench_kernels")["kernels"]
        if m["threads"] == 2 and m["direction"] == "forward"
    }
    assert round(times["regular"] / times["separable"]) == 8


def test_the_readmes_figures_are_those_of_the_results():
    text = (ROOT / "README.md").read_text("utf-8")
    lines = re.findall(r"^\|[^|]* threads? \|(.*)\|$", text, re.MULTILINE)
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    peers = "torch eager", "torch script", "torch compile", "onnxruntime", "openvino", "tensorflow", "litert"
    measured = {(m["name"], m["direction"], m["threads"]): m for m in result("bench_models")["models"]}
    networks = ("Xception 299, batch 1", "forward"), ("Xception 299, batch 8", "forward")
    networks += ("Xception 299, batch 4", "training step"), ("mini_xception 32, batch 64", "training step")
    expected, shares = [], []
    for m in (measured[*network, threads] for network in networks for threads in (2, 1)):
        times, ours = m["times"], m["times"]["minixception compiled"]["median"]
        expected.append([f"{times[peer]['median'] / ours:.2f}" if peer in times else "" for peer in peers])
        shares.append(round(100 * m["bound"] / ours))
    assert rows == expected
    assert (
        f"ours does {min(shares[:4])} to {max(shares[:4])} % at inference, {shares[4]} and {shares[5]} % in a training "
        f"step of Xception, and {shares[6]} and {shares[7]} % in one of mini_xception"
    ) in " ".join(text.split())

    peaks = {(m["network"].split()[0], m["by"]): f"{m['peak'] / 2**30:.1f}" for m in result("process")["memory"]}
    names = "minixception", "torch eager"
    large, small = ([peaks[network, by] for by in names] for network in ("Xception", "mini_xception"))
    cifar = result("cifar10")
    steps = {step["command"]: step for step in result("setup")["steps"]}
    minutes = {name: counted(math.ceil(step["seconds"] / 60), "minute") for name, step in steps.items()}
    disk = steps["make setup"]["disk"] / 1e9
    for words in (
        "Xception needs {} GiB at its peak where PyTorch needs {}".format(*large),
        "mini_xception {} where PyTorch needs {}".format(*small),
        f"reaches {100 * cifar['test_top1']:.1f} % test accuracy in {cifar['minutes']:.1f} minutes",
        f"make demo # {minutes['make setup']} to install (.venv takes {disk:.1f} GB), {minutes['make demo']} to train",
        f"make test # {minutes['make test']}",
    ):
        assert words in " ".join(text.split())


def test_the_explorer_says_how_far_kernels_are_from_what_it_predicts():
    rows = json.loads((DOCS / "results" / "spectrum.json").read_text("utf-8"))["spectrum"]
    said = re.sub(r"\s+", " ", (DOCS / "explorer.html").read_text("utf-8"))
    for direction in ("forward", "backward"):
        times = [r["times"]["minixception"]["median"] / r["bound"] for r in rows if r["direction"] == direction]
        assert f"{min(times):.1f} to {max(times):.1f} times as long {direction}" in said


def test_the_readme_says_what_separable_convolutions_are_worth():
    means = [one["mean"] for one in result("forms")["verdicts"].values()]
    said = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert len(means) == 6
    assert f"{min(means):.1f} to {max(means):.1f} points of CIFAR-10 ahead" in said
    runs = result("equal_parameters")["runs"].values()
    first, *_, last = (median(100 * log[-1]["test_top1"] for log in logs.values()) for logs in runs)
    assert f"accuracy rises from {first:.1f} to {last:.1f} % at equal parameters" in said


def test_pages_say_what_the_network_of_the_package_reaches():
    top1 = f"{100 * result('cifar10_small')['test_top1']:.1f} %"
    assert read_checkpoint(SHIPPED["cifar10"]).progress.records == result("cifar10_small")["epochs"]
    for page, words in (
        (ROOT / "README.md", f"{top1} of CIFAR-10's test pictures"),
        (DOCS / "weights.md", f"{top1} of the 10,000"),
    ):
        assert words in " ".join(page.read_text("utf-8").split())
    megabytes = SHIPPED["cifar10"].stat().st_size / 1e6
    assert f"{megabytes:.1f} MB" in (DOCS / "weights.md").read_text("utf-8")
