"""The source code as pages, and links to it: from the API, and from every path that a text names."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

ROOT = Path(__file__).parents[2]
_FOLDERS = ("minixception", "tests")
_HIDDEN = "minixception/course/exercises"  # the answers are there
_PATH = re.compile(r"([\w/]+\.py|[\w/]+/)(?:::(\w+))?")


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the pages after all others, and the links when a page is written."""
    app.connect("config-inited", lambda app, config: setattr(config, "linkcode_resolve", _address))
    app.connect("html-collect-pages", _pages)
    app.add_post_transform(_Links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


@cache
def files() -> frozenset[str]:
    """The files that have a page, as paths from the root of the repository."""
    found = (path.relative_to(ROOT).as_posix() for folder in _FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return frozenset(path for path in found if not path.startswith(_HIDDEN))


def find(text: str) -> tuple[str, str] | None:
    """The file and the line, "" for all of it, that a text such as ``ops/relu.py`` or ``tests/x.py::test_y`` names."""
    if not (named := _PATH.fullmatch(text)):
        return None
    path = named[1] + "__init__.py" if named[1].endswith("/") else named[1]
    for candidate in (path, f"minixception/{path}"):
        if candidate in files():
            return candidate, _line(candidate, named[2]) if named[2] else ""
    return None


def _line(path: str, function: str) -> str:
    lines = (ROOT / path).read_text("utf-8").splitlines()
    return next((str(i) for i, line in enumerate(lines, 1) if line.startswith(f"def {function}(")), "")


class _Links(SphinxPostTransform):
    """Turn a path in code type into a link to the file's page."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        """Called by Sphinx for each page."""
        for literal in list(self.document.findall(nodes.literal)):
            found = find(literal.astext())
            if found and not isinstance(literal.parent, nodes.reference):
                address = self.app.builder.get_relative_uri(self.env.docname, f"code/{found[0]}")
                link = nodes.reference("", "", literal.deepcopy(), refuri=address + (found[1] and f"#L-{found[1]}"))
                literal.replace_self(link)


def _address(domain: str, info: dict[str, str]) -> str | None:
    """For sphinx.ext.linkcode: where an object of the API stands. All pages of the API lie in the folder api/."""
    thing: Any = sys.modules[info["module"]]
    try:
        for name in info["fullname"].split("."):
            thing = getattr(thing, name)
        thing = inspect.unwrap(thing)
        path = Path(inspect.getsourcefile(thing) or "").relative_to(ROOT).as_posix()
        return f"../code/{path}.html#L-{inspect.getsourcelines(thing)[1]}" if path in files() else None
    except (AttributeError, TypeError, ValueError, OSError):  # a constant, or an attribute that instances have
        return None


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", anchorlinenos=True)
    for path in sorted(files()):
        code = highlight((ROOT / path).read_text("utf-8"), PythonLexer(), formatter)
        yield f"code/{path}", {"title": path, "body": f"<h1>{path}</h1>\n{code}", "parents": []}, "page.html"
