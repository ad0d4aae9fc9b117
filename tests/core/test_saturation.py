"""Saturation: who was busy, told only when it lasted, and the generator asked before the server."""

from __future__ import annotations

from typing import Any

import pytest

from core.made import rising, samples
from wslab.core.saturation import generator_limited, machine_busy, machine_idle, pairs_of, server_busy, server_idle

FULL = {"cpu_user_seconds": rising(102.0, 2.0), "cpu_idle_seconds": rising(502.0, 0.0)}


@pytest.mark.parametrize(
    ("columns", "limited"),
    [
        ({}, False),
        ({"swarm_cpu_fraction_max": 0.95}, True),
        ({"swarm_cpu_fraction_max": 0.95, "server_cpu_fraction_max": 0.80}, False),
        ({"swarm_cpu_fraction_max": 0.95, "server_cpu_fraction_max": None}, False),  # Not measured is not idle.
        (
            {"swarm_cpu_fraction_max": [0.95, 0.1, 0.1, 0.1, 0.95, 0.1, 0.1, 0.1, 0.95, 0.1, 0.1]},
            True,
        ),  # half of verify
        ({"swarm_cpu_fraction_max": [0.95, 0.1, 0.1, 0.1, 0.95, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]}, False),
        ({"swarm_lag_seconds_max": 0.5}, True),
        ({"swarm_lag_seconds_max": 0.1}, False),
        ({"swarm_lag_seconds_max": 0.5, **FULL}, False),  # On a full machine everyone is late.
        ({"swarm_lag_seconds_max": 0.5, "swarm_cpu_user_seconds": rising(0.6, 1.5), **FULL}, True),
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
    ],
)
def test_the_server_is_busy_only_while_the_swarm_has_time_to_spare(columns: dict[str, Any], busy: bool) -> None:
    assert server_busy(samples(**columns)) is busy


def test_the_machine_is_busy_when_nothing_is_idle() -> None:
    assert machine_busy(samples()) is False
    assert machine_busy(samples(**FULL)) is True


def test_the_share_of_idle_time_is_measured_between_two_samples() -> None:
    # One second of work and one of idle time each second.
    assert machine_idle(pairs_of(samples(), "hold")[0]) == pytest.approx(0.5)
    assert machine_idle(({}, {})) is None


def test_a_server_that_waits_is_idle() -> None:
    assert server_idle(samples(server_cpu_fraction_max=0.01), "hold") is True
    assert server_idle(samples(), "hold") is False
    assert server_idle(samples(server_cpu_fraction_max=0.01), "never") is False


def test_no_samples_is_no_verdict() -> None:
    assert not any(test([]) for test in (generator_limited, server_busy, machine_busy))
