"""Latency histograms whose buckets grow by a constant factor, so that they add up across processes.

A bucket `i` covers `[MIN_SECONDS * GROWTH**i, MIN_SECONDS * GROWTH**(i+1))` and is reported as its geometric
middle; a percentile read from it is therefore off by at most `sqrt(GROWTH) - 1`, which is 1 %. Histograms of
different processes, seconds or machines are merged by adding their counts.

1. Imported by every worker: it imports `math` and nothing else.
2. `SCALE` is public because the hot path of the swarm inlines `bucket_of`.
"""

from __future__ import annotations

from math import log

GROWTH = 1.02
MIN_SECONDS = 1e-6
MAX_SECONDS = 1000.0
SCALE = 1.0 / log(GROWTH)
OFFSET = -log(MIN_SECONDS) * SCALE
BUCKETS = int(log(MAX_SECONDS / MIN_SECONDS) * SCALE) + 2


def bucket_of(seconds: float) -> int:
    """Return the index of the bucket that `seconds` falls into, clamped to the range of the histogram."""
    if seconds <= MIN_SECONDS:
        return 0
    if seconds >= MAX_SECONDS:
        return BUCKETS - 1
    return int(log(seconds) * SCALE + OFFSET)


def bucket_seconds(index: int) -> float:
    """Return the geometric middle of a bucket, in seconds."""
    return float(MIN_SECONDS * GROWTH ** (index + 0.5))


def quantile(counts: list[int], rank: float, beyond: int = 0) -> float | None:
    """Return the latency below which the share `rank` (0 to 1) of what a histogram counted lies, in seconds.

    Args:
        counts: one count a bucket.
        rank: 0.99 for p99.
        beyond: how many more there were whose latency is larger than any that was counted, because it never ended.

    Returns:
        The latency, or None where it is among those beyond, or nothing was counted.
    """
    left = rank * (sum(counts) + beyond)
    for index, count in enumerate(counts):
        left -= count
        if count and left <= 1e-6:
            return bucket_seconds(index)
    return None
