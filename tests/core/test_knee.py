"""The knee: the climb finds the capacity of a made-up server, and the record says which side was the limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wslab.core.knee import FACTOR, GAP, RATE_FIRST, STEP_EVENT, Climb, Step, held_rate, knee_of, most_rate

BOUND = 0.1


def step(rate: float, **changes: Any) -> Step:
    """Return a step that was kept, unless told otherwise."""
    seconds = 2.0
    told: dict[str, Any] = {
        "number": 1,
        "messages_per_second": rate,
        "seconds": seconds,
        "connections_open": 100,
        "messages_due": round(rate * seconds),
        "messages_answered": round(rate * seconds),
        "answered_per_second": rate,
        "messages_unanswered": 0,
        "roundtrip_seconds_p50": 0.001,
        "roundtrip_seconds_p99": 0.002,
        "roundtrip_seconds_p999": 0.003,
        "started_seconds": 10.0,
        "ended_seconds": 12.0,
        "settled_seconds": 12.1,
    }
    return Step(**(told | changes))


def served(capacity: float) -> Callable[[float, float], Step]:
    """Return a server that answers so many messages a second, the rest later."""

    def serve(rate: float, seconds: float) -> Step:
        behind = max(0.0, rate - capacity) * seconds / capacity
        return step(rate, answered_per_second=min(rate, capacity), roundtrip_seconds_p99=0.001 + behind)

    return serve


def climbed(serve: Callable[[float, float], Step]) -> tuple[Climb, list[tuple[float, float]]]:
    climb, taken = Climb(BOUND), []
    while chosen := climb.next():
        taken.append(chosen)
        climb.took(serve(*chosen))
    return climb, taken


@pytest.mark.parametrize("capacity", [120.0, 900.0, 12_345.0, 80_000.0, 1_000_000.0])
def test_the_climb_ends_within_its_gap_of_what_the_server_can_do(capacity: float) -> None:
    climb, taken = climbed(served(capacity))
    assert climb.high is not None
    assert capacity / GAP**2 <= climb.low <= capacity * GAP
    assert climb.high <= GAP * climb.low
    assert len(taken) < 20
    assert taken[0][0] == RATE_FIRST


def test_a_step_that_was_only_late_once_is_repeated_and_a_step_that_fell_behind_is_not() -> None:
    climb = Climb(BOUND)
    climb.took(step(1000))
    late = step(4000, roundtrip_seconds_p99=0.5)
    climb.took(late)
    again = climb.next()
    assert again is not None
    assert again[0] == 4000
    climb.took(step(4000))
    assert climb.next() == (4000 * FACTOR, 1.0)
    climb.took(step(16_000, roundtrip_seconds_p99=0.5))
    climb.took(step(16_000, roundtrip_seconds_p99=0.4))
    assert climb.high == 16_000
    climb.took(step(8_000, answered_per_second=5_000, roundtrip_seconds_p99=0.5))
    assert climb.high == 8_000


def test_a_server_that_keeps_nothing_ends_the_climb_at_the_least_rate() -> None:
    climb, taken = climbed(lambda rate, seconds: step(rate, answered_per_second=0.0))
    assert climb.low == 0
    assert [rate for rate, _ in taken] == [1000, 250, 62.5]
    assert [rate * seconds >= 100 for rate, seconds in taken] == [True] * 3


def test_a_message_that_never_came_back_is_worse_than_any_bound() -> None:
    assert not step(1000, messages_unanswered=1).keeps_up()
    assert not step(1000, roundtrip_seconds_p99=None).is_kept(1e9)
    assert step(1000).is_kept(BOUND)


def test_the_hold_before_a_climb_is_idle_and_the_limits_provide_for_its_messages() -> None:
    assert (held_rate("auto"), most_rate("auto")) == (0.0, 1.0)
    assert (held_rate("0.5"), most_rate(0.5), held_rate(None)) == (0.5, 0.5, 0.0)


def sampled(
    server: float, swarm: float, idle: float, lag: float = 0.001, waiting: float = 0.25
) -> list[dict[str, Any]]:
    """Return samples at both ends of the seconds 10 to 12 of a climb, on two cores."""
    return [
        {
            "elapsed_seconds": at,
            "phase": "climb",
            "server_processes": 2,
            "swarm_processes": 2,
            "server_cpu_fraction_max": server,
            "swarm_cpu_fraction_max": swarm,
            "server_cpu_user_seconds": server * at,
            "server_cpu_system_seconds": 0.0,
            "swarm_cpu_user_seconds": swarm * at,
            "swarm_cpu_system_seconds": 0.0,
            "swarm_lag_seconds_max": lag,
            "cpu_user_seconds": (2 - idle) * at,
            "cpu_idle_seconds": idle * at,
            "psi_cpu_some_seconds": waiting * at,
        }
        for at in (10.01, 11.0, 12.1)
    ]


@pytest.mark.parametrize(
    ("samples", "side"),
    [
        (sampled(0.99, 0.5, 0.5), "server"),
        (sampled(0.3, 0.99, 0.7), "generator"),
        (sampled(0.3, 0.5, 1.2, lag=0.4), "generator"),
        (sampled(0.95, 0.95, 0.02), "machine"),
        (sampled(0.99, 0.99, 8.0), "server"),
        (sampled(0.99, 0.99, 8.0, lag=0.5), "generator"),
        (sampled(0.2, 0.2, 1.6), None),
        (sampled(0.2, 0.2, 0.4, waiting=0.4), None),
        (sampled(0.2, 0.2, 0.4, waiting=0.6), "machine"),
    ],
)
def test_the_step_beyond_the_knee_says_which_side_was_the_limit(samples: list[dict[str, Any]], side: str) -> None:
    kept = step(4000, started_seconds=5.0, ended_seconds=7.0)
    failed = step(8000, roundtrip_seconds_p99=0.7)
    found = knee_of([{"event": STEP_EVENT, **one.as_dict()} for one in (kept, failed)], samples, BOUND)
    assert found is not None
    assert (found["messages_per_second"], found["messages_per_second_per_connection"]) == (4000, 40)
    assert found["limited_by"] == side
    assert found["roundtrip_seconds_p99"] == 0.002
    assert [one["kept"] for one in found["steps"]] == [True, False]
    assert "700 ms at 8,000 messages/s" in found["why"]


def test_a_kept_step_says_what_a_message_cost_and_what_the_swarm_had_left() -> None:
    events = [{"event": STEP_EVENT, **step(4000).as_dict()}]
    found = knee_of(events, sampled(0.6, 0.4, 1.0), BOUND)
    assert found is not None
    assert found["limited_by"] is None
    assert found["server_cpu_seconds_per_message"] == pytest.approx(0.6 * 2.09 / 8000)
    assert found["swarm_headroom_fraction"] == pytest.approx(0.6)
    assert found["steps"][0]["cpu_pressure_fraction"] == pytest.approx(0.25)


def test_without_a_climb_there_is_no_knee_and_where_nothing_was_kept_it_has_no_rate() -> None:
    assert knee_of([{"event": "phase_started"}], [], BOUND) is None
    failed = step(1000, roundtrip_seconds_p99=0.7).as_dict()
    found = knee_of([{"event": STEP_EVENT, **failed}], [], BOUND)
    assert found is not None
    assert (found["messages_per_second"], found["roundtrip_seconds_p99"], len(found["steps"])) == (None, None, 1)
