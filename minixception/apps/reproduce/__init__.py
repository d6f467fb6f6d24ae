"""The tables of the Xception paper: what it published, what this engine measures here, and what needs other data."""

from __future__ import annotations

from .report import Report, write_report
from .tables import table1, table2, table3

__all__ = ["Report", "table1", "table2", "table3", "write_report"]
