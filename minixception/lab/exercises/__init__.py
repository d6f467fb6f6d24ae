"""The exercises of the course, a file for each notebook."""

from __future__ import annotations

from ..checks.exercise import Exercise
from . import n00, n01, n06, n08

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise for module in (n00, n01, n06, n08) for exercise in module.EXERCISES
}
