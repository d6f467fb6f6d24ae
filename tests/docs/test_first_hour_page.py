"""The page for those who know PyTorch or Keras: its cells run in order, as they stand; the site shows their results."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest

from tests.helpers.processes import ROOT

PAGE = (ROOT / "docs" / "first-hour.md").read_text("utf-8")
CELLS = re.findall(r"```\{code-cell\} python\n(.*?)```", PAGE, re.DOTALL)


def test_it_has_fifteen_parts_and_a_cell_in_each():
    parts = re.findall(r"^## (\d+)\. .*?(?=^## )", PAGE, re.DOTALL | re.MULTILINE)
    assert parts == [str(i) for i in range(1, 16)]
    assert all("{code-cell}" in part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:16])


@pytest.mark.slow
def test_its_cells_run(tmp_path, monkeypatch):
    """`make docs` runs them, too, in a kernel of its own."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in CELLS:
        exec(cell, names)
    plt.close("all")
    assert names["losses"][-1] < names["losses"][0]
    assert len(names["photos"]) > 0
