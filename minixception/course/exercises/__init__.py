"""The exercises of the course, a file for each notebook."""

from __future__ import annotations

from ..checks.exercise import Exercise
from . import n00, n01, n02, n03, n04, n05, n06, n07, n08, n09, n10, n11

_MODULES = (n00, n01, n02, n03, n04, n05, n06, n07, n08, n09, n10, n11)

EXERCISES: dict[str, Exercise] = {e.name: e for module in _MODULES for e in module.EXERCISES}
