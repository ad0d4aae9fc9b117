"""The histogram: buckets that cover every latency and are within one percent of it."""

from __future__ import annotations

import math

import pytest

from wslab.core.histogram import BUCKETS, GROWTH, MAX_SECONDS, MIN_SECONDS, bucket_of, bucket_seconds


def counts_of(latencies: list[float]) -> list[int]:
    counts = [0] * BUCKETS
    for seconds in latencies:
        counts[bucket_of(seconds)] += 1
    return counts


@pytest.mark.parametrize("seconds", [1.0e-6, 3.3e-5, 0.001, 0.5, 1.0, 59.9, 999.0])
def test_a_bucket_reports_a_latency_within_one_percent(seconds: float) -> None:
    assert bucket_seconds(bucket_of(seconds)) == pytest.approx(seconds, rel=math.sqrt(GROWTH) - 1 + 1e-9)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, MIN_SECONDS / 2])
def test_what_is_too_short_falls_into_the_first_bucket(seconds: float) -> None:
    assert bucket_of(seconds) == 0


@pytest.mark.parametrize("seconds", [math.nextafter(MAX_SECONDS, 0), MAX_SECONDS, 1e9, math.inf])
def test_what_is_too_long_falls_into_the_last_buckets_and_never_beyond(seconds: float) -> None:
    assert BUCKETS - 2 <= bucket_of(seconds) <= BUCKETS - 1


def test_buckets_grow_in_order() -> None:
    middles = [bucket_seconds(index) for index in range(BUCKETS)]
    inside = [middle for middle in middles if middle < MAX_SECONDS]
    assert middles == sorted(middles)
    assert [bucket_of(middle) for middle in inside] == list(range(len(inside)))


def test_histograms_of_two_processes_add_up() -> None:
    one, other = [0.001, 0.004], [0.002, 0.009]
    merged = [a + b for a, b in zip(counts_of(one), counts_of(other), strict=True)]
    assert merged == counts_of(one + other)
