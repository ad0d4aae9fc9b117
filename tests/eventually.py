"""Waiting for something that another process will do: until it is so, and no longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.01


def eventually(condition: Callable[[], T], seconds: float = 20.0) -> T:
    """Return the first true value of `condition`; fail when there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(POLL_SECONDS)
    return value
