"""What JSON may hold where a count or a number belongs: files can be edited, and Python takes ``true`` for 1."""

from __future__ import annotations

import sys
from typing import Any

from ..optim.common import MOST


def is_count(value: Any, low: int = 0) -> bool:
    """An integer of at least ``low`` that arithmetic does not overflow.

    >>> [is_count(value) for value in (3, True, 3.0, "3", -1, 10**400)]
    [True, False, False, False, False, False]
    """
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < MOST


def is_number(value: Any) -> bool:
    """A finite number that is a float, or can be one.

    >>> [is_number(value) for value in (3, -2.5, True, "3", float("nan"), 10**400)]
    [True, True, False, False, False, False]
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
