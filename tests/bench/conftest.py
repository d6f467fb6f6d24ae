"""A progress bar that shows nothing, for what is measured."""

from __future__ import annotations

import pytest
from tqdm import tqdm


@pytest.fixture
def bar():
    with tqdm(disable=True) as quiet:
        yield quiet
