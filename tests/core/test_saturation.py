"""Saturation: who was busy, told only when it lasted, and the generator asked before the server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.made import rising, samples
from wslab.core.saturation import (
    generator_limited,
    machine_busy,
    machine_idle,
    pairs_of,
    server_busy,
    server_idle,
    throttled,
)

SERVER_WAITS, SWARM_WAITS = {"server_cpu_throttled_fraction": 0.5}, {"swarm_cpu_throttled_fraction": 0.97}
# With what the rest of the machine's CPU time was spent on, so that it can be told who used it.
KNOWN = dict.fromkeys(("lab_cpu_seconds", "cpu_nice_seconds", "cpu_irq_seconds", "cpu_softirq_seconds"), 0.0)
FULL = {"cpu_user_seconds": rising(102.0, 2.0), "cpu_idle_seconds": rising(502.0, 0.0)}


@pytest.mark.parametrize(
    ("columns", "limited"),
    [
        ({}, False),
        ({"swarm_cpu_fraction_max": 0.95}, True),
        ({"swarm_cpu_fraction_max": 0.95, "server_cpu_fraction_max": 0.80}, False),
        ({"swarm_cpu_fraction_max": 0.95, "server_cpu_fraction_max": None}, False),  # Not measured is not idle.
        (
            {"swarm_cpu_fraction_max": [0.1, 0.95, 0.1, 0.1, 0.1, 0.95, 0.1, 0.1, 0.1, 0.95, 0.1]},
            True,
        ),  # half of verify
        ({"swarm_cpu_fraction_max": [0.1, 0.95, 0.1, 0.1, 0.1, 0.95, 0.1, 0.1, 0.1, 0.1, 0.1]}, False),
        (SWARM_WAITS, True),
        ({"swarm_cpu_throttled_fraction": 0.49}, False),
        (SWARM_WAITS | SERVER_WAITS, False),
        ({"swarm_cpu_fraction_max": 0.95, **SERVER_WAITS}, False),
        ({"swarm_lag_seconds_max": 0.5, **SERVER_WAITS}, False),
        ({"swarm_lag_seconds_max": 0.5}, True),
        ({"swarm_lag_seconds_max": 0.1}, False),
        ({"swarm_lag_seconds_max": 0.5, **FULL}, False),  # On a full machine everyone is late.
        ({"swarm_lag_seconds_max": 0.5, "swarm_cpu_user_seconds": rising(0.6, 1.5), **FULL}, True),
        # Where others fill the machine, it is not the swarm that is short of CPU.
        ({"swarm_cpu_fraction_max": 0.95, **KNOWN, **FULL}, False),
        # Where the kernel fills it with packets, which are handled in the time of who sends them, it is neither.
        ({"swarm_cpu_fraction_max": 0.95, **FULL, "cpu_softirq_seconds": rising(9.0, 4.0)}, False),
        ({"swarm_cpu_fraction_max": 0.95, **FULL, "cpu_softirq_seconds": rising(9.0, 0.5)}, True),
        ({"swarm_cpu_fraction_max": 0.95, **KNOWN, **FULL, **SWARM_WAITS}, True),
        (
            {
                "swarm_cpu_fraction_max": 0.95,
                "swarm_cpu_user_seconds": rising(0.6, 1.5),
                **KNOWN,
                **FULL,
            },
            True,
        ),
    ],
)
def test_the_generator_is_the_limit_when_it_is_busy_or_late_and_the_server_is_not(
    columns: dict[str, Any], limited: bool
) -> None:
    assert generator_limited(samples(**columns)) is limited


@pytest.mark.parametrize(
    ("columns", "busy"),
    [
        ({}, False),
        ({"server_cpu_fraction_max": 0.95}, True),
        ({"server_cpu_fraction_max": 0.95, "swarm_cpu_fraction_max": 0.95}, False),
        (SERVER_WAITS, True),
        ({"server_cpu_throttled_fraction": 0.49}, False),
        ({"swarm_cpu_fraction_max": 0.95, **SERVER_WAITS}, False),
        (SWARM_WAITS | SERVER_WAITS, False),
        ({"server_cpu_fraction_max": 0.95, **SWARM_WAITS}, False),
    ],
)
def test_the_server_is_busy_only_while_the_swarm_has_time_to_spare(columns: dict[str, Any], busy: bool) -> None:
    assert server_busy(samples(**columns)) is busy


def test_the_machine_is_busy_when_nothing_is_idle() -> None:
    assert machine_busy(samples()) is False
    assert machine_busy(samples(**FULL)) is True


def test_a_quota_that_both_ends_wait_for_is_their_machine() -> None:
    assert machine_busy(samples(**SERVER_WAITS)) is False
    assert machine_busy(samples(**SERVER_WAITS, **SWARM_WAITS)) is True


@pytest.mark.parametrize(
    ("test", "columns"),
    [
        (generator_limited, {"swarm_cpu_fraction_max": [0.95] * 5 + [0.1] * 6}),
        (server_busy, {"server_cpu_fraction_max": [0.95] * 5 + [0.1] * 6}),
        (machine_busy, {"cpu_idle_seconds": [502.0] * 5 + [502.0 + second for second in range(1, 7)]}),
    ],
)
def test_a_busy_ramp_says_nothing_of_a_hold(test: Callable[..., bool], columns: dict[str, Any]) -> None:
    rows = samples(**columns)
    assert test(rows)
    assert test(rows, ("ramp",))
    assert not test(rows, ("hold", "verify"))


def test_whether_a_quota_was_used_up_is_told_of_each_end_and_phase() -> None:
    rows = samples(server_cpu_throttled_fraction=[0.0] * 5 + [0.9] * 4 + [0.0] * 2)
    assert throttled(rows, "server")
    assert throttled(rows, "server", ("hold",))
    assert not throttled(rows, "server", ("ramp", "verify"))
    assert not throttled(rows, "swarm")


def test_an_interval_belongs_to_the_phase_that_it_began_in() -> None:
    rows = [{"phase": "start"}, {"phase": "ramp", "at": 1}, {"phase": "hold", "at": 2}, {"phase": "hold", "at": 3}]
    assert pairs_of(rows, "ramp") == [(rows[1], rows[2])]
    assert pairs_of(rows, "hold") == [(rows[2], rows[3])]


def test_the_share_of_idle_time_is_measured_between_two_samples() -> None:
    # One second of work and one of idle time each second.
    assert machine_idle(pairs_of(samples(), "hold")[0]) == pytest.approx(0.5)
    assert machine_idle(({}, {})) is None


def test_a_server_that_waits_is_idle() -> None:
    assert server_idle(samples(server_cpu_fraction_max=0.01), "hold") is True
    assert server_idle(samples(), "hold") is False
    assert server_idle(samples(server_cpu_fraction_max=0.01), "never") is False


def test_a_server_that_waits_for_its_quota_is_not_idle() -> None:
    assert server_idle(samples(server_cpu_fraction_max=0.01, **SERVER_WAITS), "hold") is False


def test_no_samples_is_no_verdict() -> None:
    assert not any(test([]) for test in (generator_limited, server_busy, machine_busy))
