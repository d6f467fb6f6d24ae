"""For all tests of the course: a machine may be slow, and compile for longer than a student is made to wait."""

import pytest

from minixception.course.checks import apart


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(apart, "PATIENCE", 600.0)
