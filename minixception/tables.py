"""Tables for people: aligned text in a terminal, HTML in a notebook."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, repr=False)
class Table:
    """A header, rows of cells and an optional last row of totals; numbers are aligned to the right.

    >>> print(Table(("layer", "params"), [("conv", 1200), ("bn", 64)], ("total", 1264)))
    layer  params
    -----  ------
    conv    1,200
    bn         64
    -----  ------
    total   1,264
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    total: Sequence[Any] | None = None

    def _columns_of_numbers(self) -> list[bool]:
        return [all(isinstance(row[i], int | float) for row in self.rows) for i in range(len(self.header))]

    def __str__(self) -> str:
        body = [[_cell(value) for value in row] for row in self.rows]
        last = [[_cell(value) for value in self.total]] if self.total is not None else []
        widths = [max(len(row[i]) for row in [list(self.header), *body, *last]) for i in range(len(self.header))]
        right = self._columns_of_numbers()

        def line(cells: Sequence[str]) -> str:
            aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True))
            return "  ".join(aligned).rstrip()

        rule = "  ".join("-" * w for w in widths)
        lines = [line(self.header), rule, *map(line, body)]
        return "\n".join(lines + ([rule, line(last[0])] if last else []))

    __repr__ = __str__

    def markdown(self) -> str:
        """Header and rows as a table of Markdown."""

        def line(cells: Sequence[Any]) -> str:
            return f"| {' | '.join(f'{c:,.2f}' if isinstance(c, float) else str(c) for c in cells)} |"

        return "\n".join([line(self.header), f"|{'-|' * len(self.header)}", *map(line, self.rows)])

    def _repr_html_(self) -> str:
        right = self._columns_of_numbers()

        def row(tag: str, cells: Sequence[str]) -> str:
            styled = (
                f'<{tag} style="text-align:{"right" if r else "left"}">{html.escape(c)}</{tag}>'
                for c, r in zip(cells, right, strict=True)
            )
            return f"<tr>{''.join(styled)}</tr>"

        body = "".join(row("td", [_cell(v) for v in cells]) for cells in self.rows)
        foot = f"<tfoot>{row('th', [_cell(v) for v in self.total])}</tfoot>" if self.total is not None else ""
        return f"<table><thead>{row('th', self.header)}</thead><tbody>{body}</tbody>{foot}</table>"
