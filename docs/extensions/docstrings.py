"""Docstrings are plain text with ``code``, formulas, lists of arguments and examples: make reStructuredText of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_SECTIONS = {"Args:": "param", "Raises:": "raises"}
_ITEM = re.compile(r" {4}(\w+): (.*)")
_CODE = re.compile(r"(``.+?``|:\w+:`.+?`)", re.DOTALL)
_MARKUP = re.compile(r"([*|`@]|(?<=\w)_(?=\W|$))")


def setup(app: Sphinx) -> dict[str, bool]:
    """Change each docstring as autodoc reads it."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _process(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = restructure(lines)


def restructure(lines: list[str]) -> list[str]:
    """Formulas become literal blocks, lists of arguments fields; in text, signs that would mean something do not."""
    out: list[str] = []
    for kind, block in groupby(zip(_kinds(lines), lines, strict=True), key=lambda pair: pair[0]):
        text = [line for _, line in block]
        if kind == "text":
            text = _escape("\n".join(text)).split("\n")
        elif kind == "formula":
            text = ["", "::", "", *text, ""]
        elif kind == "section":
            text = ["", *_fields(text), ""]
        out += text
    return out


def _fields(lines: list[str]) -> Iterator[str]:
    """``Args:`` with indented ``name: text`` below it as ``:param name: text``; errors as ``:raises``."""
    field = ""
    for line in lines:
        if line in _SECTIONS:
            field = _SECTIONS[line]
        elif item := _ITEM.fullmatch(line):
            yield f":{field} {item[1]}: {_escape(item[2])}"
        elif line:
            yield _escape(line)


def _kinds(lines: list[str]) -> Iterator[str]:
    """What each line belongs to: text, a section, a formula or an example."""
    kind = "text"
    for line in lines:
        if line in _SECTIONS:
            kind = "section"
        elif line.startswith(">>>"):
            kind = "example"
        elif not line:
            kind = "text" if kind == "example" else kind
        elif kind == "formula" or kind == "text":
            kind = "formula" if line.startswith(" ") else "text"
        elif kind == "section" and not line.startswith(" "):
            kind = "text"
        yield kind


def _escape(text: str) -> str:
    parts = _CODE.split(text)  # text, code, text, ...
    return "".join(part if i % 2 else _MARKUP.sub(r"\\\1", part) for i, part in enumerate(parts))
