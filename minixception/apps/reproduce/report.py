"""One table of the paper beside ours: as text, as a result file, and as a section of a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...bench.results import write_result
from ...files import atomic_path
from ...tables import Table

Figure = int | float | Sequence[float]  # two numbers: from, to
PAGE = "tables.md"

_HEAD = """# The paper's tables, next to ours

"paper" is what Chollet 2017 printed; "here" is what this engine counted, or measured on the machine named below each
table. Where the two cannot be compared, it says what is missing. Nothing here is typed in by hand: `minixception
reproduce` writes this page and the JSON files beside it.
"""


@dataclass(frozen=True)
class Report:
    """A table: figures by network and name, published and measured apart, and what could not be measured.

    needs: what is missing, with what it needs. notes: how to read the rest.

    >>> print(Report("Speed", {"Xception": {"steps/s": 28}}, {"Xception": {"steps/s": 1.25}}, [], ["Of training."]))
    Speed
    <BLANKLINE>
    network   paper: steps/s  here: steps/s
    --------  --------------  -------------
    Xception  28              1.250
    <BLANKLINE>
    Of training.
    """

    title: str
    published: dict[str, dict[str, Figure]]
    measured: dict[str, dict[str, Figure]]
    needs: Sequence[str]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Plain data, which makes the report again: ``Report(**data)``."""
        return asdict(self)

    def table(self) -> Table:
        """A row per network: the published figures, then the measured ones."""
        parts = (("paper", self.published), ("here", self.measured))
        columns = [
            (part, name, figures)
            for part, figures in parts
            for name in dict.fromkeys(name for row in figures.values() for name in row)
        ]
        rows = [
            (network, *(_text(name, figures.get(network, {}).get(name)) for _, name, figures in columns))
            for network in self.published
        ]
        return Table(("network", *(f"{part}: {name}" for part, name, _ in columns)), rows)

    def __str__(self) -> str:
        lines = [self.title, "", str(self.table())]
        lines += ["", "Not measured here:", *(f"- {line}" for line in self.needs)] if self.needs else []
        return "\n".join([*lines, "", *self.notes])

    def markdown(self) -> str:
        """The same as a section of the page."""
        table = self.table()
        rows = [table.header, ["-"] * len(table.header), *table.rows]
        lines = [f"## {self.title}", "", *(f"| {' | '.join(row)} |" for row in rows)]
        lines += ["", "Not measured here:", "", *(f"- {line}" for line in self.needs)] if self.needs else []
        return "\n".join([*lines, "", " ".join(self.notes)])


def write_report(path: Path, command: str, report: Report) -> None:
    """Write the result file, and the page of all tables whose files lie beside it."""
    write_result(path, command, {"seed": 0, **report.to_json()})
    sections = [_section(file) for file in sorted(path.parent.glob("table[0-9].json"))]
    with atomic_path(path.with_name(PAGE)) as temporary:
        temporary.write_text("\n".join([_HEAD, *sections]))


def _section(path: Path) -> str:
    result = json.loads(path.read_text())
    report = Report(**{field.name: result[field.name] for field in fields(Report)})
    machine = result["machine"]
    made = f"`{result['command']}`, {result['date']}, {machine['processor']}, {machine['cores']} cores."
    return f"{report.markdown()}\n\n[{path.name}]({path.name}): {made}\n"


def _text(name: str, figure: Figure | None) -> str:
    """A figure as the paper prints such: counts in full, accuracies with three digits, MAP@100 with two."""
    if figure is None:
        return ""
    if isinstance(figure, int):
        return f"{figure:,}"
    if isinstance(figure, float):
        return f"{figure:.2f}" if name == "MAP@100" else f"{figure:.3f}"
    return " to ".join(_text(name, value) for value in figure)
