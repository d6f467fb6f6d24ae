"""What the site takes from elsewhere in the repository: the notebooks, and links to files beside docs/."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent

# Files of the repository that are pages of the site under another name.
PAGES = {
    "README.md": "docs/index.md",
    "CHANGELOG.md": "docs/changelog.md",
    "CONTRIBUTING.md": "docs/contributing.md",
    "CONTRIBUTING.md#adding-an-operator": "docs/add-an-operator.md",
    "notebooks/": "docs/course.md",
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+(?=\))")


@dataclass(frozen=True)
class Notebook:
    """A notebook of the course, and what its first cell says about it."""

    path: Path
    title: str
    teaches: str
    minutes: str


def setup(app: Sphinx) -> dict[str, bool]:
    """Copy when the build begins, and rewrite links as pages are read."""
    app.connect("builder-inited", _prepare)
    app.connect("source-read", lambda app, page, source: _rewrite(source, posixpath.join("docs", page)))
    app.connect("include-read", lambda app, path, page, source: _rewrite_included(source, path, page))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


# Notebooks ------------------------------------------------------------------------------------------------------------


def notebooks() -> list[Notebook]:
    """The course in order."""
    return [_read(path) for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))]


def _read(path: Path) -> Notebook:
    first = "".join(json.loads(path.read_text("utf-8"))["cells"][0]["source"])
    said = {part: re.search(pattern, first, re.DOTALL | re.MULTILINE) for part, pattern in _FIRST_CELL.items()}
    return Notebook(path, **{part: " ".join(found[1].split()) if found else "" for part, found in said.items()})


_FIRST_CELL = {
    "title": r"^# (?:\d\d\. )?(.+?)$",
    "teaches": r"^\*\*What you will learn\.\*\* (.+?)(?:\n\n|\Z)",
    "minutes": r"^\*\*Time\.\*\*[^.]*?(\d+(?: to \d+)?) minutes",
}


def overview() -> str:
    """The table of the course as Markdown."""
    from minixception.course import EXERCISES

    numbers = [exercise.notebook for exercise in EXERCISES.values()]
    rows = ["| notebook | what it teaches | minutes | exercises |", "|-|-|-|-|"]
    for notebook in notebooks():
        number = notebook.path.name[:2]
        link = f"[{number}. {notebook.title}](course/{notebook.path.name})"
        rows.append(f"| {link} | {notebook.teaches} | {notebook.minutes} | {numbers.count(int(number))} |")
    return "\n".join([*rows, ""])


def _prepare(app: Sphinx) -> None:
    course = DOCS / "course"
    shutil.rmtree(course, ignore_errors=True)
    course.mkdir()
    for notebook in notebooks():
        content = json.loads(notebook.path.read_text("utf-8"))
        for cell in content["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = moved_links("".join(cell["source"]), "notebooks", "docs/course")
            for output in cell.get("outputs", []):
                if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                    cell["metadata"]["mystnb"] = {"image": {"alt": alt}}
        (course / notebook.path.name).write_text(json.dumps(content), "utf-8")
    (course / "overview.txt").write_text(overview(), "utf-8")


# Links ----------------------------------------------------------------------------------------------------------------


def moved_links(text: str, old: str, new: str) -> str:
    """Markdown that was written for the folder ``old`` of the repository, as a page of the folder ``new``."""

    def moved(link: re.Match[str]) -> str:
        path, mark, anchor = link[0].partition("#")
        target = posixpath.normpath(posixpath.join(old, path)) + ("/" if path.endswith("/") else "")
        for known in (f"{target}#{anchor}", target):
            if known in PAGES:
                target, mark = PAGES[known], "" if "#" in known else mark
                break
        else:
            target = re.sub(r"^notebooks/", "docs/course/", target)
        return posixpath.relpath(target, new) + (mark + anchor if mark else "")

    return _LINK.sub(moved, text)


def _rewrite(source: list[str], page: str) -> None:
    folder = posixpath.dirname(page)
    source[0] = moved_links(source[0], folder, folder)


def _rewrite_included(source: list[str], path: Path, page: str) -> None:
    if path.suffix == ".md":  # CONTRIBUTING.md and CHANGELOG.md
        source[0] = moved_links(source[0], "", posixpath.dirname(posixpath.join("docs", page)))
