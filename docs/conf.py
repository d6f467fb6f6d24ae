"""The site: `make docs` builds it from this folder, the notebooks and the docstrings, without the internet."""

from __future__ import annotations

import sys
from pathlib import Path

import minixception

sys.path.insert(0, str(Path(__file__).parent))

project = "minixception"
version = release = minixception.__version__
copyright = "the minixception contributors, MIT licence"
language = "en"
smartquotes = False  # "same" is a value

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.linkcode",
    "extensions.commands",
    "extensions.course",
    "extensions.docstrings",
    "extensions.mathml",
    "extensions.sources",
]

# Notebooks carry the outputs of the run that they were committed with.
nb_execution_mode = "off"
nb_number_source_lines = False
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3  # as where Markdown is browsed: [...](page.md#a-heading)
myst_dmath_double_inline = True

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

html_theme = "furo"
html_title = "minixception"
html_static_path = ["static"]
html_extra_path = ["explorer.html"]  # a page of its own, which needs nothing of the site
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
