"""Open-loop schedules: what is due at a moment depends on the clock alone, never on how fast the answers come.

Item `i` of a schedule with rate `r` is due at `offset + i / r` seconds. Whoever is late catches up, and its latency
counts from the moment it was due, so that a stall shows in every item that had to wait for it.

1. Imported by every worker: it imports nothing.
2. A schedule is arithmetic without state: it cannot drift and needs no timer of its own.
3. W workers share one schedule: each is given a part of it, with an offset, so that together they form one stream.
"""

from __future__ import annotations

# An item must not be late by a rounding error of its own schedule: i / r * r may come out just below i.
ROUNDING = 1e-6


def due(elapsed: float, rate: float | None, offset: float = 0.0) -> int | None:
    """Return how many items are due after `elapsed` seconds.

    Args:
        elapsed: seconds since the schedule began.
        rate: items per second; None is "as fast as possible", 0 is "never".
        offset: seconds before the first item.

    Returns:
        The number of items due from the beginning, or None when there is no limit.
    """
    if rate is None:
        return None
    if rate <= 0 or elapsed < offset:
        return 0
    return int((elapsed - offset) * rate + ROUNDING) + 1


def scheduled_at(index: int, rate: float | None, offset: float = 0.0) -> float:
    """Return when item `index` (from 0) is due, in seconds since the schedule began; at once without a rate."""
    return offset + index / rate if rate else offset


def split(total: int, parts: int) -> list[int]:
    """Split `total` items over `parts` as evenly as whole numbers allow; the first ones get the remainder."""
    share, rest = divmod(total, parts)
    return [share + (part < rest) for part in range(parts)]
