"""The watch over memory and progress in a phase: what is a breach in which phase, and what is standing still."""

from __future__ import annotations

import pytest

from wslab.load.phases import MemoryGuard, Patience, least_progress, read_headroom

GUARD = MemoryGuard(reserve_bytes=100, cap_bytes=500, baseline_bytes=1000)


@pytest.mark.parametrize(
    ("headroom", "ramping", "stopped_by"),
    [
        (600, True, None),
        (500, True, "memory_cap"),
        (100, True, "memory_cap"),
        (99, True, "memory_reserve"),
        (99, False, None),
        (50, False, None),
        (49, False, "memory_reserve"),
    ],
)
def test_the_cap_bounds_the_ramp_and_the_reserve_every_phase_by_half_after_it(
    headroom: int, ramping: bool, stopped_by: str | None
) -> None:
    breach = GUARD.check(headroom, ramping=ramping)
    assert (breach.stopped_by if breach else None) == stopped_by


def test_a_breach_carries_the_numbers_that_prove_it() -> None:
    cap, reserve = GUARD.check(400, ramping=True), GUARD.check(10, ramping=True)
    assert cap is not None
    assert (cap.event, cap.fields) == ("memory_cap_reached", {"used_bytes": 600, "cap_bytes": 500})
    assert reserve is not None
    assert (reserve.event, reserve.fields) == ("memory_reserve_reached", {"headroom_bytes": 10, "reserve_bytes": 100})


def test_without_a_cap_there_is_only_the_reserve() -> None:
    guard = MemoryGuard(reserve_bytes=100, cap_bytes=None, baseline_bytes=1000)
    assert guard.check(100, ramping=True) is None


def test_patience_ends_when_a_counter_stood_still_and_begins_anew_when_it_moves() -> None:
    patience = Patience(seconds=10.0, since=0.0)
    assert not patience.over(1, 0.0)
    assert not patience.over(1, 9.9)
    assert not patience.over(2, 10.0)
    assert not patience.over(2, 19.9)
    assert patience.over(2, 20.0)


def test_patience_ends_when_a_counter_only_creeps_or_falls() -> None:
    patience = Patience(seconds=10.0, since=0.0, step=100)
    assert not patience.over(0, 0.0)
    assert not patience.over(100, 5.0)
    assert not patience.over(199, 14.9)
    assert not patience.over(50, 14.9)
    assert patience.over(199, 15.0)


@pytest.mark.parametrize(
    ("connections", "rate", "least"), [(700_000, None, 7000), (700_000, 100.0, 3000), (10_000, 1.0, 30), (50, None, 1)]
)
def test_a_ramp_has_to_make_a_hundredth_of_its_way_or_half_of_its_rate(
    connections: int, rate: float | None, least: int
) -> None:
    assert least_progress(connections, rate, 60.0) == least


def test_the_headroom_of_this_machine_is_some_memory() -> None:
    assert read_headroom() > 1 << 20
