"""Formulas as MathML, which browsers draw themselves: no script and no network is needed.

They need a font made for mathematics, which not every machine has: the site brings along the one that ziamath carries.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)
_SPELLINGS = {  # what the converter reads poorly, and what it reads well
    re.compile(r"\\bar(?![a-zA-Z])"): r"\\overline",
    re.compile(r"\\mathrel\{\+\}="): r"\\mathrel{+=}",
    re.compile(r"\{aligned\}"): "{align*}",
}
_FONT = files("ziamath.fonts") / "STIXTwoMath-Regular.ttf"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer ``mathml``."""
    app.connect("config-inited", lambda app, config: config.html_static_path.append(str(_FONT)))
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(_mathml(node, "inline"))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="formula"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})</span>')
    self.body.append(_mathml(node, "block") + "</div>\n")
    raise nodes.SkipNode


def _mathml(node: nodes.Element, display: str) -> str:
    latex = node.astext()
    for poor, good in _SPELLINGS.items():
        latex = poor.sub(good, latex)
    try:
        mathml = convert(latex, display=display)
        if unread := re.search(r"(?<=<mi>)(&(?=<)|\\\w+)", mathml):
            raise ValueError(f"{unread[0]} is left over")
    except Exception as error:  # the converter has many errors and no common base
        logger.warning("no MathML for %r: %r", latex, error, location=node)
        return ""
    return mathml
