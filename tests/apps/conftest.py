"""A hub with a network whose answers are known, and its server."""

from __future__ import annotations

import pytest

from minixception.apps.hub import Hub
from tests.helpers.colours import Colours, serving


@pytest.fixture(scope="module")
def hub():
    return Hub(Colours())


@pytest.fixture(scope="module")
def server(hub):
    with serving(hub) as server:
        yield server
