"""The pacer: what is due depends on the clock alone, and many workers form one even stream."""

from __future__ import annotations

import subprocess
import sys

import pytest

from wslab.core.pacer import due, scheduled_at, split


@pytest.mark.parametrize(
    ("elapsed", "rate", "offset", "expected"),
    [
        (0.0, 10.0, 0.0, 1),  # The first item is due at once.
        (0.099, 10.0, 0.0, 1),
        (0.1, 10.0, 0.0, 2),
        (1.0, 10.0, 0.0, 11),
        (3600.0, 0.01, 0.0, 37),  # A slow rate does not drift in an hour.
        (0.04, 10.0, 0.05, 0),  # Nothing before the offset.
        (0.05, 10.0, 0.05, 1),
        (100.0, 0.0, 0.0, 0),  # A rate of 0 is never.
        (100.0, None, 0.0, None),  # No rate is no limit.
    ],
)
def test_due_counts_the_items_whose_time_has_come(
    elapsed: float, rate: float | None, offset: float, expected: int | None
) -> None:
    assert due(elapsed, rate, offset) == expected


@pytest.mark.parametrize("rate", [0.3, 7.0, 16_666.7, 99_999.0])
@pytest.mark.parametrize("index", [0, 1, 2, 999, 123_457])
def test_an_item_is_due_at_its_own_scheduled_time(rate: float, index: int) -> None:
    assert due(scheduled_at(index, rate, 0.25), rate, 0.25) == index + 1


def test_without_a_rate_everything_is_scheduled_at_the_offset() -> None:
    assert scheduled_at(1000, None, 0.5) == 0.5


@pytest.mark.parametrize(
    ("total", "parts", "expected"),
    [(10, 3, [4, 3, 3]), (2, 4, [1, 1, 0, 0]), (9, 3, [3, 3, 3]), (0, 2, [0, 0]), (1_000_000, 51, None)],
)
def test_a_split_is_even_and_loses_nothing(total: int, parts: int, expected: list[int] | None) -> None:
    shares = split(total, parts)
    assert sum(shares) == total
    assert max(shares) - min(shares) <= 1
    assert expected is None or shares == expected


@pytest.mark.parametrize("module", ["pacer", "histogram"])
def test_what_every_worker_imports_pulls_in_nothing_heavy(module: str) -> None:
    heavy = "{'dataclasses', 'typing', 'asyncio', 'logging', 'argparse', 'pathlib', 'subprocess'}"
    code = f"import wslab.core.{module}, sys; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
